"""Charts of what-ifs: hit ratio against a capacity, miss-ratio curves; HTML, SVG or PNG."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any

from kvtrace.errors import TargetError, UsageError
from kvtrace.outfile import OutFile
from kvtrace.units import GIB, UNLIMITED, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kvtrace.whatif.curve import Curve
    from kvtrace.whatif.grid import Outcome

KINDS = (".html", ".svg", ".png")
_OPTIMAL = "optimal"


def check(path: Path) -> Any:
    """Return altair if a chart can be made at `path`. Raises UsageError or TargetError."""
    if path.suffix not in KINDS:
        raise UsageError("unknown kind of chart", where=path, accepted=", ".join(KINDS))
    try:
        import altair
        import vl_convert  # noqa: F401  # what altair makes files with
    except ImportError as error:
        raise TargetError(
            f"charts need a package that isn't installed: {error.name}",
            where="--plot",
            hint="pip install kvtrace[plot]",
        ) from error
    return altair


def grid_chart(outcomes: Sequence[Outcome], choices: Mapping[str, Sequence[str]]) -> Any:
    """Return a chart of hit ratios against the first capacity that has several values.

    Each combination of the other options is a line, and so is its ceiling where it is known.
    """
    import altair

    swept = [key for key, values in choices.items() if len(values) > 1]
    capacity = next((key for key in swept if key.endswith(".capacity")), None)
    rows = []
    for outcome in outcomes:
        name = ", ".join(str(outcome.options[key]) for key in swept if key != capacity) or "hits"
        x = outcome.options[capacity] if capacity else name
        rows.append({"x": _gib(x) if capacity else x, "hit ratio": outcome.total_hit_ratio,
                     "options": name})  # fmt: skip
        if outcome.optimal is not None:
            rows.append({"x": rows[-1]["x"], "hit ratio": outcome.optimal, "options":
                         f"{_OPTIMAL} {name}" if name != "hits" else _OPTIMAL})  # fmt: skip
    chart = altair.Chart(altair.InlineData(values=rows))
    title = f"{capacity.removesuffix('.capacity').removeprefix('tiers.')} GiB" if capacity else ""
    x = altair.X("x:Q", title=title) if capacity else altair.X("x:N", title="options")
    mark = chart.mark_line(point=True) if capacity else chart.mark_bar()
    return mark.encode(
        x=x,
        y=altair.Y("hit ratio:Q", scale=altair.Scale(domain=[0, 1])),
        color=altair.Color("options:N", title="options"),
    )


def curve_chart(curves: Sequence[Curve], block_bytes: float) -> Any:
    """Return a chart of miss ratios against the size of the one tier."""
    import altair

    rows = [
        {"GiB": blocks * block_bytes / GIB, "miss ratio": missed, "policy": curve.policy}
        for curve in curves
        for blocks, missed in zip(curve.blocks, curve.miss_ratio, strict=True)
    ]
    chart = altair.Chart(altair.InlineData(values=rows)).mark_line()
    return chart.encode(
        x=altair.X("GiB:Q", scale=altair.Scale(type="log")),
        y=altair.Y("miss ratio:Q", scale=altair.Scale(domain=[0, 1])),
        color=altair.Color("policy:N"),
    )


def save(charts: Sequence[Any], path: Path, *, force: bool = False) -> None:
    """Write charts, one below the other, to `path`; HTML needs no network to be looked at."""
    import altair

    chart: Any = altair.vconcat(*charts)
    kind = path.suffix.removeprefix(".")
    drawn: IO[Any] = io.BytesIO() if kind == "png" else io.StringIO()
    chart.save(drawn, format=kind, **({"inline": True} if kind == "html" else {}))
    data = drawn.getvalue()  # type: ignore[attr-defined]
    with OutFile(path, force=force) as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def _gib(text: object) -> float | None:
    size = parse_bytes(str(text))
    return None if size >= UNLIMITED else size / GIB
