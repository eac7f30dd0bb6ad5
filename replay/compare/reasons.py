"""INVALID reasons of a side's trials, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replay.compare.document import SideDocument
    from replay.result.reason import Reason


def reasons_of(side: SideDocument) -> list[tuple[Reason, int]]:
    """Return each reason as its first trial words it, and how many trials have it."""
    first: dict[str, Reason] = {}
    counts: dict[str, int] = {}
    for trial in side.trials:
        for reason in trial.reason_details:
            first.setdefault(reason.code, reason)
        for code in {reason.code for reason in trial.reason_details}:
            counts[code] = counts.get(code, 0) + 1
    return [(reason, counts[code]) for code, reason in first.items()]
