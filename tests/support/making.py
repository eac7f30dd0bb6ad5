"""Makes traces for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import Recorded, record
from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {
    "model": "tiny-1b",
    "block_tokens": 64,
    "source.users": 6,
    "duration": "20s",
    "tiers.gpu.capacity": "64MiB",
    "tiers.cpu.capacity": "128MiB",
    "tiers.nvme.capacity": "512MiB",
}
"""A recording of a few thousand rows with all tiers under pressure."""


def make(path: Path, *, workers: int = 1, **options: Any) -> Recorded:
    """Record with `SMALL`, options (`__` for a dot) on top of it."""
    dotted = {key.replace("__", "."): value for key, value in options.items()}
    return record(load_config(None, SMALL | dotted), path, workers=workers)


Row = tuple[int, Op, int, Tier, int, Phase]


def write_rows(path: Path, rows: list[Row], header: Header | None = None, **more: Any) -> Path:
    """Write a trace of a few rows: (timestamp, op, size, tier, key, phase)."""
    names = ("timestamp", "op", "size", "tier", "key", "phase")
    types = ("i8", "u1", "u8", "u1", "u8", "u1")
    columns = {
        name: np.array([row[at] for row in rows], kind)
        for at, (name, kind) in enumerate(zip(names, types, strict=True))
    }
    with TraceWriter(path, header or Header(), tuple(more)) as writer:
        writer.append(columns | more)
    return path
