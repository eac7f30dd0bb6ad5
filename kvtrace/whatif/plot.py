"""Charts of what-ifs: hit ratios and bytes against a capacity, miss-ratio curves."""

from __future__ import annotations

import io
from dataclasses import dataclass
from statistics import fmean
from typing import IO, TYPE_CHECKING, Any

from kvtrace.errors import TargetError, UsageError
from kvtrace.files.outfile import OutFile
from kvtrace.show.charting import COLOURS, GREYS, legend, legend_px
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import GIB, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from kvtrace.whatif.answers import Answers
    from kvtrace.whatif.curve import Curve
    from kvtrace.whatif.grid import Outcome

KINDS = (".html", ".svg", ".png")
_OPTIMAL, _ALONE = "optimum", "hits"
_CAPACITY = ".capacity"
_WIDTH_PX, _HEIGHT_PX = 640, 230
_LEVEL_MAX = 5
"""More names below an axis than this are slanted."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart of altair's, and what it shows."""

    title: str
    chart: Any
    height_px: int


def check(path: Path) -> Any:
    """Return altair if a chart can be made at `path`. Raises UsageError or TargetError."""
    if path.suffix not in KINDS:
        raise UsageError("unknown kind of chart", where=path, accepted=", ".join(KINDS))
    return needed("--plot")


def needed(option: str) -> Any:
    """Return altair. Raises TargetError without it, or without what it makes files with."""
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise TargetError(
            f"charts need a package that isn't installed: {error.name}",
            where=option,
            hint="pip install kvtrace[plot]",
        ) from error
    return altair


def short(key: str) -> str:
    """Return what an option is called in tables and legends."""
    return key.removeprefix("tiers.").removesuffix(_CAPACITY).replace("_", "-")


def plots(answers: Answers, choices: Mapping[str, Sequence[str]]) -> list[Plot]:
    """Return all charts of the answers."""
    made = [hit_plot(answers.outcomes, choices), *byte_plots(answers.outcomes, choices)]
    if answers.curves:
        made.append(curve_plot(answers.curves, answers.block_bytes))
    return made


class _Swept:
    """Where an outcome stands in a chart: at a capacity, on the line of its other options."""

    def __init__(self, outcomes: Sequence[Outcome], choices: Mapping[str, Sequence[str]]) -> None:
        self.keys = [key for key, values in choices.items() if len(values) > 1]
        capacities = [key for key in self.keys if key.endswith(_CAPACITY)]
        self.capacity = max(capacities, key=lambda key: _effect(outcomes, key), default=None)
        self.others = [key for key in self.keys if key != self.capacity]
        self.bars = len(outcomes)
        values = choices[self.capacity] if self.capacity else []
        self.order = sorted(values, key=lambda text: parse_bytes(str(text)))

    def line(self, outcome: Outcome, *, policies: bool = True) -> str:
        """Return the name of a line; without `policies`, by capacities only."""
        keys = [key for key in self.others if policies or key.endswith(_CAPACITY)]
        return ", ".join(_named(key, outcome.options[key]) for key in keys)

    def x(self, outcome: Outcome) -> str:
        """Return where it stands, as a word: capacities may be without a limit."""
        return str(outcome.options[self.capacity]) if self.capacity else self.line(outcome) or "all"

    def axis(self) -> Any:
        """Return the axis: capacities in their order, at equal distances."""
        import altair

        title = f"capacity of tier {short(self.capacity)}" if self.capacity else None
        order = self.order if self.capacity else None
        count = len(self.order) if self.capacity else self.bars
        angle = 0 if count <= _LEVEL_MAX else -40
        return altair.X("x:N", title=title, sort=order, axis=altair.Axis(labelAngle=angle))


def _effect(outcomes: Sequence[Outcome], key: str) -> float:
    """Return how far the mean hit ratios of an option's values lie apart."""
    ratios: dict[object, list[float]] = {}
    for outcome in outcomes:
        ratios.setdefault(outcome.options[key], []).append(outcome.total_hit_ratio)
    means = [fmean(values) for values in ratios.values()]
    return max(means) - min(means)


def _named(key: str, value: object) -> str:
    """Return an option as a legend names it; a policy is its own name."""
    return f"{short(key)} {value}" if key.endswith(_CAPACITY) else str(value)


def hit_plot(outcomes: Sequence[Outcome], choices: Mapping[str, Sequence[str]]) -> Plot:
    """Return hit ratios against the capacity that changes them most.

    Each combination of the other options is a line; ceilings, where they are known, are dashed.
    """
    swept = _Swept(outcomes, choices)
    rows, ceilings = list[Row](), dict[tuple[str, str], Row]()
    for outcome in outcomes:
        x, name = swept.x(outcome), swept.line(outcome) or _ALONE
        rows.append({"x": x, "share": outcome.total_hit_ratio, "of": name, "kind": "tried"})
        if outcome.optimal is not None:
            ceiling = f"{_OPTIMAL} {swept.line(outcome, policies=False)}".strip()
            row = {"x": x, "share": outcome.optimal, "of": ceiling, "kind": _OPTIMAL}
            ceilings.setdefault((x, ceiling), row)
    rows += ceilings.values()
    most = min(1.0, 1.1 * max(row["share"] for row in rows)) or 1.0
    title = "Hit ratio: share of the blocks asked for that some tier has"
    return _drawn(title, rows, swept, "share", "of blocks", most, "%")


def byte_plots(outcomes: Sequence[Outcome], choices: Mapping[str, Sequence[str]]) -> Iterator[Plot]:
    """Yield, per tier, the GiB that the node reads and writes against the capacity."""
    swept = _Swept(outcomes, choices)
    for tier in Tier:
        if not any(tier in outcome.tiers for outcome in outcomes):
            continue
        for op, past in ((Op.READ, "read"), (Op.WRITE, "written")):
            rows: list[Row] = [
                {"x": swept.x(outcome), "GiB": outcome.node_bytes(tier, op) / GIB,
                 "of": swept.line(outcome) or past, "kind": "tried"}
                for outcome in outcomes
                if tier in outcome.tiers
            ]  # fmt: skip
            most = 1.1 * max(row["GiB"] for row in rows) or 1.0
            title = f"Tier {tier.label}: GiB {past} by the node"
            yield _drawn(title, rows, swept, "GiB", "GiB", most, None)


def _drawn(
    name: str, rows: list[Row], swept: _Swept, field: str, title: str, most: float, form: str | None
) -> Plot:
    """Return lines over a capacity, or bars where none has several values."""
    import altair

    tried = list(dict.fromkeys(row["of"] for row in rows if row["kind"] != _OPTIMAL))
    ceilings = list(dict.fromkeys(row["of"] for row in rows if row["kind"] == _OPTIMAL))
    labels = [*tried, *ceilings]
    colours = [COLOURS[at % len(COLOURS)] for at in range(len(tried))]
    colours += [GREYS[at % len(GREYS)] for at in range(len(ceilings))]
    y = altair.Y(
        f"{field}:Q",
        title=title,
        scale=altair.Scale(domain=[0, most], nice=False),
        axis=altair.Axis(format=form, tickCount=6) if form else altair.Axis(tickCount=6),
    )
    colour = altair.Color(
        "of:N", sort=labels, scale=altair.Scale(domain=labels, range=colours), legend=legend(labels)
    )
    chart = altair.Chart(altair.InlineData(values=rows)).encode(
        x=swept.axis(), y=y, color=colour, tooltip=["of:N", "x:N", f"{field}:Q"]
    )
    height = _HEIGHT_PX + legend_px(labels)
    if not swept.capacity:
        bars = chart.transform_filter(f"datum.kind != '{_OPTIMAL}'").mark_bar(
            width=altair.RelativeBandSize(0.6)
        )
        marks = chart.transform_filter(f"datum.kind == '{_OPTIMAL}'").mark_tick(
            width=altair.RelativeBandSize(0.9), thickness=3
        )
        return Plot(name, bars + marks if ceilings else bars, height)
    kinds = altair.Scale(domain=["tried", _OPTIMAL], range=[[1, 0], [5, 4]])
    lines = chart.mark_line().encode(
        strokeDash=altair.StrokeDash("kind:N", legend=None, scale=kinds)
    )
    return Plot(name, lines + chart.mark_point(filled=True, size=45, opacity=1), height)


def curve_plot(curves: Sequence[Curve], block_bytes: float) -> Plot:
    """Return miss ratios against the size of the one tier."""
    import altair

    rows: list[Row] = [
        {"GiB": blocks * block_bytes / GIB, "share": missed, "of": policy_name(curve.policy)}
        for curve in curves
        for blocks, missed in zip(curve.blocks, curve.miss_ratio, strict=True)
    ]
    labels = list(dict.fromkeys(row["of"] for row in rows))
    chart = altair.Chart(altair.InlineData(values=rows)).mark_line()
    drawn = chart.encode(
        x=altair.X("GiB:Q", title="size of one tier, GiB",
                   scale=altair.Scale(type="log", nice=False),
                   axis=altair.Axis(grid=False, tickCount=6, labelOverlap=True)),
        y=altair.Y("share:Q", title="of blocks", scale=altair.Scale(domain=[0, 1]),
                   axis=altair.Axis(format="%", tickCount=6)),
        color=altair.Color("of:N", sort=labels, scale=altair.Scale(range=COLOURS),
                           legend=legend(labels)),
        tooltip=["of:N", "GiB:Q", "share:Q"],
    )  # fmt: skip
    return Plot("Miss ratio of one tier", drawn, _HEIGHT_PX + legend_px(labels))


def policy_name(policy: str) -> str:
    """Return what a policy is called in legends and tables."""
    return _OPTIMAL if policy == "opt" else policy


def save(made: Sequence[Plot], path: Path, *, force: bool = False) -> None:
    """Write charts as an image, one below the other, to `path` (.svg or .png)."""
    import altair

    parts = [
        plot.chart.properties(title=plot.title, width=_WIDTH_PX, height=_HEIGHT_PX) for plot in made
    ]
    chart: Any = altair.vconcat(*parts).resolve_scale(color="independent", strokeDash="independent")
    kind = path.suffix.removeprefix(".")
    drawn: IO[Any] = io.BytesIO() if kind == "png" else io.StringIO()
    chart.save(drawn, format=kind)
    data = drawn.getvalue()  # type: ignore[attr-defined]
    with OutFile(path, force=force) as file:
        file.write(data if isinstance(data, bytes) else data.encode())
