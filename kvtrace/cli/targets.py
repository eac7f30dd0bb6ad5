"""From the options of a replay that name targets to what they ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvtrace import plugins
from kvtrace.errors import UsageError, unknown_name
from kvtrace.trace.schema import Tier
from replay import TargetSpec
from replay.targets import spec
from replay.targets.support.declared import options_of, tiers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from replay.targets import Target

_BY_LABEL = {tier.label: tier for tier in Tier}
_ACCEPTED = (
    "--target TIER=NAME[:key=value,...], --device PATH, --dir DIR, --cpu memory, --gpu cuda:N, "
    "--target null"
)


@dataclass(frozen=True, slots=True)
class Named:
    """A target that was asked for: its name, its options by key, and the option that named it."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    option: str = "--target"

    @property
    def where(self) -> str:
        """What an error is about."""
        return f"{self.option}: target {self.name}"


Targets = dict[Tier, Named]


def target_specs(
    *,
    device: Path | None,
    size: int | None,
    target: Sequence[str],
    cpu: str,
    gpu: str,
    folder: Path | None,
    fsync: str,
    trim: bool,
    extent_align: int | None,
    allow_destroy: str | None,
    allow_signature: tuple[str, ...],
) -> tuple[TargetSpec, ...]:
    """Return the targets that the options ask for. Raises UsageError."""
    _check_words(cpu, gpu, fsync)
    named = list(_short_forms(device, folder, cpu, gpu))
    for text in target:
        tiers, each = parse_target(text)
        if named and (each.name, tiers) == ("null", tuple(Tier)):
            raise UsageError(
                "--target null stands for all tiers",
                got=f"{named[0][1].option} beside it",
                hint="take away one or the other",
            )
        named.append((tiers, each))
    targets = _by_tier(named)
    if not targets:
        raise UsageError(
            "no target", accepted=_ACCEPTED, hint="say where the trace is to be replayed"
        )
    if size is not None and size <= 0:
        raise _no_size(size)
    file: dict[str, Any] = {"size": size, "trim": trim or None, "allow-destroy": allow_destroy}
    file["allow-signature"] = allow_signature or None
    _add(targets, "file", file)
    _add(targets, "dir", {"fsync": None if fsync == "none" else fsync})
    _add(targets, None, {"extent-align": extent_align})
    return tuple(
        spec(each.name, (tier,), each.values, where=each.where)
        for tier, each in sorted(targets.items())
    )


def paths_of(specs: Iterable[TargetSpec | Target]) -> tuple[Path, ...]:
    """Return where targets lie, which no output may be."""
    given = [each if isinstance(each, TargetSpec) else each.spec for each in specs]
    return tuple(dict.fromkeys(each.path for each in given if each.path is not None))


def parse_target(text: str) -> tuple[tuple[Tier, ...], Named]:
    """Return tiers and target of `[TIER[+TIER...]=]NAME[:key=value,...]`.

    Without a tier: all that the target can stand for. In a value `,,` is a comma; other characters
    stand for themselves. Raises UsageError.
    """
    head, colon, rest = text.partition(":")
    labels, equals, name = head.rpartition("=")
    if name not in plugins.names(plugins.TARGET):
        raise unknown_name("target", name, plugins.names(plugins.TARGET), where="--target")
    if equals:
        tiers = tuple(_tier(label) for label in labels.split("+"))
    else:
        tiers = tiers_of(plugins.load(plugins.TARGET, name))
    return tiers, Named(name, _values(rest, name) if colon else {})


def _tier(label: str) -> Tier:
    if label not in _BY_LABEL:
        raise unknown_name("tier", label, _BY_LABEL, where="--target")
    return _BY_LABEL[label]


def _values(text: str, name: str) -> dict[str, Any]:
    """Return the options of a target by key; one that is given several times has a list."""
    values: dict[str, Any] = {}
    for part in text.replace(",,", "\0").split(","):
        key, equals, value = part.replace("\0", ",").partition("=")
        if not equals or not key:
            raise UsageError(
                "not key=value", where=f"--target: target {name}", got=repr(part),
                accepted="NAME:key=value,key=value; a comma in a value is doubled",
            )  # fmt: skip
        values.setdefault(key, []).append(value)
    return {key: several[0] if len(several) == 1 else several for key, several in values.items()}


def _check_words(cpu: str, gpu: str, fsync: str) -> None:
    if cpu not in ("memory", "none"):
        raise unknown_name("target of tier cpu", cpu, ("memory", "none"), where="--cpu")
    if gpu != "none" and not re.fullmatch(r"cuda:\d+", gpu):
        raise unknown_name("target of tier gpu", gpu, ("cuda:0", "none"), where="--gpu")
    if fsync not in ("none", "file", "dir"):
        raise unknown_name("fsync policy", fsync, ("none", "file", "dir"), where="--fsync")


def _short_forms(
    device: Path | None, folder: Path | None, cpu: str, gpu: str
) -> Iterable[tuple[tuple[Tier, ...], Named]]:
    """Yield what the options that name one target each stand for."""
    if device is not None:
        yield (Tier.NVME,), Named("file", {"path": device}, "--device")
    if folder is not None:
        yield (Tier.NVME,), Named("dir", {"path": folder}, "--dir")
    if cpu != "none":
        yield (Tier.CPU,), Named("memory", {}, "--cpu")
    if gpu != "none":
        yield (Tier.GPU,), Named("cuda", {"unit": gpu}, "--gpu")


def _by_tier(named: Iterable[tuple[tuple[Tier, ...], Named]]) -> Targets:
    """Return which target each tier gets. Raises UsageError where two want the same one."""
    targets: Targets = {}
    for tiers, each in named:
        for tier in tiers:
            if tier in targets:
                raise UsageError(
                    f"two targets for tier {tier.label}",
                    got=f"{_written(targets[tier])} and {_written(each)}",
                    hint="name one",
                )
            targets[tier] = each
    return targets


def _written(each: Named) -> str:
    return f"--target {each.name}" if each.option == "--target" else each.option


_LACKING = {
    "trim": ("--trim needs a --device", "say which device or file"),
    "fsync": ("--fsync is for --dir", "name the folder"),
}


def _no_size(size: object) -> UsageError:
    return UsageError(
        "--size is the size of --device", got=size, accepted="a size above 0, and a --device"
    )


def _add(targets: Targets, name: str | None, given: Mapping[str, Any]) -> None:
    """Add options that stand beside short forms to the target called `name`; None: to all.

    Permissions to destroy may lack such a target, other options not. Raises UsageError.
    """
    for key, value in given.items():
        if value is None:
            continue
        takers = [tier for tier, each in targets.items() if _takes(each, name, key)]
        if not takers and key == "size":
            raise _no_size(value)
        if not takers and key in _LACKING:
            problem, hint = _LACKING[key]
            raise UsageError(problem, hint=hint)
        for tier in takers:
            each = targets[tier]
            if key in {given_key.replace("_", "-") for given_key in each.values}:
                raise UsageError(
                    "given twice", where=f"--{key}", got=f"also in --target {each.name}",
                    hint="name it once",
                )  # fmt: skip
            targets[tier] = Named(each.name, {**each.values, key: value}, each.option)


def _takes(each: Named, name: str | None, key: str) -> bool:
    if name is not None:
        return each.name == name
    model = options_of(plugins.load(plugins.TARGET, each.name))
    return f"{key.replace('-', '_')}_bytes" in model.model_fields
