"""Charts of traces: values over time, distributions, what a cache of some size would serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvtrace.show.charting import COLOURS, legend, legend_px
from kvtrace.tools.distribution import Distribution
from kvtrace.tools.profile import Slices
from kvtrace.trace.schema import Tier
from kvtrace.units import GIB, S_NS
from replay.report.web import page
from replay.report.web.page import Chart

_HEIGHT_PX = 200
_POINTS = 150
_TICKS_MAX = 8
_COLOURS = {tier.label: COLOURS[tier] for tier in Tier}
_SMALL = "format(datum.value, '~r')"
_BYTES = (
    "datum.value >= 1099511627776 ? format(datum.value / 1099511627776, '.4~r') + ' TiB' : "
    "datum.value >= 1073741824 ? format(datum.value / 1073741824, '.4~r') + ' GiB' : "
    "datum.value >= 1048576 ? format(datum.value / 1048576, '.4~r') + ' MiB' : "
    "datum.value >= 1024 ? format(datum.value / 1024, '.4~r') + ' KiB' : "
    f"{_SMALL} + ' B'"
)
_TIMES = (
    "datum.value >= 1e9 ? format(datum.value / 1e9, '.4~r') + ' s' : "
    "datum.value >= 1e6 ? format(datum.value / 1e6, '.4~r') + ' ms' : "
    "datum.value >= 1e3 ? format(datum.value / 1e3, '.4~r') + ' µs' : "
    f"{_SMALL} + ' ns'"
)
_COUNTS = "format(datum.value, '~s')"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a distribution is of: the title of its axis, how its ticks read, and their base.

    `added`: what a value is moved by, so that none is 0 on a logarithmic axis.
    """

    title: str
    labels: str
    base: int = 10
    added: int = 0


SIZE = Quantity("bytes of an op", _BYTES, 2)
DISTANCE = Quantity("objects, itself included", _COUNTS, added=1)
WAIT = Quantity("time", _TIMES)


def over_time(
    caption: str,
    unit: str,
    lines: Mapping[str, tuple[Slices, NDArray[Any]]],
) -> Chart | None:
    """Return a line per label, a value per time slice; None if all of them are 0."""
    shown = {label: line for label, line in lines.items() if line[1].any()}
    rows = [row for label, line in shown.items() for row in _steps(label, *line)]
    if not rows:
        return None
    import altair

    chart = altair.Chart(altair.InlineData(values=rows)).mark_line(
        interpolate="step-after", strokeWidth=1.3
    )
    drawn = chart.encode(
        x=altair.X("s:Q", title="seconds since the trace's start", scale=altair.Scale(zero=False),
                   axis=altair.Axis(labelOverlap=True)),
        y=altair.Y("value:Q", title=unit, scale=altair.Scale(zero=True),
                   axis=altair.Axis(tickCount=5)),
        color=_colour(list(shown)),
        tooltip=["of:N", "s:Q", "value:Q"],
    )  # fmt: skip
    return _fitted(caption, drawn, list(shown))


def _steps(label: str, slices: Slices, values: NDArray[Any]) -> list[Row]:
    begins = np.append(slices.begin_ns(), slices.last_ns) / S_NS
    ends = np.append(values, values[-1]).tolist()
    return [
        {"s": begin, "value": float(f"{value:.6g}"), "of": label}
        for begin, value in zip(begins.tolist(), ends, strict=True)
    ]


def stacked(
    caption: str, slices: Slices, shares: Mapping[str, NDArray[Any]], every: int
) -> Chart | None:
    """Return shares of each part of the time, those of the labels on top of each other.

    A part is `every` slices; NaN is a part without any. None if all are 0.
    """
    begins = slices.begin_ns()[::every]
    ends = np.minimum(begins + every * slices.width_ns, slices.last_ns + 1)
    rows: list[Row] = []
    below = np.zeros(len(begins))
    for label, values in shares.items():
        for begin, end, low, share in zip(begins.tolist(), ends.tolist(), below.tolist(),
                                          values.tolist(), strict=True):  # fmt: skip
            if share > 0:
                rows.append({"s": begin / S_NS, "until": end / S_NS, "of": label, "share": share,
                             "low": low, "high": low + share})  # fmt: skip
        below = below + np.nan_to_num(values)
    if not rows:
        return None
    import altair

    domain = [slices.first_ns / S_NS, (slices.last_ns + 1) / S_NS]
    drawn = altair.Chart(altair.InlineData(values=rows)).mark_rect().encode(
        x=altair.X("s:Q", title="seconds since the trace's start",
                   scale=altair.Scale(domain=domain, nice=False),
                   axis=altair.Axis(labelOverlap=True)),
        x2="until:Q",
        y=altair.Y("low:Q", title="of objects asked for", scale=altair.Scale(domain=[0, 1]),
                   axis=altair.Axis(format="%", tickCount=5)),
        y2="high:Q",
        color=_colour([label for label in shares if any(row["of"] == label for row in rows)]),
        tooltip=["of:N", "s:Q", "until:Q", "share:Q"],
    )  # fmt: skip
    return _fitted(caption, drawn, list(shares))


def distribution(
    caption: str, quantity: Quantity, lines: Mapping[str, Distribution]
) -> Chart | None:
    """Return the share of numbers up to each, a line per label; None without any number."""
    shown = {label: numbers for label, numbers in lines.items() if numbers.count}
    if not shown:
        return None
    curves = {label: _points(numbers, quantity.added) for label, numbers in shown.items()}
    low, high = _room(
        min(values[0] for values, _ in curves.values()),
        max(values[-1] for values, _ in curves.values()),
        quantity.base,
    )
    rows = [
        {"value": value, "share": share, "of": label}
        for label, (values, shares) in curves.items()
        for value, share in zip([low, *values, high], [0.0, *shares, 1.0], strict=True)
    ]
    return _by_log(caption, rows, quantity, "cumulative share", (low, high), list(shown))


def _room(low: float, high: float, base: int) -> tuple[float, float]:
    """Return the powers of `base` beside the ends, so that both lie within an axis."""
    below, above = np.floor(np.log(low) / np.log(base)), np.ceil(np.log(high) / np.log(base))
    return float(base) ** (below - (low == base**below)), float(base) ** (
        above + (high == base**above)
    )


def _ticks(domain: tuple[float, float], base: int) -> list[float]:
    """Return some powers of `base` in a domain that ends at such."""
    powers = np.rint(np.log(domain) / np.log(base)).astype(int)
    step = -(-(powers[1] - powers[0]) // _TICKS_MAX)
    return [float(base) ** int(power) for power in range(powers[0], powers[1] + 1, step)]


def _points(numbers: Distribution, added: int) -> tuple[list[float], list[float]]:
    """Return some values, the first and the last among them, and the share up to each."""
    values, up_to = numbers.sorted()
    wanted = np.linspace(0, 1, _POINTS)
    at = np.unique(np.append(np.searchsorted(up_to, wanted - 1e-12), [0, len(values) - 1]))
    at = at[at < len(values)]
    return np.maximum(values[at] + added, 1).tolist(), np.minimum(up_to[at], 1).tolist()


def by_cache_size(
    caption: str, curves: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
) -> Chart | None:
    """Return hit ratios against bytes of a cache, a line per label; None without any."""
    shown = {label: curve for label, curve in curves.items() if len(curve[0])}
    if not shown:
        return None
    sizes = np.concatenate([size for size, _ in shown.values()])
    low, high = _room(float(sizes.min()), float(sizes.max()), 2)
    rows = [
        {"value": value, "share": share, "of": label}
        for label, (size, ratio) in shown.items()
        for value, share in zip([*size.tolist(), high], [*ratio.tolist(), ratio[-1]], strict=True)
    ]
    quantity = Quantity("size of the cache", _BYTES, 2)
    return _by_log(caption, rows, quantity, "hit ratio", (low, high), list(shown))


def _by_log(
    caption: str,
    rows: list[Row],
    quantity: Quantity,
    title: str,
    domain: tuple[float, float],
    labels: Sequence[str],
) -> Chart:
    import altair

    scale = altair.Scale(type="log", base=quantity.base, domain=list(domain), nice=False)
    axis = altair.Axis(labelExpr=quantity.labels, values=_ticks(domain, quantity.base),
                       labelOverlap=True)  # fmt: skip
    chart = altair.Chart(altair.InlineData(values=rows)).mark_line(
        interpolate="step-after", clip=True
    )
    drawn = chart.encode(
        x=altair.X("value:Q", title=quantity.title, scale=scale, axis=axis),
        y=altair.Y("share:Q", title=title, scale=altair.Scale(domain=[0, 1]),
                   axis=altair.Axis(format="%", tickCount=5)),
        color=_colour(labels),
        tooltip=["of:N", "value:Q", "share:Q"],
    )  # fmt: skip
    return _fitted(caption, drawn, labels)


def bars(caption: str, rows: Sequence[tuple[str, str, int]]) -> Chart | None:
    """Return GiB of (tier, what, bytes) as bars, side by side per tier; None if all are 0."""
    if not any(moved for _, _, moved in rows):
        return None
    import altair

    tiers = list(dict.fromkeys(tier for tier, _, _ in rows))
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
    values = [{"tier": tier, "of": kind, "GiB": moved / GIB} for tier, kind, moved in rows]
    drawn = altair.Chart(altair.InlineData(values=values)).mark_bar().encode(
        x=altair.X("tier:N", sort=tiers, title=None, axis=altair.Axis(labelAngle=0)),
        xOffset=altair.XOffset("of:N", sort=kinds),
        y=altair.Y("GiB:Q", title="GiB", axis=altair.Axis(tickCount=5)),
        color=_colour(kinds),
        tooltip=["tier:N", "of:N", "GiB:Q"],
    )  # fmt: skip
    return _fitted(caption, drawn, kinds)


def _colour(labels: Sequence[str]) -> Any:
    """Return a colour per label: a tier's is the same in all charts."""
    import altair

    colours = [_COLOURS.get(label, COLOURS[at % len(COLOURS)]) for at, label in enumerate(labels)]
    scale = altair.Scale(domain=list(labels), range=colours)
    return altair.Color("of:N", sort=list(labels), scale=scale, legend=legend(labels))


def _fitted(caption: str, drawn: Any, labels: Sequence[str]) -> Chart:
    alone = f" ({labels[0]})" if len(labels) == 1 and labels[0] not in caption else ""
    return Chart(f"{caption}{alone}", page.fitted(drawn, _HEIGHT_PX + legend_px(labels)))
