"""Shared libraries as Python sees them: their functions, and why one can't be used."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.native.digest import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

ROOT = Path(__file__).resolve().parents[2]
HINT = "install gcc and run `make install`, or install a wheel of kvtrace"

I64, U64, I32, U32, I16, U16, I8, U8, F64, BOOL = (
    np.ctypeslib.ndpointer(dtype, flags=("C", "A"))
    for dtype in (
        np.int64, np.uint64, np.int32, np.uint32, np.int16, np.uint16, np.int8, np.uint8,
        np.float64, np.bool_,
    )
)  # fmt: skip
"""Parameters that take an aligned array of just this type, its rows one behind the other."""
INT = ctypes.c_int64
POINTER = ctypes.c_void_p
BOOLEAN = ctypes.c_bool


class Library:
    """A package's library of C functions."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._sources = f"kv_{name}_sources"
        self.load = cache(self._load)
        """Return the library, built of the sources that lie here; TargetError if it can't be."""

    def _load(self) -> ctypes.CDLL:
        try:
            library = ctypes.CDLL(str(self.path))
            sources = getattr(library, self._sources)
        except (OSError, AttributeError) as error:
            missing = not self.path.exists()
            raise TargetError(
                "the compiled library is missing" if missing else "the library can't be loaded",
                where=self.path,
                got=None if missing else error,
                hint=HINT,
            ) from error
        sources.restype = ctypes.c_char_p
        if sources().decode() != digest(ROOT):
            raise TargetError(
                "the library was built of other sources",
                where=self.path,
                hint="run `make install` (or python kvtrace/native/build.py)",
            )
        return library

    def function(self, name: str, *parameters: Any, returns: Any = None) -> Callable[..., Any]:
        """Return the C function `name`, which is looked up at the first call.

        `parameters`: I64, INT and their like, in the C function's order; an argument that doesn't
        fit is a ctypes.ArgumentError. The GIL is released during a call.
        """

        @cache
        def resolved() -> Any:
            native = getattr(self.load(), name)
            native.argtypes, native.restype = parameters, returns
            return native

        return lambda *arguments: resolved()(*arguments)


def address(array: NDArray[Any] | None) -> int | None:
    """Return where the array's bytes are, for a structure's pointer; None for no bytes."""
    if array is None or array.size == 0:
        return None
    assert array.flags.aligned
    return array.ctypes.data


def contiguous(values: Any, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Return the values as C reads them: one behind the other, aligned. A copy if they aren't so.

    NumPy calls one field of a single packed record contiguous, wherever it lies.
    """
    array: NDArray[Any] = np.ascontiguousarray(values, dtype)
    return array if array.flags.aligned else array.copy()
