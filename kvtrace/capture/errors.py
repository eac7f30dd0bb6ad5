"""The error of a wrong configuration: it stops the engine at its start, where a user sees it."""

from __future__ import annotations


class CaptureError(ValueError):
    """A configuration that can't be recorded with, told in one line.

    Only constructors raise it. After the start, trouble is counted and never raised.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"kvtrace capture: {' '.join(problem.split())}")
