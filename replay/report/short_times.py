"""The table of response times in the short report: the rows that matter, as lines of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from replay.measure.summaries import TITLES
from replay.report.support.cells import FEW_MARK, FEW_NOTE, short_count, short_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replay.measure.figures import GroupDocument
    from replay.measure.summaries import Percentiles
    from replay.result.document import ResultDocument

_SHOWN = ("p50", "p90", "p99", "p999")
_NAME, _CELL = 20, 9
"""Columns of a row's name and of each figure."""
_DIFFERS_RATIO = 1.1
"""Service times are shown where response times are more than 10 % longer."""
_WAITED_FOR = ("prefill", "decode")
"""Phases whose reads a request waits for."""


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one tier × phase × op, and how much they matter: the larger, the more."""

    weight: tuple[bool, float]
    rows: tuple[str, ...]
    few: bool


def blocks(result: ResultDocument) -> list[Block]:
    """Return the rows of every group of ops that has times, in the document's order."""
    tiers = len(result.lanes) > 1
    return [
        _block(group, group.service_ns, f"{group.tier} " if tiers else "")
        for lane in result.lanes
        for group in result.groups_of(lane)
        if group.service_ns is not None and group.service_ns.count
    ]


def _block(group: GroupDocument, service: Percentiles, tier: str) -> Block:
    main = service if group.response_ns is None else group.response_ns
    rows = [_row(f"{tier}{group.phase} {group.op}", main)]
    if service.max and _differ(main, service):  # a target that does nothing takes no time
        rows.append(_row("  service", service))
    waited_for = group.op == "read" and group.phase in _WAITED_FOR
    few = any(name in main.few_samples for name in _SHOWN)
    return Block((waited_for, main.count * (main.mean or main.p50)), tuple(rows), few)


def _differ(response: Percentiles, service: Percentiles) -> bool:
    """Return whether a figure of the row differs by more than 10 %."""
    pairs = [(response[name], service[name]) for name in _SHOWN]
    return any(one > other * _DIFFERS_RATIO for one, other in (*pairs, (response.max, service.max)))


def _row(name: str, times: Percentiles) -> str:
    """Return the cells of one summary as a line."""
    cells = [
        short_time(times[each]) + (FEW_MARK if each in times.few_samples else "") for each in _SHOWN
    ]
    return _line(name, [*cells, short_time(times.max), short_count(times.count)])


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<{_NAME}}" + "".join(f" {cell:>{_CELL - 1}}" for cell in cells)


def lines_min(parts: Sequence[Block], rows: int) -> int:
    """Return how many lines the table takes if it shows at least `rows` rows, or all."""
    total = sum(len(part.rows) for part in parts)
    return min(total, rows) + 2 if total else 1


def table(parts: Sequence[Block], lines: int, *, scheduled: bool) -> list[Text]:
    """Return head and rows in at most `lines` rows, and a line on what was left out.

    Reads that requests wait for come first, then what took longest in all.
    """
    title = "response time" if scheduled else "service time"
    if not parts:
        return [Text(f"{title:<{_NAME}}no completed read or write to time", style="dim")]
    chosen = _chosen(parts, lines - 2)
    head = _line(title, [*(TITLES[name] for name in _SHOWN), "max", "ops"])
    texts = [Text(head, style="dim")]
    texts += [Text(row) for part in chosen for row in part.rows[: max(1, lines - 2)]]
    return [*texts, *_below(len(parts) - len(chosen), few=any(part.few for part in chosen))]


def _chosen(parts: Sequence[Block], rows: int) -> list[Block]:
    """Return the blocks that matter most and fit `rows` rows, at least one, in their order."""
    kept: list[int] = []
    for at in sorted(range(len(parts)), key=lambda each: parts[each].weight, reverse=True):
        if len(parts[at].rows) <= rows or not kept:
            kept.append(at)
            rows -= len(parts[at].rows)
    return [parts[at] for at in sorted(kept)]


def _below(hidden: int, *, few: bool) -> list[Text]:
    notes = [FEW_NOTE] if few else []
    if hidden:
        notes.insert(0, f"{hidden} more group{'s' if hidden > 1 else ''} of ops in --full")
    return [Text("; ".join(notes), style="dim")] if notes else []
