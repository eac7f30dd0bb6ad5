"""First in, first out: evict the block stored longest ago, however often it was read."""

from __future__ import annotations

from kvtrace.policies import of_core


def policy() -> int:
    """Return the address of the table in `fifo.c`."""
    return of_core("kv_policy_fifo")
