"""Compiled Python: numba's `njit` as this project uses it, with the function's type kept."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")
_DIGEST_BYTES = hashlib.sha256().digest_size


def constant(value: int) -> int:
    """Return `value` as numpy's integer, to compiled code the same as any other number.

    numba compiles a function anew for each literal int that it is called with.
    """
    return cast("int", np.int64(value))


def compiled(function: Function) -> Function:
    """Return `function` compiled on first use and cached on disk."""
    return cast("Function", _cached(cast("Any", numba.njit)(function)))


def kernel(function: Function) -> Function:
    """Return `function` compiled without reference counts: it may not make or return arrays.

    numba counts references atomically wherever an array is passed on; that took more than half of
    the time of the state machines that are made of many small functions. The GIL is released.
    """
    dispatcher = cast("Any", numba.njit)(nogil=True, _nrt=False)(function)
    return cast("Function", _cached(dispatcher))


def helper(function: Function) -> Function:
    """Return a part of a kernel, compiled into its callers: calls with many arrays are dear."""
    dispatcher = cast("Any", numba.njit)(forceinline=True, _nrt=False)(function)
    return cast("Function", dispatcher)


class Notes:
    """What of the cache of compiled code should be told, once per process."""

    uncached: str | None = None
    """Why compiled code couldn't be kept, so that every run compiles it anew."""


class _CheckedFiles(IndexDataCacheFile):  # type: ignore[misc]
    """Files of compiled code, each with its digest: what was damaged is compiled anew."""

    def _dump(self, obj: object) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()

    def _save_index(self, overloads: dict[Any, str]) -> None:
        with self._open_for_write(self._index_path) as file:
            file.write(self._dump((self._version, self._source_stamp, overloads)))

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, overloads = _checked(Path(self._index_path))
        except OSError:
            return {}
        fresh = (version, stamp) == (self._version, self._source_stamp)
        return cast("dict[Any, str]", overloads) if fresh else {}

    def _load_data(self, name: str) -> Any:
        return _checked(Path(self._data_path(name)))


def _checked(path: Path) -> Any:
    """Return what is in a file. Raises OSError if it isn't what was written."""
    data = path.read_bytes()
    digest = hashlib.sha256(data[:-_DIGEST_BYTES]).digest()
    if digest != data[-_DIGEST_BYTES:]:
        raise OSError("damaged")
    return pickle.loads(data)


class _Places(FunctionCache._impl_class):  # type: ignore[misc]
    """Where compiled code may be kept: without a home only beside the source."""

    _locator_classes = [  # noqa: RUF012 - as numba has it
        kind
        for kind in FunctionCache._impl_class._locator_classes
        if "UserWide" not in kind.__name__ or Path(os.path.expanduser("~")).is_absolute()  # noqa: PTH111
    ]


class _Cache(FunctionCache):  # type: ignore[misc]
    """A cache that costs time at most: what can't be kept is compiled anew."""

    _impl_class = _Places

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file: Any = _CheckedFiles(self.cache_path, self._impl.filename_base, stamp)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code, if that can be done."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            Notes.uncached = f"{self.cache_path}: {error.strerror or error}"


def _cached(dispatcher: Any) -> Any:
    """Return a dispatcher that keeps what it compiles, where there is a place for it."""
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)
    except (OSError, RuntimeError) as error:  # numba: no locator available
        Notes.uncached = str(error)
    return dispatcher
