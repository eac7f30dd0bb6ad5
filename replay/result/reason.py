"""What speaks against a number, or should be known of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong, or worth knowing: code, figure, what to do."""

    code: str
    figure: str
    remedy: str
    accepted: bool = False
