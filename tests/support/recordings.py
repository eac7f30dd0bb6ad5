"""Recordings of engines by hand: files as a recorder writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.capture import spool
from kvtrace.capture.spool import UNKNOWN, UNKNOWN_RANK, Kind
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

KIB32 = 32 << 10
START_NS = 5_000_000_000
WALL_NS = 1_796_000_000_000_000_000
HEAD: dict[str, Any] = {
    "spool": 1,
    "engine": "lmcache",
    "engine_version": "0.5.6",
    "plugin_version": "0.1.0",
    "process": "7-a",
    "part": 0,
    "pid": 7,
    "boot_id": "boot",
    "anchor": {"mono_ns": START_NS, "wall_ns": WALL_NS, "width_ns": 300},
    "key_check": 77,
    "secret_given": True,
    "queue_tasks": 65536,
    "flush_s": 0.2,
    "complete_is": {"nvme": "poll"},
    "not_visible": ["gpu tier"],
    "adapter": {"inner": "fs"},
}


def record(
    op: Op, key: int, submit_us: int, complete_us: int, *,
    tier: Tier = Tier.NVME, phase: Phase = Phase.DECODE, size: int = KIB32, error: int = 0,
    request: int = UNKNOWN, batch: int = 0, position: int = 0,
) -> tuple[int, ...]:  # fmt: skip
    """Return one record; times are since the recording's start."""
    return (
        key, START_NS + submit_us * 1000, START_NS + complete_us * 1000, size, request, UNKNOWN,
        batch, error, position, UNKNOWN_RANK, op, tier, phase, 0,
    )  # fmt: skip


def write(key: int, submit_us: int, complete_us: int, **more: Any) -> tuple[int, ...]:
    """Return a store."""
    return record(Op.WRITE, key, submit_us, complete_us, phase=Phase.PREFILL, **more)


def rows(*records: tuple[int, ...]) -> NDArray[np.void]:
    """Return records as a recorder has them."""
    return np.array(list(records), spool.RECORD)


def end(count: int, *, final: bool = True, **more: Any) -> bytes:
    """Return the frame at a file's end."""
    counts = {"rows": count, "dropped_rows": 0, "bus_dropped": None, "write_errors": 0}
    return spool.pack_json(
        Kind.END, counts | {"guarded_errors": {}, "final": final, "anchor": None} | more
    )


def write_part(
    folder: Path,
    frames: Sequence[NDArray[np.void] | bytes],
    *,
    ended: bool = True,
    **head: Any,
) -> Path:
    """Write a file of frames: a header first, an end last if `ended`."""
    folder.mkdir(exist_ok=True)
    header = HEAD | head
    path = folder / f"lmcache-{header['process']}-{header['part']:04}.kvcap"
    packed = [spool.pack_rows(each) if isinstance(each, np.ndarray) else each for each in frames]
    if ended:
        packed.append(end(sum(len(each) for each in frames if isinstance(each, np.ndarray))))
    path.write_bytes(b"".join([spool.MAGIC, spool.pack_json(Kind.HEADER, header), *packed]))
    return path
