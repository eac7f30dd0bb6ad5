"""Tier, phase and op in six bits, in the order of a trace's totals.

`pack` and the readers take numbers or arrays of them.
"""

from __future__ import annotations

from typing import Any

from kvtrace.trace.schema import Op, Phase, Tier

COUNT = len(Tier) * len(Phase) * len(Op)
URGENCY_BITS = 2
"""A replay's ops have the request's urgency below their cell: 0 unknown, else 1 + that of `Qos`."""
URGENCY_MASK = (1 << URGENCY_BITS) - 1
_MASK = 3


def pack(tier: Any, phase: Any, op: Any) -> Any:
    """Return the cell of a tier, phase and op, each by its wire value."""
    return tier << 4 | phase << 2 | op


def tier_of(cell: Any) -> Any:
    """Return the wire value of a cell's tier."""
    return cell >> 4 & _MASK


def phase_of(cell: Any) -> Any:
    """Return the wire value of a cell's phase."""
    return cell >> 2 & _MASK


def op_of(cell: Any) -> Any:
    """Return the wire value of a cell's op."""
    return cell & _MASK


def unpack(cell: int) -> tuple[Tier, Phase, Op]:
    """Return what `pack` was given."""
    return Tier(tier_of(cell)), Phase(phase_of(cell)), Op(op_of(cell))
