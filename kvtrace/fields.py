"""Types of configuration values: sizes, durations and rates with their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
)
from pydantic_core import core_schema

from kvtrace.arguments import changed
from kvtrace.errors import KvtraceError
from kvtrace.trace.schema import MAX_TIME_NS
from kvtrace.units import (
    UNLIMITED,
    exact_bytes,
    exact_duration,
    exact_rate,
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
    """One word for a type's values, and how one is written as text and, if it must be, read.

    Limits of the number (`Field`) stand before it in an annotation.
    """

    word: str
    text: Callable[[Any], str] = str
    parse: Callable[[str], Any] | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Return the schema of a type whose values may be given as text."""
        return core_schema.no_info_before_validator_function(self._read, handler(source))

    def _read(self, value: object) -> object:
        if self.parse is None or not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except KvtraceError as error:
            raise ValueError(str(error)) from error


def _warmup_text(value: object) -> object:
    """Return a number of requests, as YAML has it, as the text that it is elsewhere."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


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
SIZE = Takes("SIZE", exact_bytes, parse_bytes)
TIME = Takes("TIME", exact_duration, parse_duration_ns)
RATE = Takes("RATE", exact_rate, parse_rate_per_s)
Bytes = Annotated[int, Field(ge=0, le=UNLIMITED), SIZE]
DurationNs = Annotated[int, Field(gt=0, le=MAX_TIME_NS), TIME]
RatePerS = Annotated[float, Field(ge=1e-9, le=1e12), RATE]
Bandwidth = Annotated[int, Field(gt=0, le=UNLIMITED), SIZE]
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Factor = Annotated[float, Field(gt=0, le=MAX_FACTOR)]
Warmup = Annotated[str, BeforeValidator(_warmup_text), AfterValidator(_checked_warmup)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Tokens = Annotated[int, Field(gt=0, le=MAX_TOKENS)]
Range = tuple[Tokens, Tokens]
_Second = Annotated[float, Field(ge=0, le=MAX_FACTOR)]
Seconds = tuple[_Second, _Second]


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values don't change."""

    # Help reads the fields, and must not wait for validators that no value needs.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Return the fields that aren't their defaults."""
        return changed(self)
