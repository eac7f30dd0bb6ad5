"""Types of configuration values: sizes, durations and rates with their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kvtrace.arguments import changed
from kvtrace.errors import KvtraceError
from kvtrace.trace.schema import MAX_TIME_NS
from kvtrace.units import (
    UNLIMITED,
    exact_bytes,
    exact_duration,
    parse_bytes,
    parse_duration_ns,
    parse_rate_per_s,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Option:
    """What a field is as an option: of the command line, a configuration, a target.

    `help`: what it does, in the imperative, without its default. `panel`: its heading in the help.
    `name`: its name, where that isn't the field's without its unit. `takes`: one word for its
    values, where that doesn't follow from its type. `unset`: what it is when it isn't given, where
    the default can't say that.
    """

    help: str
    panel: str = ""
    name: str = ""
    takes: str = ""
    unset: str = ""


@dataclass(frozen=True, slots=True)
class Takes:
    """One word for the values of a type, and how one is written as text that is read back."""

    word: str
    text: Callable[[Any], str] = str


def _parsed(parse: Callable[[str], float]) -> BeforeValidator:
    def validate(value: object) -> object:
        try:
            return parse(value) if isinstance(value, str) else value
        except KvtraceError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


def _checked_warmup(text: str) -> str:
    if text != "steady" and not text.isdigit():
        try:
            parse_duration_ns(text)
        except KvtraceError as error:
            raise ValueError("takes a duration, a number of requests or `steady`") from error
    return text


MAX_COUNT = 1 << 20
"""Users, turns, cycles and the like: more is a mistake, and would need as much memory."""
MAX_TOKENS = 1 << 24
MAX_FACTOR = 1e9
Size = Annotated[int, Takes("SIZE", exact_bytes), _parsed(parse_bytes)]
Duration = Annotated[int, Takes("TIME", exact_duration), _parsed(parse_duration_ns)]
Bytes = Annotated[Size, Field(ge=0, le=UNLIMITED)]
DurationNs = Annotated[Duration, Field(gt=0, le=MAX_TIME_NS)]
RatePerS = Annotated[
    float, Takes("RATE", "{:g}/s".format), _parsed(parse_rate_per_s), Field(ge=1e-9, le=1e12)
]
Bandwidth = Annotated[Size, Field(gt=0, le=UNLIMITED)]
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Factor = Annotated[float, Field(gt=0, le=MAX_FACTOR)]
Warmup = Annotated[str, AfterValidator(_checked_warmup)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Tokens = Annotated[int, Field(gt=0, le=MAX_TOKENS)]
Range = tuple[Tokens, Tokens]
_Second = Annotated[float, Field(ge=0, le=MAX_FACTOR)]
Seconds = tuple[_Second, _Second]


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Return the fields that aren't their defaults."""
        return changed(self)
