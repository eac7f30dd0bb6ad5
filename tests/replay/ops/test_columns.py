"""One table of columns: what is in it is everywhere, in Python and in C."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - read from the annotations

from replay.engine.native.library import RunStruct
from replay.ops.columns import NATIVE_OPS, OP_TYPES, TIME_TYPES, Ops, Times, header_text, types_of
from tests.golden.bless import COLUMNS_PATH


def test_the_loop_in_c_has_the_table() -> None:
    """`make bless` was run after the last change; ctypes has the columns in the same order."""
    assert COLUMNS_PATH.read_text() == header_text()
    members = [name for name, *_ in RunStruct._fields_]
    loop, planner = header_text().split("#define KV_PLAN_COLUMNS")
    in_c = re.findall(r"\*(\w+);", loop)
    assert in_c == [*NATIVE_OPS, *TIME_TYPES]
    assert re.findall(r"\*(\w+);", planner) == list(OP_TYPES)
    assert [name for name in members if name in in_c] == in_c


def test_a_column_is_its_annotation() -> None:
    """A field that is added to a table has its type from there."""

    class More(NamedTuple):
        key: NDArray[np.uint64]
        hue: NDArray[np.int16]

    assert types_of(More) == {"key": np.uint64, "hue": np.int16}


def test_rings_have_the_types_of_the_table() -> None:
    """Each column, of the length that its kind has."""
    ops, times = Ops.empty(8, 4, clocks=True, extents=2), Times.empty(8)
    assert {name: column.dtype for name, column in ops._asdict().items()} == OP_TYPES
    assert {name: column.dtype for name, column in times._asdict().items()} == TIME_TYPES
    assert {len(column) for column in times} == {8}
    lengths = {name: len(column) for name, column in ops._asdict().items() if len(column) != 8}
    assert lengths == {"edges": 4, "extents": 4}
    assert not len(Ops.empty(8, 4).clock)
