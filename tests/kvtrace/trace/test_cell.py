"""Tier, phase and op in one number."""

from __future__ import annotations

from itertools import product

import numpy as np

from kvtrace.trace.cell import COUNT, op_of, pack, phase_of, tier_of, unpack
from kvtrace.trace.schema import Op, Phase, Tier


def test_each_has_a_cell_of_its_own_in_the_order_of_totals() -> None:
    """Packed and unpacked it is the same; arrays as numbers."""
    all_of_them = list(product(Tier, Phase, Op))
    cells = [pack(*each) for each in all_of_them]
    assert cells == list(range(COUNT))
    assert [unpack(cell) for cell in cells] == all_of_them
    columns = np.array(all_of_them, np.uint8).T
    packed = pack(*columns)
    assert packed.tolist() == cells
    assert packed.dtype == np.uint8
    assert np.array_equal([tier_of(packed), phase_of(packed), op_of(packed)], columns)
