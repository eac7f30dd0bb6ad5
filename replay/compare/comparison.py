"""Sides next to each other: figures, ratios, and whether they differ by more than the noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replay.compare import setup
from replay.compare.statistics import Spread, differs, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replay.compare.figures import Figure
    from replay.compare.sides import Side


@dataclass(frozen=True, slots=True)
class Entry:
    """One side's figure. `ratio`: to the first side's mean; `real`: beyond the noise, if known.

    `values`: of each trial, None of one that hasn't it; `few_samples`: whether a trial has a
    percentile with fewer than 10 samples beyond it.
    """

    spread: Spread
    ratio: float | None
    real: bool | None
    values: tuple[float | None, ...]
    few_samples: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One figure over all sides; None where a side doesn't have it."""

    figure: Figure
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that is side by side, and what makes it unfair."""

    sides: tuple[Side, ...]
    rows: tuple[Row, ...]
    cautions: tuple[str, ...]


def compare(sides: Sequence[Side]) -> Comparison:
    """Return the comparison of at least one side; ratios are to the first.

    Labels that several sides have are numbered.
    """
    sides = _told_apart(sides)
    names: dict[str, Figure] = {}
    for side in sides:
        for trial in side.trials:
            for figure in trial.figures:
                names.setdefault(figure.name, figure)
    rows = tuple(_row(figure, sides) for figure in names.values())
    return Comparison(tuple(sides), rows, tuple(_cautions(sides)))


def _told_apart(sides: Sequence[Side]) -> list[Side]:
    seen: dict[str, int] = {}
    apart = []
    for side in sides:
        seen[side.label] = seen.get(side.label, 0) + 1
        count = seen[side.label]
        label = side.label if count == 1 else f"{side.label} ({count})"
        apart.append(dataclasses.replace(side, label=label))
    return apart


def _row(figure: Figure, sides: Sequence[Side]) -> Row:
    base = sides[0].values(figure.name)
    entries: list[Entry | None] = []
    for at, side in enumerate(sides):
        of_trials = [trial.figure(figure.name) for trial in side.trials]
        known = [each for each in of_trials if each is not None]
        values = [each.value for each in known]
        if not values:
            entries.append(None)
            continue
        over_trials = spread(values)
        mean = spread(base).mean if base else 0.0
        compared = at > 0 and bool(base)
        entries.append(
            Entry(
                over_trials,
                over_trials.mean / mean if compared and mean else None,
                differs(base, values) if compared else None,
                tuple(None if each is None else each.value for each in of_trials),
                any(each.few_samples for each in known),
            )
        )
    return Row(figure, tuple(entries))


def _cautions(sides: Sequence[Side]) -> list[str]:
    cautions = list[str]()
    documents = [trial.document for side in sides for trial in side.trials
                 if trial.document is not None]  # fmt: skip
    if len({document.trace.sha256 for document in documents if document.kind == "replay"}) > 1:
        cautions.append("the sides replayed different traces: ratios also compare workloads")
    cautions += setup.cautions(sides)
    if any(len(side.trials) == 1 for side in sides) and len(sides) > 1:
        cautions.append("a side of one trial has no known noise: small ratios may be chance")
    theirs = (caution for side in sides for trial in side.trials for caution in trial.cautions)
    return [*cautions, *dict.fromkeys(theirs)]
