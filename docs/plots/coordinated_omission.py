"""Draws what coordinated omission hides, from three replays in virtual time.

    python docs/plots/coordinated_omission.py

writes `coordinated_omission.svg` beside it and prints the table of docs/concepts.md. The device is
`replay.testing.stall_target`: it answers each read in 1 ms, one after the other, and stands still
for the fifth second. The trace asks for a read every 10 ms. Nothing depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

import replay
from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from kvtrace.units import MIB, MS_NS, S_NS
from replay.testing import SimulatedTarget, stall_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from replay.result.document import Percentiles

OPS, GAP_NS, SERVICE_NS = 1_000, 10 * MS_NS, MS_NS
SLOW_NS = 10 * MS_NS
STALL_BEGIN_NS, STALL_END_NS = 4 * S_NS, 5 * S_NS
SVG = Path(__file__).with_suffix(".svg")
SHOWN = {"p50": "P50", "p90": "P90", "p99": "P99", "p999": "P99.9", "max": "max"}

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 704, 56, 288
SECONDS, MILLISECONDS = 12, 1_000
OPEN_COLOUR, CLOSED_COLOUR = "#1f6feb", "#d9480f"


@dataclass(frozen=True)
class Measured:
    """One way to measure: its percentiles, and each op's time of asking and latency, ns."""

    name: str
    percentiles: Percentiles
    asked_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]


def write_trace(path: Path) -> Path:
    """Write reads of 4 KiB, one each 10 ms, each a request of one session."""
    number = np.arange(OPS)
    columns = {
        "timestamp": number * GAP_NS,
        "op": np.full(OPS, Op.READ, np.uint8),
        "size": np.full(OPS, 4096, np.uint64),
        "tier": np.full(OPS, Tier.NVME, np.uint8),
        "key": number.astype(np.uint64),
        "phase": np.full(OPS, Phase.DECODE, np.uint8),
        "request": number.astype(np.uint64),
        "session": np.zeros(OPS, np.uint64),
        "step": np.ones(OPS, np.uint16),
    }
    with TraceWriter(path, Header(), ("request", "session", "step")) as writer:
        writer.append(columns)
    return path


def device() -> SimulatedTarget:
    """Return the device that stands still for a second, in virtual time."""
    made = stall_target(SERVICE_NS, STALL_BEGIN_NS, STALL_END_NS, channels=1)
    return replace(made, spec=replace(made.spec, tiers=(Tier.NVME,)), virtual_time=True)


def run(trace: Path, **chosen: object) -> replay.Result:
    """Return a replay of the trace on that device."""
    settings = {"arena_bytes": 16 * MIB, "io_size_bytes": MIB, "settle_ns": 0, "run_id": 1}
    unwritten = {"populate": "none", "verify": "none"}
    options = replay.ReplayOptions.model_validate(settings | unwritten | chosen)
    return replay.run(trace, [device()], options)


def measure() -> dict[str, Measured]:
    """Return what the three replays measured, by how."""
    with TemporaryDirectory() as folder:
        trace = write_trace(Path(folder) / "t.parquet")
        opened = run(trace, mode="open")
        single = run(trace, mode="open", queue_depth=1)
        closed = run(trace, mode="closed")
    return {
        "open": _measured("open loop, response time", opened, "due", "response_ns"),
        "single": _measured("open loop, one in flight, service time", single, "submit",
                            "service_ns"),
        "closed": _measured("closed loop, service time", closed, "submit", "service_ns"),
    }  # fmt: skip


def _measured(name: str, result: replay.Result, since: str, kind: str) -> Measured:
    table, found = result.table(), getattr(result.document(), kind)
    asked = table[since].to_numpy()
    return Measured(name, found, asked, table["complete"].to_numpy() - asked)


def table(measured: dict[str, Measured]) -> str:
    """Return the percentiles as a table in Markdown, in ms."""
    lines = [f"| measured | {' | '.join(SHOWN.values())} |", f"| --- {'| ---: ' * len(SHOWN)}|"]
    for row in measured.values():
        cells = (f"{row.percentiles[name] / MS_NS:,.1f} ms" for name in SHOWN)
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def svg(measured: dict[str, Measured]) -> str:
    """Return the drawing: each read a dot at the time when it was asked for."""
    opened, closed = measured["open"], measured["closed"]
    begin, end = _x(STALL_BEGIN_NS), _x(STALL_END_NS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="#24292f">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>',
        f'<rect x="{begin}" y="{TOP}" width="{end - begin:.1f}" height="{BOTTOM - TOP}" '
        'fill="#f0d9a8" fill-opacity="0.6"/>',
        f'<text x="{(begin + end) / 2:.1f}" y="{TOP - 11}" text-anchor="middle">'
        "stands still</text>",
        *_axes(),
        _dots(opened, OPEN_COLOUR, 3.5),
        _dots(closed, CLOSED_COLOUR, 2.0),
        _dots(closed, CLOSED_COLOUR, 6.0, above_ns=SLOW_NS),
        *_legend(
            (OPEN_COLOUR, f"open loop: {_slow(opened)} reads took over 10 ms"),
            (CLOSED_COLOUR, f"closed loop: {_slow(closed)} read did"),
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _slow(measured: Measured) -> int:
    return int((measured.latency_ns > SLOW_NS).sum())


def _x(time_ns: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * time_ns / (SECONDS * S_NS), 1)


def _y(latency_ns: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * latency_ns / (MILLISECONDS * MS_NS), 1)


def _axes() -> list[str]:
    lines = []
    for latency in range(0, MILLISECONDS + 1, 250):
        y = _y(latency * MS_NS)
        lines.append(f'<path d="M{LEFT} {y}H{RIGHT}" stroke="#d0d7de"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{latency:,}</text>')
    for second in range(SECONDS + 1):
        x = _x(second * S_NS)
        lines.append(f'<text x="{x}" y="{BOTTOM + 20}" text-anchor="middle">{second}</text>')
    lines.append(f'<text x="{LEFT - 8}" y="{TOP - 18}" text-anchor="end">ms</text>')
    middle = (LEFT + RIGHT) / 2
    lines.append(
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">'
        "when the read was asked for, seconds</text>"
    )
    return lines


def _dots(measured: Measured, colour: str, radius: float, *, above_ns: int = 0) -> str:
    """Return a dot per read slower than that; of those at one place there is one."""
    points = zip(measured.asked_ns.tolist(), measured.latency_ns.tolist(), strict=True)
    places = dict.fromkeys((_x(asked), _y(took)) for asked, took in points if took > above_ns)
    path = "".join(f"M{x} {y}h0" for x, y in places)
    return (
        f'<path d="{path}" stroke="{colour}" stroke-width="{2 * radius}" stroke-linecap="round" '
        'fill="none"/>'
    )


def _legend(*entries: tuple[str, str]) -> Sequence[str]:
    lines = []
    for place, (colour, text) in enumerate(entries):
        x, y = LEFT + 40 + place * 300, 22
        lines.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{colour}"/>')
        lines.append(f'<text x="{x + 12}" y="{y}">{text}</text>')
    return lines


if __name__ == "__main__":
    found = measure()
    SVG.write_text(svg(found), encoding="utf-8")
    print(table(found))
