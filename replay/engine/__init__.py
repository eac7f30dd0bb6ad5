"""Engines: how lanes do their I/O. The fastest that works here is `auto`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.errors import TargetError, unknown_name
from replay.engine.native import threads, uring
from replay.engine.python import PythonEngine
from replay.options import ENGINES

if TYPE_CHECKING:
    from replay.ops.contract import Engine


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether an engine can be used here; `reason` says why not."""

    name: str
    available: bool
    reason: str = ""


def availability() -> tuple[Availability, ...]:
    """Return each engine's availability, fastest first."""
    reasons = {engine.name: engine.available() or "" for engine in (uring, threads)}
    return tuple(
        Availability(name, not reasons.get(name), reasons.get(name, "")) for name in ENGINES
    )


def choose(name: str) -> Engine:
    """Return the engine called `name`, or the fastest that works here for `auto`."""
    if name not in ("auto", *ENGINES):
        raise unknown_name("engine", name, ("auto", *ENGINES), where="--engine")
    for entry in availability():
        if name == "auto" and entry.available:
            return _make(entry.name)
        if name == entry.name:
            if entry.available:
                return _make(name)
            raise TargetError(
                f"engine {name} isn't available", got=entry.reason, hint="use --engine auto"
            )
    raise AssertionError("the python engine is always there")


def passed_over(name: str, chosen: Engine) -> str:
    """Return which faster engines `auto` couldn't take, and why; empty if there are none."""
    if name != "auto":
        return ""
    faster = availability()[: ENGINES.index(chosen.name)]
    return "; ".join(f"not {entry.name}: {entry.reason}" for entry in faster)


def _make(name: str) -> Engine:
    engines: dict[str, Engine] = {"uring": uring, "threads": threads, "python": PythonEngine()}
    return engines[name]


def spare_cpus() -> int:
    """Return how many CPUs this process may use beside the one it runs on."""
    return len(os.sched_getaffinity(0)) - 1
