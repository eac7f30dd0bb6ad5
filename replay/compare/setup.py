"""Setup of a measurement, and differences that make a comparison unfair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from replay.compare.sides import Side
    from replay.result.document import ResultDocument


@dataclass(frozen=True, slots=True)
class Setup:
    """Settings that shift every figure; None: not known.

    `io_class_bytes`: the power of two that the largest I/Os have or exceed, by less than twice.
    """

    mode: str | None = None
    depth: int | None = None
    io_class_bytes: int | None = None
    engine: str | None = None
    tool: str | None = None


UNKNOWN = Setup()


def setup_of(document: ResultDocument) -> Setup:
    """Return how a result of ours was measured; of ops by another tool nothing is known."""
    config, tool = document.config, document.tool
    classes = [group.size_class_bytes for lane in document.lanes for group in lane.io_ns]
    return Setup(
        mode=None if config is None else config.mode.value,
        depth=None if config is None else config.depth,
        io_class_bytes=max(classes, default=None),
        engine=None if tool is None else tool.engine,
        tool=None if document.kind == "ops" else "kvtrace",
    )


def io_class(size_bytes: int) -> int:
    """Return the class of I/Os of that size."""
    return 1 << (size_bytes.bit_length() - 1)


def io_text(size_class: int) -> str:
    """Return a class of I/Os as people read it."""
    return f"from {format_bytes(size_class)}"


_ROUNDS, _PART_RATIO = 3, 1.1
"""From this number of rounds on, a part of one more matters little; parts are alike within the
ratio."""
_UNLIKE: tuple[tuple[str, str, Callable[..., str], str], ...] = (
    ("mode", "modes", str, "rates follow the trace in open mode and the device in max mode"),
    ("depth", "queue depths", str, "throughput and latency both grow with the depth"),
    (
        "io_class_bytes",
        "I/O sizes",
        io_text,
        "larger I/Os move more bytes per second, and take longer",
    ),
    ("engine", "engines", str, "an engine's own cost per I/O is in rates and times"),
)
"""Field, what it is called, how its values are shown, why it matters."""


def cautions(sides: Sequence[Side]) -> Iterator[str]:
    """Yield a sentence per setting in which sides differ, as far as it is known of them."""
    for field, name, shown, why in _UNLIKE:
        known = {}
        for side in sides:
            values = {getattr(trial.setup, field) for trial in side.trials} - {None}
            if values:
                known[side.label] = ", ".join(sorted(map(shown, values)))
        if len(set(known.values())) > 1:
            listed = ", ".join(f"{label}: {text}" for label, text in known.items())
            yield f"different {name} ({listed}): {why}"
    if parts_differ(sides):
        listed = ", ".join(f"{side.label}: {each:.2f}" for side in sides if (each := rounds(side)))
        yield (
            f"different parts of the trace ({listed} rounds): each has a mix of reads and writes "
            "of its own; run longer, or limit both to one part"
        )


def rounds(side: Side) -> float | None:
    """Return how often a side's trials replayed the trace, on average; None if not known."""
    known = [trial.document.trace.rounds for trial in side.trials if trial.document is not None]
    return sum(known) / len(known) if known else None


def parts_differ(sides: Sequence[Side]) -> bool:
    """Whether sides did so different parts of a trace that their mixes of ops differ."""
    known = [each for side in sides if (each := rounds(side))]
    return len(known) > 1 and min(known) < _ROUNDS and max(known) > _PART_RATIO * min(known)
