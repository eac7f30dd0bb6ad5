"""Arrays on their way to C."""

from __future__ import annotations

import numpy as np
import pytest

from kvtrace.native.library import I64, address, contiguous
from kvtrace.native.structures import Structure, fields
from kvtrace.trace.header import RESIDENT_DTYPE

PACKED = np.array([(1, 7, 4096)], RESIDENT_DTYPE)["key"].view(np.int64)
"""One value of a packed record: contiguous for NumPy, at an odd address."""


class _Pointing(Structure):
    ARRAYS, _fields_ = fields(values=np.int64)


def test_values_for_c_are_aligned() -> None:
    """One field of a single packed record is copied to where C may read it."""
    made = contiguous(PACKED)
    assert PACKED.flags.c_contiguous
    assert not PACKED.flags.aligned
    assert made.flags.aligned
    assert made.tolist() == [7]


def test_values_that_c_can_read_are_not_copied() -> None:
    """Aligned values stay where they are."""
    values = np.arange(3)
    assert contiguous(values, np.int64) is values


def test_unaligned_values_are_refused() -> None:
    """No way of passing an array takes one that C must not read."""
    with pytest.raises(TypeError, match="ALIGNED"):
        I64.from_param(PACKED)
    with pytest.raises(TypeError, match="values"):
        _Pointing(values=PACKED)
    with pytest.raises(AssertionError):
        address(PACKED)
