"""Cells of tables for spreadsheets: text stays text there, and is never taken for a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How text begins that spreadsheets compute. Source: OWASP, CSV Injection (2024)."""


def plain(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row whose texts no spreadsheet computes: an apostrophe comes before them."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
