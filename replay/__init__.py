"""replay: does what a trace says, on real tiers, and says what it found."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay.execution.runner import run
    from replay.options import ReplayOptions
    from replay.result.finished import Result
    from replay.result.stored import load
    from replay.targets import TargetSpec
    from replay.watch import Stop, Watcher

__all__ = ["ReplayOptions", "Result", "Stop", "TargetSpec", "Watcher", "load", "run"]

_MODULES = {
    "ReplayOptions": "replay.options",
    "Result": "replay.result.finished",
    "Stop": "replay.watch",
    "TargetSpec": "replay.targets",
    "Watcher": "replay.watch",
    "load": "replay.result.stored",
    "run": "replay.execution.runner",
}


def __getattr__(name: str) -> Any:
    # Help needs the options alone, and what imports one of our modules not the runner.
    if name not in _MODULES:
        raise AttributeError(f"module 'replay' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
