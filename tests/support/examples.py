"""How many examples a property is tried on, and which of many cases are quick."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

QUICK = os.environ.get("KVTRACE_TESTS") == "quick"
"""Set by `make check`; `make test` tries all."""
_PART, _LEAST = 6, 5


def examples(count: int) -> int:
    """Return `count`; where tests must be quick, a sixth of it."""
    return max(_LEAST, count // _PART) if QUICK else count


def rest_slow(cases: Iterable[Any], *, quick: int = 1) -> list[Any]:
    """Return cases of which the first `quick` stand for all where tests must be quick."""
    return [
        case
        if at < quick
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for at, case in enumerate(cases)
    ]
