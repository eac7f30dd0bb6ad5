"""Colours and legends shared by all charts; legends fit a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = [
    "#2b7bba", "#d9730d", "#2e9e5b", "#a44fb8", "#c23b4b", "#8a7a1f", "#1f9aa8", "#7a6a5f",
]  # fmt: skip
"""Told apart on white and on black."""
GREYS = ["#7d8590", "#a8b0b9", "#5c636b"]
"""Of what the others are measured by."""
_WIDTH_PX, _LETTER_PX, _SYMBOL_PX, _ROW_PX = 330, 6.5, 28, 13


def legend(labels: Sequence[str]) -> Any:
    """Return a legend whose rows are no wider than a phone's screen; None for one label."""
    import altair

    if len(labels) < 2:
        return None
    return altair.Legend(
        title=None, orient="top", columns=_columns(labels), labelLimit=_WIDTH_PX, symbolLimit=0
    )


def legend_px(labels: Sequence[str]) -> int:
    """Return how high a legend is beyond its first row: what its chart must be higher."""
    return (-(-len(labels) // _columns(labels)) - 1) * _ROW_PX if len(labels) > 1 else 0


def _columns(labels: Sequence[str]) -> int:
    widest = max(map(len, labels)) * _LETTER_PX + _SYMBOL_PX
    return max(1, min(len(labels), int(_WIDTH_PX // widest)))
