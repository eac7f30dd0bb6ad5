"""replay: does what a trace says, on real tiers, and says what it found."""

from replay.execution.runner import run
from replay.options import ReplayOptions
from replay.result.finished import Result
from replay.result.stored import load
from replay.targets import TargetSpec
from replay.watch import Stop, Watcher

__all__ = ["ReplayOptions", "Result", "Stop", "TargetSpec", "Watcher", "load", "run"]


def __dir__() -> list[str]:
    return sorted(__all__)
