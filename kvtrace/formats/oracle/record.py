"""libCacheSim's oracleGeneral: 24-byte records of accesses, each with that object's next one.

Source: 1a1a11a/libCacheSim, libCacheSim/traceReader/customizedReader/oracle/oracleGeneralBin.h.
"""

from __future__ import annotations

import numpy as np

RECORD = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
MAX_SIZE_BYTES = (1 << 32) - 1
MAX_TIME_S = (1 << 32) - 1
NEVER = -1
NEVER_TOO = np.iinfo(np.int64).max
"""Value that some writers of the format use instead of −1."""
