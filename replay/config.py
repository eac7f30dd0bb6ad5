"""The configuration of a replay: options and targets from a file, `--set` and flags."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from kvtrace import plugins
from kvtrace.arguments import first_flaw, invalid
from kvtrace.errors import UsageError, unknown_name
from kvtrace.options.described import by_key, describe, wrongly_switched
from kvtrace.options.layers import OPTION, Layers, as_yaml
from replay.ops.contract import Fsync
from replay.options import ReplayOptions
from replay.result.invalid import CODES
from replay.targets import TargetSpec
from replay.targets.support.declared import options_of
from replay.targets.support.named import TARGET, Targets, from_section, text_of, tier_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from kvtrace.arguments import Flaw
    from kvtrace.options.described import Described
    from kvtrace.trace.schema import Tier
    from replay.targets import Target
    from replay.targets.support.named import Named

TARGETS = "targets"
_LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Given:
    """What was given, by key: options, and targets by tier. `origins`: where each comes from."""

    options: dict[str, Any]
    targets: Targets
    origins: dict[str, str]
    model: type[ReplayOptions] = ReplayOptions


@dataclass(frozen=True, slots=True)
class Resolved:
    """Targets and options of a run, and where each value comes from that isn't a default."""

    targets: tuple[TargetSpec, ...]
    options: ReplayOptions
    origins: dict[str, str]

    def as_yaml(self) -> str:
        """Return all of it as YAML that can be read again, each value with its origin."""
        values = {
            option.key: _plain(option, getattr(self.options, option.field))
            for option in describe(type(self.options))
        }
        if self.options.limit_ns is not None:
            values[_LIMIT] = by_key(ReplayOptions)["settle"].text.text(self.options.limit_ns)
        values[TARGETS] = {
            tier.label: _section(spec) for spec in self.targets for tier in spec.tiers
        }
        return as_yaml(values, self.origins)


def read(
    file: str | os.PathLike[str] | None,
    sets: Iterable[str],
    options: Mapping[str, Any],
    model: type[ReplayOptions] = ReplayOptions,
) -> Given:
    """Merge a YAML file, `sets` and options, in that order.

    `sets`: `key=value` or `targets.TIER.key=value`, value in YAML. `options`: by key; None is left
    out. Raises UsageError for a key that isn't known, with the nearest one, and for a target.
    """
    layers = Layers()
    if file is not None:
        layers.read(str(file))
    layers.set(sets)
    layers.options(options)
    data = {key.replace("-", "_"): value for key, value in layers.data.items()}
    origins = {_normal(key): origin for key, origin in layers.origins.items()}
    sections = data.pop(TARGETS, None) or {}
    if not isinstance(sections, dict):
        raise UsageError(
            "not a mapping from tiers to targets",
            where=f"{origins.get(TARGETS, 'configuration')}: {TARGETS}",
            got=repr(sections),
            accepted="{nvme: {target: NAME, key: value}}, or {nvme: NAME}",
        )
    known = by_key(model)
    for key in data:
        if key not in known:
            origin = origins.get(key, "configuration")
            raise unknown_name("key", key, [*known, TARGETS], where=origin)
    targets = {
        tier_of(label, TARGETS): from_section(label, section, origins)
        for label, section in sections.items()
    }
    return Given(data, targets, origins, model)


def _normal(key: str) -> str:
    head, dot, rest = key.partition(".")
    return head.replace("-", "_") + dot + rest


def resolve(given: Given, targets: Targets) -> Resolved:
    """Return the run that was asked for, on these targets. Raises UsageError."""
    specs = tuple(named.spec(tier) for tier, named in sorted(targets.items()))
    origins = {key: origin for key, origin in given.origins.items() if not _of_target(key)}
    for tier, named in targets.items():
        origins |= _origins(tier, named)
    return Resolved(specs, options(given, specs), origins)


def options(given: Given, targets: Iterable[TargetSpec | Target] = ()) -> ReplayOptions:
    """Return the options of a run on some targets. Raises UsageError that names a wrong one."""
    known, values = by_key(given.model), {}
    for key, value in given.options.items():
        option = known[key]
        if wrongly_switched(option, value):
            raise UsageError(
                "isn't yes or no", where=_where(given, key), got=value, accepted=option.takes
            )
        number_as_text = option.text.word in ("TIME", "SIZE")
        values[_LIMIT if key == _LIMIT else option.field] = (
            text_of(value) if number_as_text else _listed(option, value)
        )
    codes = values.get("accept")
    for code in codes if isinstance(codes, list | tuple) else ():
        if code not in CODES:
            raise unknown_name("reason", str(code), CODES, where=_where(given, "accept"))
    asked = [each if isinstance(each, TargetSpec) else each.spec for each in targets]
    values["trim"] = any(spec.trim for spec in asked)
    values["fsync"] = max((spec.fsync for spec in asked), default=Fsync.NONE).name.lower()
    try:
        return given.model(**values)
    except UsageError as error:
        if (cause := invalid(error)) is None:
            raise
        raise _refusal(given, first_flaw(cause)) from error


def _refusal(given: Given, flaw: Flaw) -> UsageError:
    if not flaw.place:  # several options together
        return UsageError(flaw.problem)
    field = flaw.place[0]
    keys = {option.field: key for key, option in by_key(given.model).items()} | {"limit_ns": _LIMIT}
    where = _where(given, keys[field])
    if field == "limit_ns" and flaw.problem.startswith("not a duration"):
        return UsageError(
            "neither rows nor a time", where=where, got=repr(flaw.given),
            accepted="e.g. 1000 or 60s",
        )  # fmt: skip
    return UsageError(flaw.problem, where=where, got=flaw.got)


def _listed(option: Described, value: Any) -> Any:
    return [value] if option.repeated and isinstance(value, str) else value


def _where(given: Given, key: str) -> str:
    """Return how a key was written: as a flag, or in a file or `--set`."""
    origin = given.origins.get(key, OPTION)
    return f"--{key.replace('_', '-')}" if origin == OPTION else f"{origin}: {key}"


def _of_target(key: str) -> bool:
    return key.split(".")[0] == TARGETS


def _origins(tier: Tier, named: Named) -> dict[str, str]:
    """Return where a target's name and options come from, by dotted key."""
    key = f"{TARGETS}.{tier.label}"
    place = named.origin.removesuffix(f": {key}")
    own = {
        f"{key}.{option.replace('-', '_')}": named.origins.get(option, place)
        for option in named.values
    }
    return {f"{key}.{TARGET}": place, **own}


def _section(spec: TargetSpec) -> dict[str, Any]:
    """Return a target as a configuration has it."""
    model = options_of(plugins.load(plugins.TARGET, spec.name))
    values: dict[str, Any] = {TARGET: spec.name}
    for option in describe(model):
        given = spec.options if option.field in spec.options else None
        value = getattr(spec, option.field) if given is None else given[option.field]
        values[option.key] = _plain(option, value)
    return values


def _plain(option: Described, value: Any) -> Any:
    """Return a value as YAML has it: sizes and times as text with their unit, words as they are."""
    if isinstance(value, Fsync):
        return value.name.lower()
    if value is None or isinstance(value, bool):
        return value
    if option.text.word:
        return option.text.text(value)
    if isinstance(value, tuple | list):
        return [str(each) for each in value]
    value = value.value if isinstance(value, Enum) else value
    return value if type(value) in (int, float, str) else str(value)
