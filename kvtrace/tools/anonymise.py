"""Renames what a trace names, so that it can be given away: a keyed hash of each id."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.models import model_names
from kvtrace.tools.stream import IDS, Stream
from kvtrace.trace.header import Header, Producer, SourceInfo
from kvtrace.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

MIN_SECRET_BYTES, MAX_SECRET_BYTES = 16, 64
ID_BYTES = 8
_COUNTS = (
    "requests", "blocks", "unique_blocks", "objects", "ideal_prefix_hit", "hit_ratio",
    "hit_blocks", "ideal_hit_blocks", "shared_blocks", "shared_hit_blocks",
    "shared_hit_tokens", "shared_ideal_hit_blocks", "token_hit_ratio", "prompt_tokens",
    "generated_tokens", "peak_bytes",
)  # fmt: skip
"""Statistics that only count."""
_KEPT = (
    "layout", "tiers", "write_policy", "tensor_parallel", "num_gpus", "ranks", "resident",
    "dropped_rows",
)  # fmt: skip
"""Header fields that say what the rows are, not where they come from."""


def read_secret(path: Path) -> bytes:
    """Return what is in a key file. Raises UsageError if it can't be read or is too short."""
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read the key: {error.strerror}", where=path) from error
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise UsageError(
            "not a key", where=path, got=f"{len(secret)} bytes",
            accepted=f"{MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes",
            hint="make one: head -c 32 /dev/urandom > FILE",
        )  # fmt: skip
    return secret


def new_secret() -> bytes:
    """Return a random secret, for names that nothing else shares."""
    return os.urandom(MAX_SECRET_BYTES)


class Renamer:
    """Gives ids new names: 64 bits of BLAKE2b with a secret key, one family per column.

    Equal ids of a column stay equal; without the key the originals are unknown, nor that a
    key and a session had the same number. Source: RFC 7693 (keyed BLAKE2b).
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def rename(self, column: str, ids: NDArray[Any]) -> NDArray[Any]:
        """Return the new names of some ids; nulls stay."""
        values, places = np.unique(np.ma.getdata(ids), return_inverse=True)
        person = column.encode()
        names = b"".join(
            hashlib.blake2b(
                value.tobytes(), digest_size=ID_BYTES, key=self._secret, person=person
            ).digest()
            for value in values.astype("<u8")
        )
        renamed: NDArray[Any] = np.frombuffer(names, "<u8").astype(np.uint64)[places]
        if np.ma.isMaskedArray(ids):
            return np.ma.masked_array(renamed, np.ma.getmaskarray(ids))
        return renamed


def anonymised(trace: Trace, secret: bytes) -> Stream:
    """Return a trace with its keys, blocks, sessions and requests renamed; all else stays.

    The header keeps what the rows are (model, layout, tiers, counts), not where they come from.
    """
    renamer = Renamer(secret)
    present = [name for name in IDS if name in trace.columns]

    def batches() -> Iterator[Columns]:
        for columns in trace.batches(nulls=True):
            yield columns | {name: renamer.rename(name, columns[name]) for name in present}

    resident = trace.resident().copy()
    if len(resident):
        resident["key"] = renamer.rename("key", resident["key"])
        resident = resident[np.lexsort((resident["key"], resident["tier"]))]
    return Stream(_header(trace.header), trace.columns, batches(), lambda: resident)


def _header(header: Header) -> Header:
    source, model = header.source, header.model
    if model is not None and model.get("name") not in model_names():
        model = {name: value for name, value in model.items() if name not in ("name", "source")}
        model["name"] = "anonymous"
    entry = {"tool": "anonymise", "hash": "blake2b-64"}
    return Header(
        producer=Producer(version=VERSION),
        source=None if source is None else SourceInfo(name=source.name),
        model=model,
        statistics={n: header.statistics[n] for n in _COUNTS if n in header.statistics},
        anonymised=True,
        half_demotions=header.half_demotions or "replay" in header.statistics,
        capture=None if header.capture is None else header.capture.anonymised(),
        history=[*({"tool": past.get("tool")} for past in header.history), entry],
        **{name: getattr(header, name) for name in _KEPT},
    )
