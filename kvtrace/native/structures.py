"""C structures whose pointers are set from arrays."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kvtrace.native.library import POINTER, address

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Structure(ctypes.Structure):
    """A structure that keeps the arrays its pointers are to.

    `ARRAYS` has the element type of each pointer to an array: an array of another type, or whose
    elements aren't aligned or don't lie one behind the other, is a TypeError. Pointers to
    structures are set from structures.
    """

    ARRAYS: ClassVar[dict[str, np.dtype[Any]]] = {}

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self._kept: dict[str, Any] = {}
        self.set(**values)

    def set(self, **values: Any) -> None:
        """Set fields: numbers, arrays, structures that pointers are to."""
        for name, value in values.items():
            if name in self.ARRAYS:
                self._point(name, value)
            elif isinstance(value, ctypes.Structure):
                self._kept[name] = value
                setattr(self, name, ctypes.addressof(value))
            else:
                setattr(self, name, value)

    @property
    def _as_parameter_(self) -> Any:
        return ctypes.byref(self)

    def array(self, name: str) -> NDArray[Any]:
        """Return the array that a pointer is to."""
        kept: NDArray[Any] = self._kept[name]
        return kept

    def structure(self, name: str) -> Any:
        """Return the structure that a pointer is to."""
        return self._kept[name]

    def _point(self, name: str, array: NDArray[Any]) -> None:
        whole = array.flags.c_contiguous and array.flags.aligned
        if array.dtype != self.ARRAYS[name] or not whole:
            raise TypeError(f"{type(self).__name__}.{name}: {array.dtype}, {array.strides}")
        self._kept[name] = array
        setattr(self, name, address(array))


def records(kind: np.dtype[np.void]) -> Any:
    """Return the parameter type of arrays of a structure."""
    return np.ctypeslib.ndpointer(kind, flags=("C", "A"))


def fields(**kinds: Any) -> tuple[dict[str, np.dtype[Any]], list[tuple[str, Any]]]:
    """Return `ARRAYS` and `_fields_` of a structure.

    Each kind: `POINTER`, a ctypes type, or the element type of the array that a pointer is to.
    """
    arrays = {name: np.dtype(kind) for name, kind in kinds.items() if not _is_ctype(kind)}
    members = [(name, POINTER if name in arrays else kind) for name, kind in kinds.items()]
    return arrays, members


def _is_ctype(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, (ctypes._SimpleCData, ctypes.Structure))
