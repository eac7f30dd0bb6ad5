"""kvtrace: makes, reads and checks traces of KV-cache storage."""

from kvtrace.reader import Trace
from kvtrace.reader import open_trace as open  # the verb users expect: kvtrace.open(path)
from kvtrace.version import VERSION

__version__ = VERSION
__all__ = ["Trace", "__version__", "open"]
