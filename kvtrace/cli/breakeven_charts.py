"""Charts of a break-even: needed bandwidth, loads against recomputing, times to first token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.breakeven.answer import Timed, Workload
from kvtrace.breakeven.curve import Curve
from kvtrace.cli.breakeven_tables import WAYS
from kvtrace.show.charting import COLOURS, GREYS, legend, legend_px
from replay.report.web import page
from replay.report.web.page import Chart

if TYPE_CHECKING:
    from kvtrace.breakeven.ask import Answer

POINTS_MAX = 2_000
"""Requests that a chart shows; of more, as many spread evenly over the run."""
_HEIGHT_PX, _STEPS = 230, 200
_FASTER, _SLOWER, _EVEN = "load faster", "recompute faster", "equal"
Row = dict[str, Any]


def charts(answer: Answer) -> list[Chart]:
    """Return the charts of an answer."""
    return list(_drawn(answer))


def _drawn(answer: Answer) -> Iterator[Chart]:
    if isinstance(answer, Curve):
        yield _lengths(answer)
        return
    if isinstance(answer, Timed):
        yield _against(answer)
        yield _first_token(answer)
    yield _needed(answer)


def _lengths(answer: Curve) -> Chart:
    rows = [{"x": record["tokens"], "y": record["needed_bytes_per_s"] / 1e9, "of": "needed"}
            for record in answer.records()]  # fmt: skip
    labels = ["needed"]
    if answer.drive_bytes_per_s is not None:
        labels.append("given")
        rows += [{"x": int(tokens), "y": answer.drive_bytes_per_s / 1e9, "of": "given"}
                 for tokens in (answer.tokens[0], answer.tokens[-1])]  # fmt: skip
    return _lines("Bandwidth above which loading a prefix is faster", rows, labels,
                  "tokens of the prefix", "GB/s", log_x=True, log_y=True)  # fmt: skip


def _needed(answer: Workload) -> Chart:
    labels = ["needed"]
    needed = answer.needed_bytes_per_s / 1e9
    rows = _shares(needed[np.isfinite(needed)], "needed")
    if isinstance(answer, Timed):
        labels.append("measured" if answer.measured else "given")
        rows += _shares(answer.loads.moved_bytes / answer.load_s / 1e9, labels[-1])
    return _lines("Loads by bandwidth: share at or below", rows, labels, "GB/s", "of loads",
                  log_x=True, share=True)  # fmt: skip


def _first_token(answer: Timed) -> Chart:
    rows = [row for way, times in answer.ttft_s.items() for row in _shares(times, WAYS[way])]
    return _lines("Time to first token of requests that load: share at or below", rows,
                  list(WAYS.values()), "s", "of requests", log_x=True, share=True)  # fmt: skip


def _shares(values: Any, label: str) -> list[Row]:
    """Return points of a cumulative distribution."""
    if not len(values):
        return []
    at = np.linspace(0, 1, min(_STEPS, len(values)))
    bounds = np.quantile(values, at)
    return [{"x": float(f"{x:.6g}"), "y": float(y), "of": label}
            for x, y in zip(bounds, at, strict=True) if x > 0]  # fmt: skip


def _lines(
    caption: str, rows: list[Row], labels: Sequence[str], x: str, y: str, *,
    log_x: bool = False, log_y: bool = False, share: bool = False,
) -> Chart:  # fmt: skip
    import altair

    drawn = altair.Chart(altair.InlineData(values=rows)).mark_line(strokeWidth=1.6).encode(
        x=altair.X("x:Q", title=x, scale=_scale(log_x), axis=_axis("~s" if x[0] == "t" else "~g")),
        y=altair.Y("y:Q", title=y, scale=_scale(log_y), axis=_axis("%" if share else "~g")),
        color=_colour(labels, COLOURS),
        tooltip=["of:N", "x:Q", "y:Q"],
    )  # fmt: skip
    height = _HEIGHT_PX + legend_px(labels)
    return Chart(caption, page.fitted(drawn, height))


def _scale(log: bool) -> Any:
    import altair

    return altair.Scale(type="log", nice=False) if log else altair.Scale(zero=True)


def _axis(form: str) -> Any:
    import altair

    return altair.Axis(format=form, tickCount=6, labelOverlap=True)


def _colour(labels: Sequence[str], colours: Sequence[str]) -> Any:
    import altair

    scale = altair.Scale(domain=list(labels), range=list(colours[: len(labels)]))
    return altair.Color("of:N", sort=list(labels), scale=scale, legend=legend(labels))


def _against(answer: Timed) -> Chart:
    """Return each request as a point: its load over what recomputing takes."""
    import altair

    recompute, load = answer.loads.recompute_s, answer.load_s
    known = np.flatnonzero(recompute > 0)
    at = known[np.linspace(0, len(known) - 1, min(POINTS_MAX, len(known))).astype(int)]
    rows: list[Row] = [
        {"x": float(f"{recompute[i]:.6g}"), "y": float(f"{load[i]:.6g}"),
         "of": _FASTER if load[i] < recompute[i] else _SLOWER}
        for i in at.tolist()
    ]  # fmt: skip
    ends = [float(edge(recompute[at])) for edge in (np.min, np.max)] if len(at) else []
    line = [{"x": end, "y": end, "of": _EVEN} for end in ends]
    labels = [_FASTER, _SLOWER, _EVEN]
    colour = _colour(labels, [COLOURS[2], COLOURS[1], GREYS[0]])
    axes = {
        "x": altair.X("x:Q", title="recompute, s", scale=_scale(True), axis=_axis("~g")),
        "y": altair.Y("y:Q", title="load, s", scale=_scale(True), axis=_axis("~g")),
    }
    points = altair.Chart(altair.InlineData(values=rows)).mark_point(
        filled=True, size=22, opacity=0.6
    ).encode(**axes, color=colour, tooltip=["of:N", "x:Q", "y:Q"])  # fmt: skip
    even = altair.Chart(altair.InlineData(values=line)).mark_line(strokeDash=[4, 3]).encode(
        **axes, color=colour
    )  # fmt: skip
    caption = "Each request: time to load its hits over time to recompute them"
    return Chart(caption, page.fitted(even + points, _HEIGHT_PX + legend_px(labels)))
