"""Compiled Python: numba's `njit`, with the function's type kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")


def jit(function: Function) -> Function:
    """Return `function` compiled on first use and cached on disk."""
    return cast("Function", numba.njit(cache=True)(function))


def kernel(function: Function) -> Function:
    """Return `function` compiled without reference counts: it may not make or return arrays.

    Counting them (atomically, per access to a tuple of arrays) took 60 % of the planner's time.
    """
    compiled = cast("Any", numba.njit)(cache=True, _nrt=False)(function)
    return cast("Function", compiled)


def helper(function: Function) -> Function:
    """Return a part of a kernel, compiled into its callers: calls with many arrays are dear."""
    compiled = cast("Any", numba.njit)(forceinline=True, _nrt=False)(function)
    return cast("Function", compiled)
