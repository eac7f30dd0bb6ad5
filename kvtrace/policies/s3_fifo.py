"""S3-FIFO: a small queue for new blocks, a main queue for reused ones, a ghost of evicted keys.

Newcomers enter the small queue, a tenth of the tier; from its end those asked for at least twice
move to the main queue, the others leave and are remembered in the ghost. What the ghost remembers
enters the main queue, from whose end a block leaves unless it was asked for since. Until something
was evicted, newcomers that the small queue has no room for enter the main one.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, with the choices
of libCacheSim (ratios, threshold, the filling of an empty cache).
"""

from __future__ import annotations

from kvtrace.policies import of_core


def policy() -> int:
    """Return the address of the table in `s3_fifo.c`."""
    return of_core("kv_policy_s3_fifo")
