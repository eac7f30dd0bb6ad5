"""`kvtrace info --report`: what a trace looks like, as a page, a workbook or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvtrace.cli import trace_charts as charts
from kvtrace.cli.forms import Forms
from kvtrace.cli.provenance import details, provenance
from kvtrace.tools.profile import Profile
from kvtrace.tools.profile_document import distributions, document, figures, in_order
from kvtrace.tools.profile_tier import TierProfile
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import GIB, S_NS, format_bytes, format_count, format_duration_ns
from replay.report.support import workbook
from replay.report.web import page
from replay.report.web.page import Cell, Chart

Info = dict[str, Any]
_HIT_SLICES = 4
"""Time slices that are one in the chart of hits."""
_NO_TIME = "All rows have the same timestamp: there are no rates and no charts over time."
_NO_REQUESTS = (
    "The rows don't tell requests apart, so the trace has no hit ratio. What a cache would serve "
    "follows from its reads alone."
)
_RATES = (
    "Means over {slices:,} time slices of {width}. A line or chart that is missing is 0 throughout."
)
_HELD = "The most that each tier holds in each time slice, computed from the rows."
_HITS = (
    "Hits are reads that serve requests (phase decode); misses are objects computed instead and "
    "written to tier {top} (phase prefill). Times without a request are empty."
)
_OBJECTS = (
    "Cumulative distributions: the share at or below each value, exact to 0.2 %. Reuse distance: "
    "objects touched on the tier between two touches of one; reuse time: the time between them. A "
    "deleted object starts anew. Where lines coincide, the last tier's is on top."
)
_LRU = (
    "One LRU cache in place of all tiers: its share of the {asked} objects {by}, at a mean object "
    "size of {mean}."
)
_NOTHING_AGAIN = "No object is asked for twice: a cache of any size has no hits."
_SAMPLED = "Estimated from a sample: one object in {weight}, chosen by a hash of its key."
_QUANTITIES = {
    "read_size_bytes": "size of reads",
    "write_size_bytes": "size of writes",
    "reuse_distance_objects": "reuse distance, objects",
    "reuse_ns": "reuse time",
}


def forms(info: Info, profile: Profile) -> Forms:
    """Return the report in each form."""
    return Forms(
        page=lambda: page.whole(f"Trace {info['path']}", _body(info, profile)),
        document=lambda: info | {"profile": document(profile)},
        sheets=lambda: _sheets(info, profile),
    )


def sentences(info: Info, profile: Profile) -> list[str]:
    """Return what the trace is, in two or three sentences."""
    if not info["rows"]:
        return ["The trace has no rows."]
    first = (
        f"{info['rows']:,} ops on {len(info['tiers'])} "
        f"{'tier' if len(info['tiers']) == 1 else 'tiers'} ({', '.join(info['tiers'])}) over "
        f"{format_duration_ns(profile.slices.span_ns)}: "
        f"{format_bytes(profile.moved(Op.READ))} read, "
        f"{format_bytes(profile.moved(Op.WRITE))} written."
    )
    sentences = [first, _touched(info, profile)]
    if profile.hit_ratio is not None:
        sentences.append(
            f"{profile.hit_ratio:.1%} of the objects that requests asked for were in a tier; an "
            f"unlimited cache would have served {_unlimited(profile):.1%}."
        )
    return sentences


def _touched(info: Info, profile: Profile) -> str:
    keys = profile.keys
    about = "about " if keys.weight > 1 else ""
    requests = f" for {info['requests']:,} requests" if info["requests"] is not None else ""
    if not keys.objects:
        return f"It neither reads nor writes{requests}."
    return (
        f"It touches {about}{format_count(keys.objects)} objects of {about}"
        f"{format_bytes(keys.bytes)}{requests}."
    )


def _unlimited(profile: Profile) -> float:
    """Return the hit ratio of a cache without a limit."""
    return min(1.0, profile.keys.distances.count / max(1, profile.asked))


def _body(info: Info, profile: Profile) -> Iterator[str]:
    yield page.header(info["path"], sentences(info, profile))
    drawn = 0
    for title, notes, parts in _sections(profile):
        made = [chart for chart in parts if chart is not None]
        yield page.section(title, *map(page.note, notes), page.charts(made, drawn))
        drawn += len(made)
    yield page.section("Tiers", page.note(_node(info)), _tiers(info, profile))
    yield page.section("Rows", _cells(info))
    if info["outcomes"]:
        yield page.section("Ops that moved nothing or failed", _outcomes(info))
    yield page.section("Sizes and reuse in figures", _quantities(profile))
    folded = "".join(page.folded(title, page.code(text)) for title, text in details(info))
    yield page.section("How it was made", page.pairs(provenance(info)), folded)


def _node(info: Info) -> str:
    factors = {name: tier["node_factor"] for name, tier in info["tiers"].items()}
    scaled = ", ".join(f"{name} × {factor:g}" for name, factor in factors.items() if factor != 1)
    return (
        f"As the rows have it; the node holds more: {scaled}." if scaled else "As the rows have it."
    )


def _sections(profile: Profile) -> Iterator[tuple[str, list[str], list[Chart | None]]]:
    """Yield title, notes and charts of each section."""
    if not profile.rows:
        return
    if profile.lasts:
        width = format_duration_ns(profile.slices.width_ns)
        note = _RATES.format(slices=profile.slices.count, width=width)
        yield "Rates", [note], [*_rates(profile)]
        yield "Bytes held", [_HELD, *_derived(profile)], [*_held(profile)]
    else:
        yield "Rates", [_NO_TIME], []
    yield "Hits", _hit_notes(profile), [*_hits(profile)]
    yield "Sizes and reuse", [_OBJECTS, *_absent(profile)], [*_distributions(profile)]


def _rates(profile: Profile) -> Iterator[Chart | None]:
    width_s = profile.slices.width_ns / S_NS
    for tier, own in in_order(profile):
        yield _reads_and_writes(profile, f"Tier {tier.label}: ops/s", "ops/s", own.ops / width_s)
        rates = own.bytes / width_s / 1e9
        yield _reads_and_writes(profile, f"Tier {tier.label}: GB/s", "GB/s", rates)
    moved = [(tier.label, word, own.moved(op)) for tier, own in in_order(profile)
             for op, word in ((Op.READ, "read"), (Op.WRITE, "written"))]  # fmt: skip
    yield charts.bars("Read and written in all, GiB", moved)


def _reads_and_writes(
    profile: Profile, caption: str, unit: str, values: NDArray[np.float64]
) -> Chart | None:
    words = (("reads", Op.READ), ("writes", Op.WRITE))
    lines = {word: (profile.slices, values[:, op]) for word, op in words}
    return charts.over_time(caption, unit, lines)


def _held(profile: Profile) -> Iterator[Chart | None]:
    for tier, own in in_order(profile):
        line = {tier.label: (profile.slices, own.held_bytes() / GIB)}
        yield charts.over_time(f"Held on tier {tier.label}, GiB", "GiB", line)
    touched = {"touched": (profile.slices, profile.keys.touched_bytes() / GIB)}
    yield charts.over_time("Working set: unique bytes touched so far, GiB", "GiB", touched)


def _derived(profile: Profile) -> list[str]:
    derived = [f"{own.derived:,} on tier {tier.label}" for tier, own in in_order(profile)
               if own.derived]  # fmt: skip
    return [
        f"Objects read before any write, held from their first read: {', '.join(derived)}."
    ] * bool(derived) + [_SAMPLED.format(weight=profile.keys.weight)] * (profile.keys.weight > 1)


def _hit_notes(profile: Profile) -> list[str]:
    notes = []
    if not profile.by_request:
        notes.append(_NO_REQUESTS)
    elif profile.hit_ratio is None:
        notes.append(
            "No read serves a request and no object is computed, so there is no hit ratio."
        )
    else:
        top = "–" if profile.top is None else profile.top.label
        notes.append(_HITS.format(top=top))
    if not profile.keys.distances.count:
        return [
            *notes,
            "Nothing is asked for twice, so that a cache of any size would have nothing.",
        ]
    mean = format_bytes(profile.keys.bytes / max(1, profile.keys.objects))
    by = "asked for" if profile.by_request else "read"
    notes.append(_LRU.format(mean=mean, asked=format_count(profile.asked), by=by))
    return notes + [_SAMPLED.format(weight=profile.keys.weight)] * (profile.keys.weight > 1)


def _hits(profile: Profile) -> Iterator[Chart | None]:
    if profile.lasts and profile.hit_ratio:
        yield _hits_over_time(profile)
    if profile.keys.distances.count:
        curves = lru_curves({"one LRU cache": profile})
        yield charts.by_cache_size("Hit ratio of one LRU cache by its size", curves)


def _hits_over_time(profile: Profile) -> Chart | None:
    """Return each tier's share of what is asked for, in longer slices: requests are fewer."""
    every = _HIT_SLICES
    begins = np.arange(0, profile.slices.count, every)
    hits = np.add.reduceat(profile.hits, begins, axis=1)
    asked = hits.sum(axis=0) + np.add.reduceat(profile.computed, begins)
    with np.errstate(invalid="ignore"):
        shares = {tier.label: hits[tier] / asked for tier, _ in in_order(profile)}
    return charts.stacked("Hit ratio over time, by tier", profile.slices, shares, every)


def lru_curves(
    profiles: dict[str, Profile],
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return bytes of caches and their hit ratios, per label."""
    curves = {}
    for label, profile in profiles.items():
        sizes = profile.lru_sizes()
        mean = profile.keys.bytes / max(1, profile.keys.objects)
        curves[label] = (sizes * mean, profile.lru_hit_ratio(sizes))
    return curves


def _distributions(profile: Profile) -> Iterator[Chart | None]:
    tiers = in_order(profile)
    for op, title in ((Op.READ, "Sizes of reads"), (Op.WRITE, "Sizes of writes")):
        lines = {tier.label: own.sizes[op] for tier, own in tiers}
        yield charts.distribution(title, charts.SIZE, lines)
    distances = {tier.label: own.reuse_distance for tier, own in tiers}
    yield charts.distribution("Reuse distance, objects", charts.DISTANCE, distances)
    waits = {tier.label: own.reuse_ns for tier, own in tiers}
    yield charts.distribution("Reuse time", charts.WAIT, waits)


def _absent(profile: Profile) -> list[str]:
    """Return a sentence on each tier's distributions that have nothing to show."""
    notes = []
    for name, word in (("read_size_bytes", "No reads"), ("write_size_bytes", "No writes"),
                       ("reuse_ns", "No object touched twice")):  # fmt: skip
        tiers = [tier.label for tier, own in in_order(profile)
                 if not dict(distributions(own))[name].count]  # fmt: skip
        if tiers:
            notes.append(f"{word} on {', '.join(tiers)}.")
    return notes


_TIER_HEADS = (
    "tier", "ops", "GiB read", "GiB written", "read ÷ written", "objects", "hit ratio",
    "look-ups that hit", "in flight when recorded", "most held, GiB", "capacity, GiB",
    "GiB written per day", "drive writes per day",
)  # fmt: skip


def _tier_rows(info: Info, profile: Profile) -> Iterator[list[Any]]:
    capacities = {tier["name"]: tier["capacity_bytes"] for tier in info["header"]["tiers"]}
    for name, tier in info["tiers"].items():
        held = profile.tiers[Tier[name.upper()]].held_bytes_max
        capacity, per_day = capacities.get(name), tier["write_bytes_per_day"]
        recorded = (info["recorded_in_flight"] or {}).get(name, {})
        yield [
            name, tier["ops"], tier["read_bytes"] / GIB, tier["write_bytes"] / GIB,
            tier["read_write_ratio"], tier["objects"], (info["hit_ratio"] or {}).get(name),
            tier["lookup_hit_ratio"], recorded.get("mean"), held / GIB,
            None if capacity is None else capacity / GIB,
            None if per_day is None else per_day / GIB, tier["drive_writes_per_day"],
        ]  # fmt: skip


def _tiers(info: Info, profile: Profile) -> str:
    rows = [[row[0], *(number(value) for value in row[1:])] for row in _tier_rows(info, profile)]
    kept = [at for at in range(len(_TIER_HEADS)) if any(at == 0 or row[at].value is not None
                                                       for row in rows)]  # fmt: skip
    heads = [_TIER_HEADS[at] for at in kept]
    return page.table(heads, [[row[at] for at in kept] for row in rows], dense=len(heads) > 9)


def number(value: float | None) -> Cell:
    """Return a cell of a number; a dash where it isn't known."""
    if value is None:
        return Cell("–")
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    return Cell(f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}", value)


def _cells(info: Info) -> str:
    heads = ("tier", "phase", "op", "ops", "bytes", "smallest", "largest")
    rows: list[list[Cell | str]] = []
    for cell in info["cells"]:
        sizes = [Cell(format_bytes(cell[name]), cell[name])
                 for name in ("bytes", "size_min", "size_max")]  # fmt: skip
        rows.append([cell["tier"], cell["phase"], cell["op"], number(cell["ops"]), *sizes])
    return page.table(heads, rows, texts=3)


_OUTCOME_HEADS = ("tier", "op", "outcome", "ops", "bytes not moved")


def _outcome_rows(info: Info) -> Iterator[tuple[str, str, str, int, int]]:
    for each in info["outcomes"]:
        yield each["tier"], each["op"], each["outcome"], each["ops"], each["bytes"]


def _outcomes(info: Info) -> str:
    rows: list[list[Cell | str]] = [
        [tier, op, outcome, number(ops), Cell(format_bytes(size), size)]
        for tier, op, outcome, ops, size in _outcome_rows(info)
    ]
    return page.table(_OUTCOME_HEADS, rows, texts=3)


_QUANTITY_HEADS = ("tier", "quantity", "count", "mean", "P50", "P90", "P99", "max")


def _quantity_rows(profile: Profile) -> Iterator[tuple[str, str, dict[str, float | None]]]:
    for tier, own in in_order(profile):
        for name, numbers in distributions(own):
            if numbers.count:
                yield tier.label, name, figures(numbers)


def _quantities(profile: Profile) -> str:
    rows: list[list[Cell | str]] = []
    for tier, name, amounts in _quantity_rows(profile):
        count, *values = amounts.values()
        cells = [Cell(shown(value, name), value) for value in values]
        rows.append([tier, _QUANTITIES[name], number(count), *cells])
    return page.table(_QUANTITY_HEADS, rows, texts=2)


def shown(value: float | None, name: str) -> str:
    """Return a figure of a distribution in its unit."""
    if value is None:
        return "–"
    if name.endswith("bytes"):
        return format_bytes(value)
    return format_duration_ns(value) if name.endswith("_ns") else f"{value:,.0f}"


def _sheets(info: Info, profile: Profile) -> Iterator[workbook.Sheet]:
    yield "Summary", ("summary",), [(line,) for line in sentences(info, profile)]
    yield "Tiers", _TIER_HEADS, [tuple(row) for row in _tier_rows(info, profile)]
    names = ("tier", "phase", "op", "ops", "bytes", "size_min", "size_max")
    yield "Rows", names, [tuple(cell[name] for name in names) for cell in info["cells"]]
    if info["outcomes"]:
        yield "Moved nothing or failed", _OUTCOME_HEADS, list(_outcome_rows(info))
    yield "Over time", *_over_time(profile)
    quantities = [
        (tier, name, *amounts.values()) for tier, name, amounts in _quantity_rows(profile)
    ]
    yield "Sizes and reuse", _QUANTITY_HEADS, list(quantities)
    sizes = profile.lru_sizes()
    ratios = zip(sizes.tolist(), profile.lru_hit_ratio(sizes).tolist(), strict=True)
    yield "One LRU cache", ("objects", "hit ratio"), list(ratios)
    yield "Provenance", ("what", "is"), [*provenance(info), *details(info)]


def _over_time(profile: Profile) -> tuple[tuple[str, ...], list[workbook.Row]]:
    columns: dict[str, list[Any]] = {"begin_s": (profile.slices.begin_ns() / S_NS).tolist()}
    for tier, own in in_order(profile):
        columns |= {f"{tier.label} {name}": values for name, values in _values(own).items()}
        if profile.by_request:
            columns[f"{tier.label} hits"] = profile.hits[tier].tolist()
    if profile.by_request:
        columns["computed"] = profile.computed.tolist()
    columns["touched bytes"] = profile.keys.touched_bytes().tolist()
    return tuple(columns), list(zip(*columns.values(), strict=True))


def _values(tier: TierProfile) -> dict[str, list[int]]:
    ops = {f"{op.label}s": tier.ops[:, op].tolist() for op in (Op.READ, Op.WRITE, Op.DELETE)}
    moved = {f"{op.label} bytes": tier.bytes[:, op].tolist() for op in (Op.READ, Op.WRITE)}
    return {**ops, **moved, "held bytes": tier.held_bytes().tolist()}
