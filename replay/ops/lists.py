"""The ring that a plan is written to, and lists of ops that something waits for."""

from __future__ import annotations

import numpy as np

from kvtrace.native.library import INT
from kvtrace.native.structures import Structure, fields
from replay.ops.columns import OP_TYPES, Ops
from replay.ops.contract import power_of_two

JOIN_COUNT = 1 << 14
"""Length from which a list of ops is replaced by one op that waits for them."""
LINK = np.dtype([("next", "i8"), ("length", "u4"), ("op", "u4")], align=True)


class Ring(Structure):
    """The ring of ops, and where in it the plan is: `struct kv_ring` of lists.h."""

    ARRAYS, _fields_ = fields(
        **OP_TYPES,
        capacity=INT,
        edge_capacity=INT,
        extent_words=INT,
        planned=INT,
        floor=INT,
        drained=INT,
        edge_end=INT,
        edge_floor=INT,
        extent_end=INT,
        extent_floor=INT,
    )

    def __init__(self, ops: Ops) -> None:
        super().__init__(
            **ops._asdict(),
            capacity=ops.capacity,
            edge_capacity=len(ops.edges),
            extent_words=len(ops.extents),
        )
        self.ops = ops


class Lists(Structure):
    """Links of lists, a ring: link n is at n & mask. `struct kv_lists` of lists.h.

    `begin`: those before it are of ops below the floor; `end`: how many there were.
    """

    ARRAYS, _fields_ = fields(links=LINK, mask=INT, begin=INT, end=INT)

    def __init__(self, capacity: int) -> None:
        super().__init__(links=np.zeros(capacity, LINK), mask=capacity - 1, begin=1, end=1)

    def enlarge(self) -> None:
        """Make room for more than twice as many links."""
        links, mask = self.array("links"), self.mask
        more = np.zeros(power_of_two(3 * len(links)), LINK)
        link = np.arange(self.begin, self.end)
        more[link & (len(more) - 1)] = links[link & mask]
        self.set(links=more, mask=len(more) - 1)
