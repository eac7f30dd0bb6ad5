"""kvtrace: makes, reads and checks traces of KV-cache storage.

import kvtrace
made = kvtrace.record(kvtrace.load_config(None, {"source.users": 10}), "t.parquet")
with kvtrace.open("t.parquet") as trace:
    trace.lazy()        # the rows as a polars LazyFrame
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.version import VERSION

if TYPE_CHECKING:
    from kvtrace.breakeven.ask import BreakEven, breakeven
    from kvtrace.errors import KvtraceError
    from kvtrace.models import Model, load_model
    from kvtrace.recording.config import RecordConfig, load_config
    from kvtrace.recording.pipeline import Recorded, record
    from kvtrace.trace.reader import Trace
    from kvtrace.trace.reader import open_trace as open  # the verb users expect: kvtrace.open(path)
    from kvtrace.whatif.ask import WhatIf, whatif

__version__ = VERSION
__all__ = [
    "BreakEven",
    "KvtraceError",
    "Model",
    "RecordConfig",
    "Recorded",
    "Trace",
    "WhatIf",
    "__version__",
    "breakeven",
    "load_config",
    "load_model",
    "open",
    "record",
    "whatif",
]

_LAZY = {
    "BreakEven": ("kvtrace.breakeven.ask", "BreakEven"),
    "KvtraceError": ("kvtrace.errors", "KvtraceError"),
    "Model": ("kvtrace.models", "Model"),
    "load_model": ("kvtrace.models", "load_model"),
    "RecordConfig": ("kvtrace.recording.config", "RecordConfig"),
    "load_config": ("kvtrace.recording.config", "load_config"),
    "Recorded": ("kvtrace.recording.pipeline", "Recorded"),
    "record": ("kvtrace.recording.pipeline", "record"),
    "Trace": ("kvtrace.trace.reader", "Trace"),
    "open": ("kvtrace.trace.reader", "open_trace"),
    "WhatIf": ("kvtrace.whatif.ask", "WhatIf"),
}


def __getattr__(name: str) -> Any:
    # What only reads traces must not wait for the compiled simulation to be loaded, and what
    # imports one of our modules not for the reader.
    from importlib import import_module

    if name in ("breakeven", "whatif"):  # packages of ours that can be called
        return import_module(f"kvtrace.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'kvtrace' has no attribute {name!r}")
    module, place = _LAZY[name]
    return getattr(import_module(module), place)


def __dir__() -> list[str]:
    return sorted(__all__)
