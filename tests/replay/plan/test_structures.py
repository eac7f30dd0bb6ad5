"""Structures that Python and C share have one size in both."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from kvtrace.native.core import CORE
from kvtrace.native.library import INT, Library
from kvtrace.native.structures import Structure, fields
from kvtrace.placement import allocator, ground, objects, places, rehearsal, rows
from replay.measure import groups, overlaps, slices, violations
from replay.measure.requests import measure
from replay.native import LOOP
from replay.ops import lists
from replay.plan import gates, order

IN_CORE = {
    "space": ground.LANE,
    "node": ground.NODE,
    "bins": ground.BINS,
    "ground": ground.Ground,
    "place": places.PLACE,
    "rows": rows.Rows,
    "object": objects.OBJECT,
    "original": objects.ORIGINAL,
    "survey": objects.Tally,
    "peak": rehearsal.PEAK,
    "changes": rehearsal.Changes,
    "placing": allocator._Placing,
}
IN_LOOP = {
    "plan": order.Plan,
    "ring": lists.Ring,
    "lists": lists.Lists,
    "link": lists.LINK,
    "order": order.ORDER,
    "stream": gates.STREAM,
    "groups": gates.GroupRows,
    "counted": groups._Counted,
    "segment": overlaps._SEGMENT,
    "segments": overlaps._Segments,
    "moved": overlaps._Moved,
    "tier_state": violations._TIER,
    "place_state": violations._PLACE,
    "ran": violations._Ran,
    "sliced": slices._Sliced,
    "gathered": measure._Gathered,
}


@pytest.mark.parametrize(
    ("library", "name", "kind"),
    [(CORE, *item) for item in IN_CORE.items()] + [(LOOP, *item) for item in IN_LOOP.items()],
    ids=[*IN_CORE, *IN_LOOP],
)
def test_one_size_in_both(library: Library, name: str, kind: Any) -> None:
    """A member that is added on one side only would shift those behind it."""
    size = library.function(f"kv_{name}_size", returns=INT)()
    assert size == (kind.itemsize if isinstance(kind, np.dtype) else ctypes.sizeof(kind))


def test_an_array_of_another_type_is_refused() -> None:
    """Nor one with gaps between its elements: C would read other bytes."""

    class Pair(Structure):
        ARRAYS, _fields_ = fields(values=np.int64, count=INT)

    pair = Pair(values=np.arange(4), count=4)
    assert (pair.count, pair.array("values").tolist()) == (4, [0, 1, 2, 3])
    for wrong in (np.arange(4, dtype=np.int32), np.arange(8)[::2]):
        with pytest.raises(TypeError, match=r"Pair\.values"):
            pair.set(values=wrong)
