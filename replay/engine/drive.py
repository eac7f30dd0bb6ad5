"""Runs one engine call in a thread of its own, while its caller watches and takes out results."""

from __future__ import annotations

import os
import resource
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Waiting
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from kvtrace.units import KIB
from replay.options import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from replay.ops.columns import Ops, Times
    from replay.ops.contract import Control, Engine, Lane, LoopOptions, Outcome
    from replay.options import ReplayOptions
    from replay.plan.prepare import Prepared

LOOK_S = 0.25
"""Until the next look at a loop that needs none sooner."""
FIRST_LOOK_S = 0.01
"""Until the first, when it isn't known how fast the loop is."""
_NICE = -15


def drive(
    engine: Engine,
    lanes: tuple[Lane, ...],
    ops: Ops,
    times: Times,
    options: LoopOptions,
    control: Control,
    look: Callable[[], float],
    priority: Priority = Priority.NONE,
) -> tuple[Outcome, str]:
    """Return what the call gave, and the priority obtained.

    `look` is called again and again meanwhile; it returns after how many seconds it wants to be
    called again. What it raises ends the call in good order.
    """
    obtained: list[str] = []

    def work() -> Outcome:
        obtained.append(_prioritise(priority))
        return engine.run(lanes, ops, times, options, control)

    with ThreadPoolExecutor(1) as pool, ExitStack() as failing:
        future: Future[Outcome] = pool.submit(work)
        # Results are no longer taken out if `look` fails: without a stop the engine, which is
        # waited for here, would go on to the end of the trace or wait for ever.
        failing.callback(control.stop.fill, 1)
        wait_s = FIRST_LOOK_S
        while True:
            try:
                outcome = future.result(timeout=wait_s)
            except Waiting:
                wait_s = look()
            else:
                failing.pop_all()
                return outcome, obtained[0]


def _prioritise(priority: Priority) -> str:
    """Give this thread, and those that it will start, a priority; return what was obtained."""
    if priority == Priority.NONE:
        return priority.value
    try:
        if priority == Priority.NICE:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        else:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        return f"none ({priority.value} refused: {error.strerror})"
    return priority.value


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def thread_lanes(prepared: Prepared, options: ReplayOptions, queue_depth: int) -> tuple[Lane, ...]:
    """Return the lanes of all loop threads; the depth is divided among those of a target."""
    depth = max(1, queue_depth // options.threads)
    longest = prepared.survey.longest_bytes
    lanes: list[Lane] = []
    for target, space in zip(prepared.targets, prepared.spaces, strict=True):
        aligned = -(-longest // space.align_bytes) * space.align_bytes
        lane = target.lane(depth, options.io_size_bytes)
        lane = replace(lane, longest_bytes=max(space.align_bytes, min(lane.io_bytes, aligned)))
        if space.size_bytes is not None and not space.per_object:
            begin, end = lane.bounds
            space_end = space.begin_bytes + space.size_bytes
            lane = replace(
                lane, begin_bytes=max(begin, space.begin_bytes), end_bytes=min(end, space_end)
            )
        lanes += [lane] * options.threads
    return tuple(lanes)
