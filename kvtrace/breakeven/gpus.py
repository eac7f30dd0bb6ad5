"""Peak FLOP/s of GPUs, from a table that says where each figure is from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from kvtrace.errors import UsageError, unknown_name
from kvtrace.files.documents import parse_toml

DATE = "2026-11-30"
"""When the table's figures were looked up."""


class Precision(StrEnum):
    """The type that a prefill multiplies in."""

    BF16 = "bf16"
    FP8 = "fp8"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU's dense peaks in FLOP/s; no fp8 where it has no units for it, or none is known.

    `source`: where they were read; `also`: a second place that has the same, or "".
    """

    name: str
    bf16_per_s: float
    fp8_per_s: float | None
    source: str
    also: str = ""

    def flops_per_s(self, precision: Precision) -> float:
        """Return the peak in a precision. Raises UsageError where none is known."""
        if precision == Precision.BF16:
            return self.bf16_per_s
        if self.fp8_per_s is None:
            raise UsageError(
                f"no fp8 figure of {self.name} is known", where="--precision", got="fp8",
                accepted="bf16", hint="or give the peak with --flops",
            )  # fmt: skip
        return self.fp8_per_s


@cache
def gpus() -> dict[str, Gpu]:
    """Return the table, by name."""
    path = files("kvtrace").joinpath("breakeven", "gpus.toml")
    rows = parse_toml(path.read_text(encoding="utf-8"), path)
    return {
        name: Gpu(name, float(row["bf16"]), row.get("fp8"), row["source"], row.get("also", ""))
        for name, row in rows.items()
    }


def gpu(name: str) -> Gpu:
    """Return the GPU of that name, in any case. Raises UsageError with the known ones."""
    table = gpus()
    if name.lower() not in table:
        error = unknown_name("GPU", name, table, where="--gpu")
        hint = f"{error.hint} or " if error.hint else ""
        raise UsageError(
            error.problem, where=error.where, got=error.got, accepted=error.accepted,
            hint=f"{hint}give its peak FLOP/s with --flops",
        )  # fmt: skip
    return table[name.lower()]
