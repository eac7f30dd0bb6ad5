"""Recorders and their files, as tests make and read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.capture import spool
from kvtrace.capture.recorder import Recorder
from kvtrace.capture.settings import Settings
from kvtrace.capture.spool import Damage, Frame, Kind
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from pathlib import Path


def recorder(out: Path, *, recording: dict[str, Any] | None = None, **settings: Any) -> Recorder:
    """Return a recorder that polls at once; `recording`: arguments of the recorder itself."""
    kept = Settings(out, **({"secret": b"s", "flush_s": 0.01} | settings))
    return Recorder(kept, "test", "1.0", **(recording or {}))


def send(to: Recorder, keys: list[Any], size: int = 100, **more: Any) -> None:
    """Record a read of keys from nvme that took 5 ns."""
    to.task(Op.READ, Tier.NVME, Phase.DECODE, 10, 15, keys, size, **more)


def frames(folder: Path, kind: Kind) -> list[Frame]:
    """Return a capture's frames of a kind; fails if any byte is damaged."""
    every = [frame for path in spool.parts(folder) for frame in spool.frames(path)]
    assert not [frame for frame in every if isinstance(frame, Damage)]
    return [frame for frame in every if isinstance(frame, Frame) and frame.kind == kind]


def documents(folder: Path, kind: Kind) -> list[dict[str, Any]]:
    """Return the JSON documents of a capture's frames of a kind."""
    return [spool.document(frame) for frame in frames(folder, kind)]


def records(folder: Path) -> np.ndarray:
    """Return all records of a capture."""
    rows = [spool.records(frame) for frame in frames(folder, Kind.ROWS)]
    return np.concatenate(rows) if rows else np.empty(0, spool.RECORD)
