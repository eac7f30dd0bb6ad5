"""Types of configuration values: sizes, durations and rates with their units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kvtrace.arguments import changed
from kvtrace.errors import KvtraceError
from kvtrace.trace.schema import MAX_TIME_NS
from kvtrace.units import UNLIMITED, parse_bytes, parse_duration_ns, parse_rate_per_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


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
Bytes = Annotated[int, _parsed(parse_bytes), Field(ge=0, le=UNLIMITED)]
DurationNs = Annotated[int, _parsed(parse_duration_ns), Field(gt=0, le=MAX_TIME_NS)]
RatePerS = Annotated[float, _parsed(parse_rate_per_s), Field(ge=1e-9, le=1e12)]
Bandwidth = Annotated[int, _parsed(parse_bytes), Field(gt=0, le=UNLIMITED)]
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
