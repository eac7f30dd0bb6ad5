"""The header that a target carries once a run of ours has written it, in its first bytes."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass

MARKER_BYTES = 4096
RESERVED_BYTES = 1 << 20
"""Extents start here: the marker has its own extent."""
_MAGIC = b"KVTRACE TARGET\0\x01"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Marker:
    """Which run wrote a target, and how it is laid out."""

    run_id: int
    trace_sha256: str
    align_bytes: int
    begin_bytes: int
    end_bytes: int
    """Where the space for extents begins and ends."""
    written_bytes: int
    """Everything below was written at least once."""
    version: int = VERSION

    def pack(self) -> bytes:
        """Return the marker's block."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        head = _MAGIC + zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")
        assert len(head) + len(text) <= MARKER_BYTES
        return (head + text).ljust(MARKER_BYTES, b"\0")

    @classmethod
    def unpack(cls, block: bytes) -> Marker | None:
        """Return the marker in `block`; None if it isn't one of ours, or is damaged."""
        if not block.startswith(_MAGIC):
            return None
        at = len(_MAGIC)
        checksum = int.from_bytes(block[at : at + 4], "little")
        length = int.from_bytes(block[at + 4 : at + 8], "little")
        text = block[at + 8 : at + 8 + length]
        if len(text) != length or zlib.crc32(text) != checksum:
            return None
        fields = json.loads(text)
        return cls(**fields) if fields.get("version") == VERSION else None
