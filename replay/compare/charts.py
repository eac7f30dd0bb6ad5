"""Charts of comparisons: bars of rates and percentiles, trials as points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.show.charting import COLOURS, legend, legend_px
from replay.compare import words
from replay.compare.figures import BYTES_PER_S, NS, rate_name, response_name, time_name
from replay.compare.headline import OPS, TIERS
from replay.measure.summaries import TITLES
from replay.report.web import page
from replay.report.web.charts import LOG_TICKS
from replay.report.web.page import Chart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from replay.compare.document import ComparisonDocument, FigureDocument, SpreadDocument

_ROW_PX, _GAP_PX = 26, 46
_ROOM, _TEXT_PX = 1.05, 76
"""How far the axis goes beyond the figures, and what is kept behind it for them as text."""
Row = dict[str, Any]
_TIMES = (("service", lambda tier, op: f"{tier} {op}"), ("response", response_name))
"""Kinds of time, and what their figures are called."""


def of_tiers(comparison: ComparisonDocument) -> Iterator[tuple[str, list[Chart]]]:
    """Yield each tier with its charts: rates, P50, P99, and the way from P50 to P99.99."""
    figures = {figure.name: figure for figure in comparison.figures}
    for tier in TIERS:
        charts = [
            *_bars(comparison, "Throughput", [rate_name(tier, op) for op in OPS]),
            *(
                chart
                for word, name in _TIMES
                for quantile in ("p50", "p99")
                for chart in _bars(
                    comparison,
                    f"{TITLES[quantile]} of {word} time",
                    [time_name(name(tier, op), quantile) for op in OPS],
                )
            ),
            *(
                chart
                for op in OPS
                for chart in _curve(comparison, figures, f"{tier} {op}", f"{op.capitalize()}s")
            ),
        ]
        if charts:
            yield tier, charts


def _bars(comparison: ComparisonDocument, title: str, names: Sequence[str]) -> Iterator[Chart]:
    """Yield a chart of reads and writes of each side, if any side has such figures."""
    figures = [figure for figure in comparison.figures if figure.name in names]
    spreads = [spread for figure in figures for spread in figure.sides if spread is not None]
    if not any(spread.mean for spread in spreads):
        return
    unit = figures[0].unit
    assert unit in (BYTES_PER_S, NS)
    shown, factor = words.scale(max(spread.mean for spread in spreads), unit)
    bars = [
        bar
        for figure in figures
        for label, spread in _known(comparison, figure)
        for bar in [_bar(figure, label, spread, factor)]
    ]
    yield Chart(
        f"{title}, {shown}", _grouped(bars, shown, [side.label for side in comparison.sides])
    )


def _known(
    comparison: ComparisonDocument, figure: FigureDocument
) -> Iterator[tuple[str, SpreadDocument]]:
    for side, spread in zip(comparison.sides, figure.sides, strict=True):
        if spread is not None:
            yield side.label, spread


def _bar(figure: FigureDocument, label: str, spread: SpreadDocument, factor: float) -> Row:
    low, high = spread.ci95 or (spread.mean, spread.mean)
    return {
        "op": _op(figure.name),
        "side": label,
        "mean": spread.mean / factor,
        "low": low / factor,
        "high": high / factor,
        "text": words.marked(spread, figure.unit),
        "values": [value / factor for value in spread.values if value is not None],
    }


def _op(name: str) -> str:
    return next(f"{op}s" for op in OPS if f" {op} " in name)


def _grouped(bars: list[Row], unit: str, labels: Sequence[str]) -> Row:
    """Return bars side by side, the mean's interval as a line, trials as points.

    An interval that reaches far beyond the figures is cut at the chart's end.
    """
    import altair

    most = max(value for bar in bars for value in (bar["mean"], *bar["values"]))
    end = most * _ROOM
    for bar in bars:
        bar["from"], bar["to"] = bar["low"], min(bar["high"], end)
    points = [{"op": bar["op"], "side": bar["side"], "value": value}
              for bar in bars for value in bar["values"]]  # fmt: skip
    x: dict[str, Any] = {
        "title": unit,
        "scale": altair.Scale(
            domain=[0, end], nice=False, range=[0, {"expr": f"width - {_TEXT_PX}"}]
        ),
        "axis": altair.Axis(tickCount=5, labelOverlap=True),
    }
    rows = altair.Chart(altair.InlineData(values=bars)).encode(
        y=altair.Y("op:N", title=None, axis=altair.Axis(ticks=False, domain=False, labelPadding=6)),
        yOffset=altair.YOffset("side:N", sort=list(labels)),
    )
    colour = altair.Color(
        "side:N", sort=list(labels), scale=altair.Scale(range=COLOURS),
        legend=legend(labels),
    )  # fmt: skip
    parts = (
        rows.mark_bar(cornerRadiusEnd=2).encode(
            x=altair.X("mean:Q", **x), color=colour, tooltip=["side:N", "op:N", "text:N"]
        ),
        rows.mark_rule(strokeWidth=2, color="#808890").encode(x=altair.X("from:Q", **x), x2="to:Q"),
        rows.properties(data=altair.InlineData(values=points))
        .mark_point(
            filled=True, size=36, color="#f2f4f7", stroke="#30363d", strokeWidth=1, opacity=1
        )
        .encode(x=altair.X("value:Q", **x), tooltip=["side:N", "op:N", "value:Q"]),
        rows.mark_text(align="right", fontSize=11).encode(x=altair.value("width"), text="text:N"),
    )
    ops = len({bar["op"] for bar in bars})
    height = _GAP_PX + ops * _ROW_PX * len(labels) + legend_px(labels)
    return page.fitted(altair.layer(*parts), height=height)


def _curve(
    comparison: ComparisonDocument, figures: dict[str, FigureDocument], what: str, title: str
) -> Iterator[Chart]:
    """Yield the means of all percentiles of a time, a line per side."""
    named = [(TITLES[name], figures.get(time_name(what, name))) for name in TITLES]
    known = [(label, figure) for label, figure in named if figure is not None]
    spreads = [spread for _, figure in known for spread in figure.sides if spread is not None]
    if len(known) < 2 or not any(spread.mean for spread in spreads):
        return
    unit, factor = words.scale(max(spread.mean for spread in spreads), NS)
    rows = [
        {"percentile": label, "side": side, "value": max(spread.mean, 1.0) / factor,
         "text": words.marked(spread, NS),
         "samples": "fewer than 10" if spread.few_samples else "enough"}
        for label, figure in known
        for side, spread in _known(comparison, figure)
    ]  # fmt: skip
    import altair

    labels = [side.label for side in comparison.sides]
    base = altair.Chart(altair.InlineData(values=rows)).encode(
        x=altair.X("percentile:N", sort=list(TITLES.values()), title="percentile",
                   axis=altair.Axis(labelAngle=0)),
        y=altair.Y("value:Q", title=unit, scale=altair.Scale(type="log"),
                   axis=altair.Axis(tickCount=LOG_TICKS)),
        color=altair.Color("side:N", sort=labels, scale=altair.Scale(range=COLOURS),
                           legend=legend(labels)),
        tooltip=["side:N", "percentile:N", "text:N", "samples:N"],
    )  # fmt: skip
    drawn = base.mark_line() + base.mark_point(filled=True, size=50, opacity=1)
    yield Chart(
        f"{title}: service time by percentile, {unit}", page.fitted(drawn, 220 + legend_px(labels))
    )
