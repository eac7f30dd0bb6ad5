"""`kvtrace diff --report`: two traces side by side, as a page, a workbook or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kvtrace.cli import trace_charts as charts
from kvtrace.cli.forms import Forms
from kvtrace.cli.provenance import provenance
from kvtrace.cli.trace_page import lru_curves, number, shown
from kvtrace.tools.diff import Comparison, Difference
from kvtrace.tools.profile import Profile
from kvtrace.tools.profile_tier import TierProfile
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import GIB, S_NS, format_bytes, format_duration_ns
from replay.report.support import workbook
from replay.report.web import page
from replay.report.web.page import Cell, Chart

Info = dict[str, Any]
LEVEL = 0.01
"""Distributions that are no further apart than this aren't drawn."""
_QUANTITIES = {
    "size": ("size", charts.SIZE),
    "reuse_distance": ("reuse distance", charts.DISTANCE),
    "gap": ("gap to the next op", charts.WAIT),
}
_SHARE = "read share"
_DISTANCE = (
    "KS: Kolmogorov–Smirnov distance, the largest difference between the shares up to a value: 0 "
    "is equal, 1 apart. Of the read share (bytes read ÷ bytes moved) it is the difference."
)
_LRU = "One LRU cache in place of all tiers: which share of the objects asked for it would have."


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two traces. `label`: what legends and heads call it."""

    label: str
    info: Info
    profile: Profile


def forms(a: Side, b: Side, comparison: Comparison, fields: dict[str, Any]) -> Forms:
    """Return the report in each form; `fields` is what `--json` prints."""
    title = f"{a.label} and {b.label}"
    return Forms(
        page=lambda: page.whole(title, _body(title, a, b, comparison)),
        document=lambda: fields,
        sheets=lambda: _sheets(a, b, comparison),
    )


def sentences(a: Side, b: Side, differences: list[Difference]) -> list[str]:
    """Return how far the traces are apart, and in what most."""
    lines = [
        f"{side.label}: {side.info['rows']:,} ops over {format_duration_ns(_span_ns(side))}, "
        f"{format_bytes(_moved(side, Op.READ))} read, "
        f"{format_bytes(_moved(side, Op.WRITE))} written."
        for side in (a, b)
    ]
    if not differences:
        return ["Neither trace has a row.", *lines]
    most = max(differences, key=lambda each: each.ks)
    if not most.ks:
        return ["No quantity that is compared differs.", *lines]
    name = _QUANTITIES[most.quantity][0] if most.quantity in _QUANTITIES else _SHARE
    return [f"They differ most in tier {most.tier}'s {name}: distance {most.ks:.3f}.", *lines]


def _span_ns(side: Side) -> int:
    return side.profile.slices.last_ns - side.profile.slices.first_ns


def _moved(side: Side, op: Op) -> int:
    return sum(tier.moved(op) for tier in side.profile.tiers.values())


def _body(title: str, a: Side, b: Side, comparison: Comparison) -> Iterator[str]:
    lines = sentences(a, b, comparison.differences)
    headline = "".join(f'<p class="headline">{page.text(line)}</p>' for line in lines)
    yield f"<header><h1>{page.text(title)}</h1>{headline}</header>"
    apart = [chart for chart in _apart(a, b, comparison) if chart is not None]
    alike = _alike(comparison)
    note = f"No further apart than {LEVEL}, and not drawn: {', '.join(alike)}." if alike else ""
    yield page.section(
        "What differs", page.note(note) if note else "", page.charts(apart, 0),
        page.note(_DISTANCE), _distances(a, b, comparison.differences),
    )  # fmt: skip
    rates = [chart for chart in _rates(a, b) if chart is not None]
    yield page.section("Over time", page.charts(rates, len(apart)))
    drawn = len(apart) + len(rates)
    curves = charts.by_cache_size(
        "Hit ratio of one LRU cache by its size", lru_curves({s.label: s.profile for s in (a, b)})
    )
    if curves is not None:
        yield page.section("Hits", page.note(_LRU), page.charts([curves], drawn))
    yield page.section("Side by side", _figures(a, b))
    yield page.section("How they were made", _provenance(a, b))


def _apart(a: Side, b: Side, comparison: Comparison) -> Iterator[Chart | None]:
    """Yield both traces' distributions, those that are furthest apart first."""
    for each in sorted(comparison.differences, key=lambda each: -each.ks):
        if each.quantity in _QUANTITIES and each.ks > LEVEL:
            name, quantity = _QUANTITIES[each.quantity]
            pair = comparison.distributions[each.tier, each.quantity]
            lines = dict(zip((a.label, b.label), pair, strict=True))
            yield charts.distribution(
                f"Tier {each.tier}: {name} (KS {each.ks:.3f})", quantity, lines
            )


def _alike(comparison: Comparison) -> list[str]:
    return [
        f"{each.tier} {_QUANTITIES[each.quantity][0]}"
        for each in comparison.differences
        if each.quantity in _QUANTITIES and each.ks <= LEVEL
    ]


def _rates(a: Side, b: Side) -> Iterator[Chart | None]:
    for tier in _tiers(a, b):
        for op, word in ((Op.READ, "read"), (Op.WRITE, "written")):
            lines = {
                side.label: (side.profile.slices, _gb_per_s(side, side.profile.tiers[tier], op))
                for side in (a, b)
                if tier in side.profile.tiers and side.profile.lasts
            }
            yield charts.over_time(f"Tier {tier.label}: {word}, GB/s", "GB/s", lines)


def _gb_per_s(side: Side, tier: TierProfile, op: Op) -> Any:
    return tier.bytes[:, op] / (side.profile.slices.width_ns / S_NS) / 1e9


def _tiers(a: Side, b: Side) -> list[Tier]:
    return sorted({*a.profile.tiers, *b.profile.tiers})


_HEADS = ("tier", "quantity")


def _distances(a: Side, b: Side, differences: list[Difference]) -> str:
    heads = [*_HEADS, f"median of {a.label}", f"of {b.label}", f"mean of {a.label}",
             f"of {b.label}", "KS"]  # fmt: skip
    rows: list[list[Cell | str]] = []
    for each in sorted(differences, key=lambda each: -each.ks):
        name = _QUANTITIES[each.quantity][0] if each.quantity in _QUANTITIES else _SHARE
        cells = [_cell(of.get(figure), each.unit) for figure in ("p50", "mean")
                 for of in (each.a, each.b)]  # fmt: skip
        rows.append([each.tier, name, *cells, Cell(f"{each.ks:.3f}", each.ks)])
    return page.table(heads, rows, texts=2)


def _cell(value: float | None, unit: str) -> Cell:
    if value is None:
        return Cell("–")
    text = f"{value:.3f}" if unit == "ratio" else shown(value, f"_{unit}")
    return Cell(text, value)


def _figure_rows(a: Side, b: Side) -> Iterator[tuple[Any, ...]]:
    """Yield a name and both traces' figures."""
    infos = a.info, b.info
    for name, key in (("rows", "rows"), ("objects", "objects"), ("requests", "requests")):
        yield name, *(info[key] for info in infos)
    yield "seconds", *(info["duration_s"] for info in infos)
    yield "GiB", *(info["bytes"] / GIB for info in infos)
    yield "hit ratio", *(side.profile.hit_ratio for side in (a, b))
    for tier in _tiers(a, b):
        both = [info["tiers"].get(tier.label, {}) for info in infos]
        for name, key in (("ops", "ops"), ("objects", "objects")):
            yield f"{tier.label} {name}", *(of.get(key) for of in both)
        for name, key in (("GiB read", "read_bytes"), ("GiB written", "write_bytes")):
            yield f"{tier.label} {name}", *(of[key] / GIB if of else None for of in both)
        yield f"{tier.label} read ÷ written", *(of.get("read_write_ratio") for of in both)
        held = [side.profile.tiers.get(tier) for side in (a, b)]
        yield (
            f"{tier.label} most held, GiB",
            *(None if own is None else own.held_bytes_max / GIB for own in held),
        )


def _figures(a: Side, b: Side) -> str:
    heads = ["", a.label, b.label, f"{b.label} ÷ {a.label}"]
    rows: list[list[Cell | str]] = []
    for name, ours, theirs in _figure_rows(a, b):
        ratio = theirs / ours if ours and theirs is not None else None
        rows.append([name, number(ours), number(theirs), number(ratio)])
    return page.table(heads, rows)


def _provenance(a: Side, b: Side) -> str:
    """Return a row per fact of the headers; those that differ are marked, in words too."""
    ours, theirs = (dict(provenance(side.info)) for side in (a, b))
    head = "".join(f'<th scope="col">{page.text(name)}</th>' for name in ("", a.label, b.label))
    rows = []
    for name in dict.fromkeys((*ours, *theirs)):
        pair = ours.get(name, "–"), theirs.get(name, "–")
        cells = "".join(f'<td class="text">{page.text(value)}</td>' for value in pair)
        mark = ' <small class="mark">differs</small>' if pair[0] != pair[1] else ""
        rows.append(f'<tr><th scope="row">{page.text(name)}{mark}</th>{cells}</tr>\n')
    return (
        f'<div class="scroll" tabindex="0"><table class="facts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _sheets(a: Side, b: Side, comparison: Comparison) -> Iterator[workbook.Sheet]:
    lines = sentences(a, b, comparison.differences)
    yield "Summary", ("summary",), [(line,) for line in lines]
    names = ("p50", "p99", "mean", "count")
    heads = ("tier", "quantity", "unit", *(f"{side.label} {name}" for side in (a, b)
             for name in names), "KS", "Wasserstein")  # fmt: skip
    yield "Distances", heads, [
        (each.tier, each.quantity, each.unit,
         *(of.get(name) for of in (each.a, each.b) for name in names), each.ks, each.wasserstein)
        for each in comparison.differences
    ]  # fmt: skip
    yield "Side by side", ("figure", a.label, b.label), list(_figure_rows(a, b))
