"""Calls the eviction policy of a tier: one of `policies`, or of a plug-in folder."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

from kvtrace import plugins
from kvtrace.compiled.jit import helper
from kvtrace.errors import UsageError
from kvtrace.policies import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

POLICY = 20
"""Column of a tier's row, behind those that policies use: the policy's number."""


_USUAL = "lru"
"""Asked for first."""


def _usable() -> Iterator[tuple[str, ModuleType]]:
    """Yield policies by name. One that is broken is left out here, and refused by `setup`."""
    for name in sorted(plugins.names(plugins.POLICY), key=_USUAL.__ne__):
        try:
            yield name, plugins.load(plugins.POLICY, name)
        except UsageError:
            continue


_MODULES = dict(_usable())
NAMES = tuple(_MODULES)
"""By their number in a tier's row."""
_POLICIES = tuple(enumerate(_MODULES.values()))[::-1]
"""The last is asked for first."""


def setup(row: Any, name: str, capacity_bytes: int) -> None:
    """Prepare the row of an empty tier. Raises UsageError for an unknown or broken policy."""
    module = plugins.load(plugins.POLICY, name)
    row[POLICY] = NAMES.index(name)
    if hasattr(module, "setup"):
        module.setup(row, capacity_bytes)


@helper
def _ignore(slots: Any, tiers: Any, tier: int, slot: int) -> None:
    """Stand for what a policy doesn't want to know of."""


@helper
def _no_slot(slots: Any, tiers: Any, tier: int) -> int:
    """Stand for what a policy has no slots of."""
    return NONE


def _of_a_slot(function: str) -> Any:
    """Return a function that calls `function` of the tier's policy with a slot.

    Branches that are nested by closures: numba has no table of functions.
    """

    def chosen(others: Any, policy: tuple[int, ModuleType]) -> Any:
        number, module = policy
        call = getattr(module, function, None)
        if call is None:
            return others

        def choose(slots: Any, tiers: Any, tier: int, slot: int) -> None:
            if tiers[tier, POLICY] == number:
                call(slots, tiers, tier, slot)
            else:
                others(slots, tiers, tier, slot)

        return helper(choose)

    return reduce(chosen, _POLICIES, _ignore)


def _of_a_tier(function: str) -> Any:
    """Return a function that asks `function` of the tier's policy for a slot."""

    def chosen(others: Any, policy: tuple[int, ModuleType]) -> Any:
        number, module = policy
        call = getattr(module, function, None)
        if call is None:
            return others

        def choose(slots: Any, tiers: Any, tier: int) -> int:
            if tiers[tier, POLICY] == number:
                slot: int = call(slots, tiers, tier)
            else:
                slot = others(slots, tiers, tier)
            return slot

        return helper(choose)

    return reduce(chosen, _POLICIES, _no_slot)


expect = _of_a_slot("expect")
"""`slot` is about to enter `tier`."""
insert = _of_a_slot("insert")
"""`slot` enters `tier`."""
touch = _of_a_slot("touch")
"""`slot`, which `tier` holds, was asked for."""
remove = _of_a_slot("remove")
"""`slot`, the victim, leaves `tier`."""
victim = _of_a_tier("victim")
"""The slot that leaves `tier` next, or NONE if the tier is empty."""
forget = _of_a_tier("forget")
"""A slot that the tier's policy no longer remembers, or NONE."""
