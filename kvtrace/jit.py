"""Compiled Python: numba's `njit` as this project uses it, with the function's type kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")


def constant(value: int) -> int:
    """Return `value` as numpy's integer, to compiled code the same as any other number.

    numba compiles a function anew for each literal int that it is called with.
    """
    return cast("int", np.int64(value))


def compiled(function: Function) -> Function:
    """Return `function` compiled on first use and cached on disk."""
    return cast("Function", numba.njit(cache=True)(function))


def kernel(function: Function) -> Function:
    """Return `function` compiled without reference counts: it may not make or return arrays.

    numba counts references atomically wherever an array is passed on; that took more than half of
    the time of the state machines that are made of many small functions. The GIL is released.
    """
    dispatcher = cast("Any", numba.njit)(cache=True, nogil=True, _nrt=False)(function)
    return cast("Function", dispatcher)


def helper(function: Function) -> Function:
    """Return a part of a kernel, compiled into its callers: calls with many arrays are dear."""
    dispatcher = cast("Any", numba.njit)(forceinline=True, _nrt=False)(function)
    return cast("Function", dispatcher)
