"""Small random traces that hold all invariants, for properties of exporters and importers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from tests.support.making import Row

TIERS = (Tier.GPU, Tier.CPU, Tier.NVME)
_KEYS = 6
_SIZES = (1, 512, 4096, 5000, 131_072, 1 << 20)
_STEPS_NS = (0, 1, 999, 1_000, 12_345, 1_000_000_000)


@st.composite
def traces(draw: st.DrawFn, tiers: tuple[Tier, ...] = TIERS) -> list[Row]:
    """Draw rows: whole objects of a fixed size each, some of them there before the first row.

    Nothing is read or deleted that isn't there, and the first row of an object that is there
    before is a read.
    """
    sizes = draw(st.lists(st.sampled_from(_SIZES), min_size=_KEYS, max_size=_KEYS))
    step = st.tuples(
        st.sampled_from(_STEPS_NS),
        st.sampled_from((Op.WRITE, Op.WRITE, Op.READ, Op.READ, Op.DELETE, Op.LOOKUP)),
        st.sampled_from(tiers),
        st.integers(0, _KEYS - 1),
        st.sampled_from(Phase),
    )
    steps = draw(st.lists(step, min_size=1, max_size=60))
    now, live, dead = 0, set(), set()
    rows: list[Row] = []
    for gap, op, tier, key, phase in steps:
        now += gap
        there = (tier, key)
        if (op is Op.READ and there in dead) or (op is Op.DELETE and there not in live):
            op = Op.WRITE
        if op is Op.DELETE:
            live.discard(there)
            dead.add(there)
        elif op is not Op.LOOKUP:
            live.add(there)
            dead.discard(there)
        rows.append((now, op, 0 if op is Op.LOOKUP else sizes[key], tier, 1000 + key, phase))
    return rows
