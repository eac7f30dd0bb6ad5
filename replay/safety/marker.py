"""The header that a target carries once a run of ours has written it, in its first bytes."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any

MARKER_BYTES = 4096
_MAGIC = b"KVTRACE TARGET\0\x01"
VERSION = 2
"""2 (24 November 2026) adds `preconditioned` and `populated`. Markers of version 1 are read."""
_READ = (1, 2)


@dataclass(frozen=True, slots=True)
class Preconditioned:
    """How a target was brought to a known state."""

    at_s: int
    """When it was done, in seconds of Unix time."""
    end_bytes: int
    """Everything between the marker and there was written in each pass."""
    passes: int
    """The first is sequential, the others are random."""
    steady: bool | None
    """Whether the write rate was steady at the end; None if nothing was written at random."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Which run wrote a target, and how it is laid out."""

    run_id: int
    trace_sha256: str
    align_bytes: int
    begin_bytes: int
    end_bytes: int
    """Where the space for extents begins, and where the largest that a run was given ends."""
    written_bytes: int
    """Everything below was written at least once."""
    preconditioned: Preconditioned | None = None
    populated: str | None = None
    """Digest of the objects that a run has written before its clock started, and none since."""
    version: int = VERSION

    def pack(self) -> bytes:
        """Return the marker's block."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        head = _MAGIC + zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")
        assert len(head) + len(text) <= MARKER_BYTES
        return (head + text).ljust(MARKER_BYTES, b"\0")

    @classmethod
    def unpack(cls, block: bytes) -> Marker | None:
        """Return the marker in `block`; None if it isn't one of ours, or is damaged.

        What follows its text in the block is zeros: a partition table written into it is another's.
        """
        if not block.startswith(_MAGIC):
            return None
        at = len(_MAGIC)
        checksum = int.from_bytes(block[at : at + 4], "little")
        length = int.from_bytes(block[at + 4 : at + 8], "little")
        text = block[at + 8 : at + 8 + length]
        if len(text) != length or zlib.crc32(text) != checksum or any(block[at + 8 + length :]):
            return None
        fields: dict[str, Any] = json.loads(text)
        if fields.pop("version", None) not in _READ:
            return None
        state = fields.pop("preconditioned", None)
        return cls(**fields, preconditioned=None if state is None else Preconditioned(**state))
