"""Targets by name and options, as users write them: `TIER=NAME:key=value,...`, or a mapping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvtrace import plugins
from kvtrace.errors import UsageError, unknown_name
from kvtrace.trace.schema import Tier
from replay.targets import TargetSpec, spec
from replay.targets.support.declared import tiers_of

if TYPE_CHECKING:
    from collections.abc import Mapping

TARGET = "target"
"""Key of a target's name in a mapping."""
_BY_LABEL = {tier.label: tier for tier in Tier}


@dataclass(frozen=True, slots=True)
class Named:
    """A target that was asked for: its name, its options by key, and where it was named.

    `origins`: where an option comes from, if not from there.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "--target"
    origins: Mapping[str, str] = field(default_factory=dict)

    def with_option(self, key: str, value: Any, origin: str) -> Named:
        """Return it with one more option."""
        return Named(
            self.name, {**self.values, key: value}, self.origin, {**self.origins, key: origin}
        )

    def spec(self, tier: Tier) -> TargetSpec:
        """Return what is asked for of one tier. Raises UsageError for what isn't accepted."""
        return spec(self.name, (tier,), self.values, where=f"{self.origin}: target {self.name}")


Targets = dict[Tier, Named]


def parse_target(text: str) -> tuple[tuple[Tier, ...], Named]:
    """Return tiers and target of `[TIER[+TIER...]=]NAME[:key=value,...]`.

    Without a tier: all that the target can stand for. In a value `,,` is a comma; other characters
    stand for themselves. Raises UsageError.
    """
    labels, equals, _ = text.partition(":")[0].rpartition("=")
    named = parse_named(text[len(labels) + len(equals) :], "--target")
    if equals:
        return tuple(tier_of(label, "--target") for label in labels.split("+")), named
    return tiers_of(plugins.load(plugins.TARGET, named.name)), named


def parse_named(text: str, origin: str) -> Named:
    """Return the target of `NAME[:key=value,...]`. Raises UsageError."""
    name, colon, rest = text.partition(":")
    _check_name(name, origin)
    return Named(name, _values(rest, f"{origin}: target {name}") if colon else {}, origin)


def _check_name(name: str, where: str) -> None:
    known = plugins.names(plugins.TARGET)
    if name not in known:
        raise unknown_name("target", name, known, where=where)


def tier_of(label: object, where: str) -> Tier:
    """Return the tier of that name. Raises UsageError."""
    if label not in _BY_LABEL:
        raise unknown_name("tier", str(label), _BY_LABEL, where=where)
    return _BY_LABEL[str(label)]


def _values(text: str, where: str) -> dict[str, Any]:
    """Return the options of a target by key; one that is given several times has a list."""
    values: dict[str, Any] = {}
    for part in text.replace(",,", "\0").split(","):
        key, equals, value = part.replace("\0", ",").partition("=")
        if not equals or not key:
            raise UsageError(
                "not key=value", where=where, got=repr(part),
                accepted="NAME:key=value,key=value; a comma in a value is doubled",
            )  # fmt: skip
        values.setdefault(key, []).append(value)
    return {key: several[0] if len(several) == 1 else several for key, several in values.items()}


def from_section(tier: str, section: Any, origins: Mapping[str, str]) -> Named:
    """Return the target of a tier as a configuration has it: a mapping, or as `--target` takes it.

    `origins`: where values come from, by dotted key. Numbers are taken as text, as they would be on
    the command line. Raises UsageError.
    """
    key = f"targets.{tier}"
    where = origins.get(key) or next(
        (origin for other, origin in origins.items() if other.startswith(f"{key}.")), key
    )
    if isinstance(section, str):
        return parse_named(section, f"{where}: {key}")
    if not isinstance(section, dict) or TARGET not in section:
        raise UsageError(
            "names no target",
            where=f"{where}: {key}",
            got="nothing, which is what YAML's null means" if section is None else None,
            accepted=f"NAME, or {{{TARGET}: NAME, key: value}}; the target null in quotes",
        )
    name = "null" if section[TARGET] is None else str(section[TARGET])  # YAML's null
    _check_name(name, f"{where}: {key}")
    values = {k: text_of(v) for k, v in section.items() if k != TARGET and v is not None}
    own = {k: origins[f"{key}.{k}"] for k in values if f"{key}.{k}" in origins}
    return Named(name, values, f"{where}: {key}", own)


def text_of(value: Any) -> Any:
    """Return a number as the text that it is on the command line, other values as they are."""
    if isinstance(value, list):
        return [text_of(each) for each in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number else value
