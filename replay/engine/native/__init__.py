"""The compiled replay loop: engines `uring` and `threads`, huge-page memory, stamps.

Importing never fails for want of the library: `available()` of an engine says what is missing.
"""

from replay.engine.native.engine import IO_BUCKETS, Feature, NativeEngine, threads, uring
from replay.engine.native.library import uring_available
from replay.engine.native.publish import publish
from replay.engine.native.stamps import Checked, Stamp, check, found, stamp
from replay.payload.memory import PageKind, allocate

__all__ = [
    "IO_BUCKETS",
    "Checked",
    "Feature",
    "NativeEngine",
    "PageKind",
    "Stamp",
    "allocate",
    "check",
    "found",
    "publish",
    "stamp",
    "threads",
    "uring",
    "uring_available",
]
