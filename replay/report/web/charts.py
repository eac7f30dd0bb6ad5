"""Charts of one lane, from its document: binned data, never single ops."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from kvtrace.show.charting import COLOURS
from kvtrace.units import MS_NS, S_NS, format_bytes
from replay.measure.summaries import Distribution, merged
from replay.report.web.page import Chart, fitted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from replay.measure.figures import GroupDocument, HeatMap, LaneDocument, TimeSlices

HEIGHT = 220
OPS = ("read", "write")
_OVER_TIME = (("P50", "p50_ns"), ("P99", "p99_ns"))
_TIMES = (
    ("Service time", "service_distribution_ns"),
    ("Response time", "response_distribution_ns"),
)
_SCHEME = {"name": "viridis", "extent": [0.25, 1]}
"""Its darkest colours can't be seen on black."""
LOG_TICKS = 4
"""About as many lines of a grid; by default a logarithmic axis has nine per decade."""
_POINTS = 240
_NINES = (0.0, 0.9, 0.99, 0.999, 0.9999)
_NINES_LABELS = "datum.value <= 1 ? '0 %' : format(100 * (1 - 1 / datum.value), '.6~r') + ' %'"
Row = dict[str, Any]


def of_lane(
    lane: LaneDocument, groups: Sequence[GroupDocument], by_size: Sequence[GroupDocument]
) -> list[Chart]:
    """Return the charts of one lane that have something to show; `groups` are the lane's."""
    series = lane.time_slices
    drawn = [
        lines("Throughput, GB/s", _throughput(series), "GB/s"),
        lines("Ops in flight", _column(series, "in flight", series.in_flight_mean), "ops"),
        *(_over_time(series, title, column) for title, column in _OVER_TIME),
        *(_cdf(groups, title, field) for title, field in _TIMES),
        *(_heat(heat, counts, title) for heat, counts, title in _heats(lane.heat_map)),
        lines("Longest lateness, ms", _lateness(series), "ms", log=True),
        _sizes(by_size),
    ]
    return [chart for chart in drawn if chart is not None]


def interarrival(due: Distribution | None, submit: Distribution | None) -> list[Chart]:
    """Return a chart of the gaps between ops: those of the trace, and those that were kept."""
    rows = []
    for name, distribution in (("due", due), ("submitted", submit)):
        if distribution is not None and distribution.count:
            rows += [
                {"ms": max(upper, 1) / MS_NS, "share": share, "of": name}
                for upper, share in cumulative(distribution)
            ]
    if not rows:
        return []
    chart = _chart(rows).mark_line(interpolate="step-after").encode(
        x=_x("ms:Q", "gap, ms", log=True),
        y=_y("share:Q", "share of gaps", format="%"),
        color=_colour("of:N"),
    )  # fmt: skip
    return [Chart("Gaps between neighbouring ops", fitted(chart, HEIGHT))]


def cumulative(distribution: Distribution, points: int = _POINTS) -> list[tuple[int, float]]:
    """Return at most `points` pairs of a value and the share of values up to it."""
    total, reached, sums = sum(distribution.count), 0, []
    for count in distribution.count:
        reached += count
        sums.append(reached)
    picked = sorted({bisect_left(sums, total * part / points) for part in range(1, points + 1)})
    return [(distribution.upper[at], sums[at] / total) for at in picked]


def _throughput(series: TimeSlices) -> list[Row]:
    moved = (("read", series.read_bytes), ("write", series.write_bytes))
    return [
        row
        for name, values in moved
        if any(values)
        for row in _column(series, name, [value / series.width_s / 1e9 for value in values])
    ]


def _lateness(series: TimeSlices) -> list[Row]:
    if series.response_p99_ns is None:
        return []
    parts = (("all", series.lateness_max_ns), ("of the tool", series.host_lateness_max_ns))
    return [
        row
        for name, values in parts
        if values is not None
        for row, due in zip(
            _column(series, name, [max(value, 1000) / MS_NS for value in values]),
            series.due,
            strict=True,
        )
        if due
    ]


def _column(series: TimeSlices, name: str, values: Iterable[float]) -> list[Row]:
    return [
        {"s": begin / S_NS, "value": round(value, 6), "of": name}
        for begin, value in zip(series.begin_ns, values, strict=True)
    ]


def lines(
    caption: str, rows: list[Row], unit: str, *, log: bool = False, points: bool = False
) -> Chart | None:
    """Return `value` against `s`, a line per `of`, its `points` marked; None without rows."""
    if not rows:
        return None
    base = _chart(rows).encode(
        x=_x("s:Q", "seconds since the clock's start"),
        y=_y("value:Q", unit, log=log),
        color=_colour("of:N"),
        tooltip=["of:N", "s:Q", "value:Q"],
    )
    chart = base.mark_line(interpolate="step-after")
    if points:
        thin = base.mark_line(strokeWidth=1, opacity=0.4)
        chart = thin + base.mark_point(filled=True, size=18, opacity=0.9)
    return Chart(caption, fitted(chart, HEIGHT))


def _over_time(series: TimeSlices, title: str, column: str) -> Chart | None:
    """Return a percentile of service times over time, of each op where there were some."""
    rows = [
        row
        for op in OPS
        for row, count in zip(
            _column(series, f"{op}s", _ms(getattr(series, f"{op}_service_{column}"))),
            getattr(series, f"{op}s"),
            strict=True,
        )
        if count
    ]
    return lines(f"{title} of service time over time, ms", rows, "ms", log=True, points=True)


def _ms(values_ns: Iterable[int]) -> list[float]:
    """Return times in ms, none below what a logarithmic axis shows."""
    return [max(value, 100) / MS_NS for value in values_ns]


def _cdf(groups: Sequence[GroupDocument], title: str, field: str) -> Chart | None:
    """Return times against percentiles up to P99.99, a curve per op."""
    rows = []
    for op in OPS:
        times = merged(getattr(group, field) for group in groups if group.op == op)
        if times.count:
            rows += [
                {"nines": nines, "ms": max(value, 100) / MS_NS, "of": f"{op}s"}
                for nines, value in _tail(times)
            ]
    if not rows:
        return None
    import altair

    ticks = [1 / (1 - share) for share in _NINES]
    nines = altair.X(
        "nines:Q",
        title="percentile",
        scale=altair.Scale(type="log", domain=[1, 10_000], clamp=True),
        axis=altair.Axis(values=ticks, labelExpr=_NINES_LABELS, labelOverlap=True),
    )
    chart = _chart(rows).mark_line(interpolate="step-before").encode(
        x=nines,
        y=_y("ms:Q", "ms", log=True),
        color=_colour("of:N"),
        tooltip=["of:N", "ms:Q"],
    )  # fmt: skip
    return Chart(f"{title} by percentile, ms", fitted(chart, HEIGHT))


def _tail(distribution: Distribution) -> list[tuple[float, int]]:
    """Return (1 ÷ the share above, value): as many points per decade of nines."""
    total, reached, sums = sum(distribution.count), 0, []
    for count in distribution.count:
        reached += count
        sums.append(reached)
    steps = [10 ** (4 * step / _POINTS) for step in range(_POINTS + 1)]
    points = []
    for nines in steps:
        at = bisect_left(sums, total * (1 - 1 / nines))
        points.append((nines, distribution.upper[min(at, len(sums) - 1)]))
    return points


def _heats(heat: HeatMap | None) -> Iterator[tuple[HeatMap, list[list[int]], str]]:
    """Yield counts to be drawn, with what they are of: each op's where they were counted apart."""
    if heat is None:
        return
    for op, counts in heat.counts_by_op.items():
        if any(map(any, counts)):
            yield heat, counts, f"{op.capitalize()}s"
    if not heat.counts_by_op:
        yield heat, heat.counts, "Reads and writes"


def _heat(heat: HeatMap, counts: list[list[int]], title: str) -> Chart:
    """Return how many ops took how long when."""
    rows = [
        {
            "s": at * heat.width_s,
            "until": (at + 1) * heat.width_s,
            "ms": max(heat.edges_ns[row], 100) / MS_NS,
            "up to": heat.edges_ns[row + 1] / MS_NS,
            "ops": ops,
        }
        for at, column in enumerate(counts)
        for row, ops in enumerate(column)
        if ops
    ]
    import altair

    chart = _chart(rows).mark_rect().encode(
        x=_x("s:Q", "seconds since the clock's start"),
        x2="until:Q",
        y=_y("ms:Q", "service time, ms", log=True),
        y2="up to:Q",
        color=altair.Color(
            "ops:Q", scale=altair.Scale(type="log", scheme=_SCHEME), legend=altair.Legend()
        ),
        tooltip=["s:Q", "ms:Q", "up to:Q", "ops:Q"],
    )  # fmt: skip
    return Chart(f"{title}: how many took how long when", fitted(chart, HEIGHT))


def _sizes(groups: Sequence[GroupDocument]) -> Chart | None:
    rows = [
        {"size": format_bytes(group.size_class_bytes), "order": group.size_class_bytes,
         "of": group.op, "ops": group.ops, "GB": group.bytes / 1e9}
        for group in groups
        if group.size_class_bytes is not None and group.ops
    ]  # fmt: skip
    if not rows:
        return None
    import altair

    chart = _chart(rows).mark_bar().encode(
        x=altair.X("size:N", sort=altair.EncodingSortField("order"), title="size, from",
                   axis=altair.Axis(labelAngle=0)),
        y=altair.Y("sum(ops):Q", title="ops"),
        xOffset="of:N",
        color=_colour("of:N"),
        tooltip=["size:N", "of:N", "sum(ops):Q", "sum(GB):Q"],
    )  # fmt: skip
    return Chart("Sizes of reads and writes", fitted(chart, HEIGHT))


def _chart(rows: list[Row]) -> Any:
    import altair

    return altair.Chart(altair.InlineData(values=rows))


def _x(field: str, title: str, **more: Any) -> Any:
    import altair

    return altair.X(field, title=title, **_scaled(**more))


def _y(field: str, title: str, **more: Any) -> Any:
    import altair

    return altair.Y(field, title=title, **_scaled(**more))


def _scaled(*, log: bool = False, format: str | None = None) -> dict[str, Any]:
    import altair

    scale = altair.Scale(type="log") if log else altair.Scale(zero=True)
    axis = altair.Axis(format=format) if format else altair.Axis()
    if log:
        axis = altair.Axis(tickCount=LOG_TICKS)
    return {"scale": scale, "axis": axis}


def _colour(field: str) -> Any:
    import altair

    return altair.Color(field, scale=altair.Scale(range=COLOURS))
