"""Compiled Python: numba's `njit` as this project uses it, with the function's type kept."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

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
        self._function = function
        self._cache_file: Any = None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return compiled code that was kept, of just these sources; None without any."""
        if self._cache_file is None:  # not earlier: functions may be defined after their callers
            stamp = self._impl.locator.get_source_stamp(), sources_of(self._function)
            name = self._impl.filename_base
            self._cache_file = _CheckedFiles(self.cache_path, name, stamp)
        return super().load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code, if that can be done."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            Notes.uncached = f"{self.cache_path}: {error.strerror or error}"


def sources_of(function: Callable[..., Any]) -> str:
    """Return a digest of the compiled functions that `function` calls, and of its constants.

    numba looks at a function's own file only: code that was made of an older helper, or of another
    plug-in, would be taken for current.
    """
    parts: dict[int, str] = {}
    _reach(function, parts)
    return hashlib.sha256("\n".join(sorted(parts.values())).encode()).hexdigest()


def _text(code: CodeType) -> tuple[Any, ...]:
    """Return what a function does, the same in every process."""
    constants = [_text(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    return code.co_code, code.co_names, constants


def _reach(function: Any, parts: dict[int, str]) -> None:
    code = function.__code__
    if id(function) in parts:
        return
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    free = dict(zip(code.co_freevars, cells, strict=True))
    values = {name: function.__globals__.get(name) for name in code.co_names} | free
    for module in [value for value in values.values() if isinstance(value, ModuleType)]:
        values |= {name: getattr(module, name, None) for name in code.co_names}
    constants = {
        name: repr(value)
        for name, value in values.items()
        if isinstance(value, bool | int | float | str | tuple | np.generic)
    }
    parts[id(function)] = repr((_text(code), sorted(constants.items())))
    for value in values.values():
        if isinstance(value, Dispatcher):
            _reach(value.py_func, parts)


def _cached(dispatcher: Any) -> Any:
    """Return a dispatcher that keeps what it compiles, where there is a place for it."""
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)
    except (OSError, RuntimeError) as error:  # numba: no locator available
        Notes.uncached = str(error)
    return dispatcher
