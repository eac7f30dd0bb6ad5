"""SIEVE: a hand moves from old to new; evict the first block not requested since its visit.

Source: Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024.
"""

from __future__ import annotations

from kvtrace.policies import of_core


def policy() -> int:
    """Return the address of the table in `sieve.c`."""
    return of_core("kv_policy_sieve")
