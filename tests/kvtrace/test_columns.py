"""The width that text is broken at."""

from __future__ import annotations

import os

import pytest

from kvtrace.show.columns import columns


def _size(_stream: int) -> os.terminal_size:
    return os.terminal_size((132, 40))


def _nowhere(_stream: int) -> os.terminal_size:
    raise OSError


@pytest.mark.parametrize(
    ("asked", "terminal", "wide"),
    [
        ("100", _size, 100),
        (None, _size, 132),
        ("wide", _size, 132),
        (None, _nowhere, 80),
        ("0", _nowhere, 80),
    ],
)
def test_columns(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, terminal: object, wide: int
) -> None:
    """What `COLUMNS` asks for comes before what the terminal has; without both it is 80."""
    monkeypatch.setattr(os, "get_terminal_size", terminal)
    if asked is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", asked)
    assert columns() == wide
