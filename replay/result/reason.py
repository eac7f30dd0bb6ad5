"""Reasons, marks and warnings of a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong, or worth knowing: code, figure, what to do."""

    code: str
    figure: str
    remedy: str
    accepted: bool = False
