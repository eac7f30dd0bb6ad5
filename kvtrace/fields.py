"""Types of configuration values: sizes, durations and rates with their units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kvtrace.errors import KvtraceError
from kvtrace.units import parse_bytes, parse_duration_ns, parse_rate_per_s

if TYPE_CHECKING:
    from collections.abc import Callable


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


Bytes = Annotated[int, _parsed(parse_bytes), Field(ge=0)]
DurationNs = Annotated[int, _parsed(parse_duration_ns), Field(gt=0)]
RatePerS = Annotated[float, _parsed(parse_rate_per_s), Field(gt=0)]
Bandwidth = Annotated[int, _parsed(parse_bytes), Field(gt=0)]
Warmup = Annotated[str, AfterValidator(_checked_warmup)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Range = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
Seconds = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
