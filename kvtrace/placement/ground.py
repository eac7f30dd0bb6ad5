"""The space of each lane, as extents in use and holes between them.

A lane whose extents all have one length keeps freed ones in a queue. Other lanes keep every extent
and every freed part as a *node*, linked in order of address. Neighbouring free nodes are a *hole*,
kept in bins by length, the hole that changed longest ago first. A free node remembers the *ref* of
the op that freed it, so that its next user can wait for that op; nodes of one ref are joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.library import INT
from kvtrace.native.structures import Structure, fields

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNBOUNDED, UNIFORM, MIXED = range(3)
"""Kinds of lanes: no extent is used again; all have one length; lengths differ."""

LANE = np.dtype(
    [
        ("kind", "i8"),
        ("top", "i8"),
        ("limit", "i8"),
        ("cap", "i8"),
        ("part", "i8"),
        ("last", "i8"),
        ("head", "i8"),
        ("tail", "i8"),
        ("free", "i8"),
    ],
    align=True,
)
"""`top`: where never-used space begins; it is used up to `limit` before any is used again, and up
to `cap` before objects are divided at will. `part`: what else objects are divided into multiples
of. `last`: node below `top`. `head`, `tail`: a uniform lane's queue. `free`: free nodes."""

NODE = np.dtype(
    [
        ("begin", "i8"),
        ("length", "i8"),
        ("ref", "i8"),
        ("hole", "i8"),
        ("below", "i4"),
        ("above", "i4"),
        ("older", "i4"),
        ("newer", "i4"),
        ("other", "i4"),
        ("next", "i4"),
        ("free", "i4"),
    ],
    align=True,
)
"""`hole`, `older`, `newer`: in the first node of a hole, its length and its neighbours in the bin.
`other`: a hole's last node in its first one, and the reverse. `next`: the object's next extent."""

_BIN_COUNT = 64 << 4
BINS = np.dtype(
    [("oldest", "i4", _BIN_COUNT), ("newest", "i4", _BIN_COUNT), ("words", "u8", _BIN_COUNT // 64)]
)
"""Per length: the first and the last hole; a bit where there are any."""


class Ground(Structure):
    """The space of all lanes: `struct kv_ground` of ground.h."""

    ARRAYS, _fields_ = fields(
        lanes=LANE, bins=BINS, nodes=NODE, refs=np.int64, room=INT, used=INT, spare=INT,
        ref_count=INT,
    )  # fmt: skip

    @property
    def spaces(self) -> NDArray[np.void]:
        """The lanes, of type `LANE`."""
        return self.array("lanes")

    def enlarge(self) -> None:
        """Make room for twice as many nodes."""
        nodes = self.array("nodes")
        self._hold(np.concatenate((nodes, np.zeros_like(nodes))))

    def _hold(self, nodes: NDArray[np.void]) -> None:
        self.set(nodes=nodes, refs=np.zeros(len(nodes), np.int64), room=len(nodes))


def make_ground(lanes: NDArray[np.void], nodes: int = 1 << 10) -> Ground:
    """Return the space of `lanes`, which it changes, with room for `nodes` nodes."""
    ground = Ground(lanes=lanes, bins=np.zeros(len(lanes), BINS), used=1)
    ground._hold(np.zeros(nodes, NODE))
    return ground
