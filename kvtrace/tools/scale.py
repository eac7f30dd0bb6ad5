"""Makes a trace slower or faster, lighter or heavier: time, and the number of its sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.tools.ids import Apart
from kvtrace.tools.merge import joined_resident, joined_tiers, moved
from kvtrace.tools.sample import Share, need_sessions
from kvtrace.tools.slice import Cut, sliced
from kvtrace.tools.stream import MEASURED, Stream, derived_header, described
from kvtrace.trace.interleave import interleaved
from kvtrace.trace.reader import open_trace
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

MAX_FACTOR = 1000
MAX_LAST_NS = 1 << 61
_SPREAD_STREAM = 1


@dataclass(frozen=True, slots=True)
class Scaling:
    """By what times and sessions are multiplied.

    A copy of the sessions begins up to `spread_ns` later than they do, drawn from `seed`.
    """

    time_factor: float = 1.0
    sessions_factor: float = 1.0
    spread_ns: int = S_NS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, factor in (("time", self.time_factor), ("sessions", self.sessions_factor)):
            if not 0 < factor <= MAX_FACTOR:
                raise UsageError(
                    "factor out of range", where=f"--{name}", got=factor,
                    accepted=f"above 0, up to {MAX_FACTOR}",
                )  # fmt: skip
        if not 0 <= self.spread_ns <= MAX_LAST_NS:
            raise UsageError(
                "out of range", where="--spread", got=f"{self.spread_ns / S_NS:.3g} s",
                accepted=f"0 to {MAX_LAST_NS / S_NS:.3g} s",
            )  # fmt: skip


def scaled(trace: Trace, scaling: Scaling, stack: ExitStack) -> Stream:
    """Return a trace with its times and its number of sessions scaled.

    Below 1, a seeded sample of the sessions stays. Above 1, their copies are nodes of their own,
    with fresh keys and tiers as large as the original's; of a part of a copy it is a sample. What
    was measured isn't kept. Files that are opened close with `stack`.
    """
    copies = _copies(trace, scaling, stack)
    columns = tuple(name for name in trace.columns if name not in MEASURED)
    shifts = np.random.default_rng(
        np.random.SeedSequence(scaling.seed, spawn_key=(_SPREAD_STREAM,))
    ).integers(0, scaling.spread_ns, len(copies), endpoint=True)
    nodes = [Apart(trace, node) for node in range(len(copies))]
    streams = [
        moved(
            node, _in_time(copy.batches, scaling.time_factor), int(shift) if at else 0,
            first_batch=at * node.batches,
        )
        for at, (node, copy, shift) in enumerate(zip(nodes, copies, shifts, strict=True))
    ]  # fmt: skip

    def resident() -> NDArray[np.void]:
        parts = zip(nodes, copies, strict=True)
        return joined_resident([node.rename_resident(copy.resident()) for node, copy in parts])

    entry: dict[str, Any] = {
        "tool": "scale",
        "time": scaling.time_factor,
        "sessions": scaling.sessions_factor,
        "seed": scaling.seed,
        "input": described(trace),
    }
    if len(copies) > 1:
        entry["spread_ns"] = scaling.spread_ns
    header = derived_header(
        trace.header, entry, tiers=joined_tiers([trace.header] * len(copies)), epoch_ns=None,
        capture=None,
    )  # fmt: skip
    return Stream(header, columns, interleaved(streams, columns), resident)


def _copies(trace: Trace, scaling: Scaling, stack: ExitStack) -> list[Stream]:
    """Return the original, or a part of it, and its copies."""
    whole, part = divmod(scaling.sessions_factor, 1.0)
    if part:
        need_sessions(trace, where="--sessions")
    # Each has a reader of its own: they are read side by side.
    copies = [_whole(stack.enter_context(open_trace(trace.path))) for _ in range(int(whole))]
    if part:
        cut = Cut(sessions=Share(ratio=part), seed=scaling.seed, keep_time=True)
        copies.append(sliced(stack.enter_context(open_trace(trace.path)), cut))
    return copies


def _whole(trace: Trace) -> Stream:
    return Stream(trace.header, trace.columns, trace.batches(nulls=True), trace.resident)


def _in_time(batches: Iterator[Columns], factor: float) -> Iterator[Columns]:
    for columns in batches:
        times = columns["timestamp"]
        if factor != 1.0:
            _check_length(times, factor)
            times = np.rint(times * factor).astype(np.int64)
        yield columns | {"timestamp": times}


def _check_length(times: NDArray[np.int64], factor: float) -> None:
    """Refuse times that a trace can't hold; copies begin up to as much later."""
    last_ns = int(times[-1]) * factor if len(times) else 0
    if last_ns > MAX_LAST_NS:
        raise UsageError(
            "the scaled trace would be too long", where="--time", got=f"{last_ns / S_NS:.3g} s",
            accepted=f"up to {MAX_LAST_NS / S_NS:.3g} s",
        )  # fmt: skip
