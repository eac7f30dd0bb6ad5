"""The compiled replay loop: engines `uring` and `threads`, huge-page memory, stamps.

Importing never fails for want of the library: `available()` of an engine says what is missing.
"""

from replay.native.engine import IO_BUCKETS, Feature, NativeEngine, threads, uring
from replay.native.library import uring_available
from replay.native.memory import PageKind, allocate
from replay.native.publish import publish
from replay.native.stamps import Checked, Stamp, check, found, stamp

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
