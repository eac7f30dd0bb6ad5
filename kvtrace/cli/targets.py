"""Short forms: the options of a replay that name targets, or say more of those that are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ValidationError

from kvtrace import plugins
from kvtrace.arguments import first_flaw
from kvtrace.errors import UsageError, unknown_name
from kvtrace.fields import Option, Section
from kvtrace.options.described import by_key
from kvtrace.options.layers import OPTION
from kvtrace.trace.schema import Tier
from replay import TargetSpec
from replay.options import TARGETS, FsyncPolicy
from replay.targets.support import declared
from replay.targets.support.named import Named, Targets, parse_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from replay.targets import Target

_ACCEPTED = (
    "--target TIER=NAME[:key=value,...], --device PATH, --dir DIR, --cpu memory, --gpu cuda:N, "
    "--target null"
)


class ShortForms(Section):
    """Options that name targets, and options of the targets `file` and `dir`."""

    device: Annotated[
        Path | None, Option("Replay tier nvme on this block device or file.", TARGETS)
    ] = None
    size_bytes: declared.TargetSize = None
    target: Annotated[
        tuple[str, ...],
        Option(
            "Replay TIER on any target, as [TIER=]NAME[:key=value,...], e.g. cpu=memory; see "
            "`kvtrace list targets`. null: execute all tiers without I/O, to measure kvtrace "
            "itself.",
            TARGETS,
            takes="TARGET",
        ),
    ] = ()
    cpu: Annotated[
        str, Option("Replay tier cpu in memory, or not.", TARGETS, takes="memory|none")
    ] = "none"
    gpu: Annotated[
        str, Option("Replay tier gpu on cuda:N, or not.", TARGETS, takes="cuda:N|none")
    ] = "none"
    dir: Annotated[
        Path | None, Option("Replay tier nvme in this directory, one file per object.", TARGETS)
    ] = None
    fsync: declared.FolderFsync = FsyncPolicy.NONE
    trim: declared.Trim = False
    extent_align_bytes: declared.ExtentAlign = None
    allow_destroy: declared.AllowDestroy = None
    allow_signature: declared.AllowSignature = ()


OF_FILE = ("size", "trim", "allow_destroy", "allow_signature")
"""Options of target file that have a flag of their own."""


def target_specs(asked: Mapping[str, Any], named: Targets | None = None) -> tuple[TargetSpec, ...]:
    """Return the targets that the options ask for, on top of `named`. Raises UsageError."""
    targets = with_short_forms(asked, named or {})
    return tuple(each.spec(tier) for tier, each in sorted(targets.items()))


def with_short_forms(asked: Mapping[str, Any], named: Targets) -> Targets:
    """Return the targets with those that flags name in place of a configuration's.

    `asked`: the values of flags by key, None for one that wasn't given. Raises UsageError.
    """
    _check(asked)
    flags = _by_tier(_named_by(asked))
    targets = {tier: each for tier, each in named.items() if asked.get(tier.label) != "none"}
    targets |= flags
    if not targets:
        raise UsageError(
            "no target", accepted=_ACCEPTED, hint="say where the trace is to be replayed"
        )
    for key in OF_FILE:
        _add(targets, "file", key, asked.get(key))
    _add(targets, "dir", "fsync", asked.get("fsync"))
    _add(targets, None, "extent_align", asked.get("extent_align"))
    return targets


def paths_of(specs: Iterable[TargetSpec | Target]) -> tuple[Path, ...]:
    """Return where targets lie, which no output may be."""
    given = [each if isinstance(each, TargetSpec) else each.spec for each in specs]
    return tuple(dict.fromkeys(each.path for each in given if each.path is not None))


def _check(asked: Mapping[str, Any]) -> None:
    """Raise UsageError for a flag with a value that isn't accepted, naming it."""
    options = by_key(ShortForms)
    values = {
        options[key].field: value
        for key, value in asked.items()
        if key in options and value is not None
    }
    cpu, gpu, fsync = (asked.get(key) or "none" for key in ("cpu", "gpu", "fsync"))
    if cpu not in ("memory", "none"):
        raise unknown_name("target of tier cpu", cpu, ("memory", "none"), where="--cpu")
    if gpu != "none" and not re.fullmatch(r"cuda:\d+", gpu):
        raise unknown_name("target of tier gpu", gpu, ("cuda:0", "none"), where="--gpu")
    if fsync not in list(FsyncPolicy):
        raise unknown_name("fsync policy", fsync, list(FsyncPolicy), where="--fsync")
    try:
        ShortForms.model_validate(values)
    except ValidationError as error:
        flaw = first_flaw(error)
        option = next(each for each in options.values() if each.field == flaw.place[0])
        raise UsageError(flaw.problem, where=option.flag, got=flaw.got) from error


def _named_by(asked: Mapping[str, Any]) -> Iterator[tuple[tuple[Tier, ...], Named]]:
    """Yield what the flags that name targets stand for."""
    beside = ""
    for key, tier, name, value in (
        ("device", Tier.NVME, "file", "path"),
        ("dir", Tier.NVME, "dir", "path"),
        ("cpu", Tier.CPU, "memory", ""),
        ("gpu", Tier.GPU, "cuda", "unit"),
    ):
        if (given := asked.get(key)) not in (None, "none"):
            beside = f"--{key}"
            yield (tier,), Named(name, {value: given} if value else {}, beside)
    for text in asked.get("target") or ():
        tiers, each = parse_target(text)
        if beside and (each.name, tiers) == ("null", tuple(Tier)):
            raise UsageError(
                "--target null stands for all tiers",
                got=f"{beside} beside it",
                hint="take away one or the other",
            )
        yield tiers, each


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
    return f"--target {each.name}" if each.origin == "--target" else each.origin


_LACKING = {
    "size": ("--size is the size of --device", "say which device or file"),
    "trim": ("--trim needs a --device", "say which device or file"),
    "fsync": ("--fsync is for --dir", "name the folder"),
}


def _add(targets: Targets, name: str | None, key: str, value: Any) -> None:
    """Add an option that stands beside short forms to the target called `name`; None: to all.

    Permissions to destroy may lack such a target, other options not. Raises UsageError.
    """
    if value is None or value == []:
        return
    takers = [tier for tier, each in targets.items() if _takes(each, name, key)]
    off = value is False or value == "none"
    if not takers and key in _LACKING and not off:
        problem, hint = _LACKING[key]
        raise UsageError(problem, hint=hint)
    for tier in takers:
        each = targets[tier]
        if each.origin == "--target" and key in {given.replace("-", "_") for given in each.values}:
            raise UsageError(
                "given twice", where=f"--{key.replace('_', '-')}",
                got=f"also in --target {each.name}", hint="name it once",
            )  # fmt: skip
        kept = {given: old for given, old in each.values.items() if given.replace("-", "_") != key}
        targets[tier] = Named(each.name, kept, each.origin, each.origins).with_option(
            key, value, OPTION
        )


def _takes(each: Named, name: str | None, key: str) -> bool:
    if name is not None:
        return each.name == name
    return key in by_key(declared.options_of(plugins.load(plugins.TARGET, each.name)))
