"""Least recently used: evict the block whose last store or read is oldest."""

from __future__ import annotations

from kvtrace.policies import of_core


def policy() -> int:
    """Return the address of the table in `lru.c`."""
    return of_core("kv_policy_lru")
