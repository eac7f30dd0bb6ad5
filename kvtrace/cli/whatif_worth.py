"""Loads of each combination against recomputing: their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.breakeven.answer import Timed
from kvtrace.cli.whatif_tables import short_number
from kvtrace.whatif.grid import Outcome, worth_figures

if TYPE_CHECKING:
    from kvtrace.whatif.answers import Answers


@dataclass(frozen=True, slots=True)
class WorthColumn:
    """A figure of each combination: its head with the unit, and what a terminal calls it."""

    head: str
    short: str
    value: Callable[[Outcome], float | None]


def columns(outcomes: Sequence[Outcome]) -> list[WorthColumn]:
    """Return the columns; those of GPU-seconds won only where a bandwidth was given."""
    shown = [
        WorthColumn("loads", "loads", _figure("loads")),
        WorthColumn("needed at P50 (GB/s)", "need P50", _figure("needed_bytes_per_s_p50", 1e9)),
        WorthColumn("flips at (GB/s)", "flips at", _figure("flip_bytes_per_s", 1e9)),
    ]
    if not any(isinstance(each.worth, Timed) for each in outcomes):
        recomputed = _figure("recomputed_gpu_s")
        return [*shown, WorthColumn("GPU-seconds to recompute", "recompute", recomputed)]
    return [
        *shown,
        WorthColumn("GPU-seconds saved", "saved", _figure("gpu_s_saved")),
        WorthColumn("GPU-seconds wasted", "wasted", _figure("gpu_s_wasted")),
    ]


def _figure(name: str, unit: float = 1) -> Callable[[Outcome], float | None]:
    def value(outcome: Outcome) -> float | None:
        figure = worth_figures(outcome.worth).get(name)
        return None if figure is None else figure / unit if unit != 1 else figure

    return value


def cells(outcomes: Sequence[Outcome], keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows for a terminal; heads of `keys`, which begin each row, aren't among."""
    shown = columns(outcomes)
    rows = [
        [
            *(str(each.options[key]) for key in keys),
            "-" if each.worth is None else each.worth.tier.label,
            *(_cell(column.value(each)) for column in shown),
        ]
        for each in outcomes
    ]
    return ["tier", *(column.short for column in shown)], rows


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else short_number(value)


def assumed(answers: Answers) -> list[str]:
    """Return a line per figure that the comparison rests on."""
    known = [each.worth for each in answers.outcomes if each.worth is not None]
    return (
        [f"assumed: {a.name}: {a.value} ({a.origin})" for a in known[0].assumptions]
        if known
        else []
    )
