"""Names of objects in other tools' files, and the keys that they get here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from kvtrace.errors import write_failure
from kvtrace.outfile import WholeFile
from kvtrace.schema import Tier

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_OWN = r"(?s)^(?P<prefix>.*?)(?:(?P<tier>gpu|cpu|nvme|object)/)?(?P<key>[0-9a-f]{16})$"
_TABLE = 1 << 22
_SCHEMA = pa.schema([("key", pa.uint64()), ("name", pa.string())])


def names_path(out: Path) -> Path:
    """Return where the names of trace `out` are kept."""
    return out.with_name(f"{out.stem}.keys.parquet")


class _NamesFile(WholeFile):
    def _open(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(self._partial, _SCHEMA, compression="zstd")

    def append(self, keys: NDArray[np.uint64], names: pa.Array) -> None:
        try:
            self._file.write_table(pa.Table.from_arrays([pa.array(keys), names], schema=_SCHEMA))
        except OSError as error:
            raise write_failure(self.path, error) from error


class Names:
    """Turns names into keys: xxh3-64 of a name; of one that an export here made, the key in it.

    Own names are a prefix, a tier and 16 hex digits; one prefix is taken for our own, the first one
    that is met, so that no two names become one key. Hashed names are kept in `names_path(out)`;
    of very many one may stand there more than once: which were met is remembered in a table of
    fixed size.
    """

    def __init__(self, out: Path, *, force: bool) -> None:
        self._file = _NamesFile(names_path(out), force=force)
        self._met = np.zeros(_TABLE, np.uint64)
        self._prefix: str | None = None
        self.kept = 0

    def of(self, names: pa.Array, tier: Tier) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Return each name's key and tier, which is `tier` unless an own name tells it."""
        found = names.dictionary_encode()
        texts = pl.Series("name", pl.from_arrow(found.dictionary), pl.String)
        parts = texts.str.extract_groups(_OWN).struct.unnest()
        own = self._own(parts)
        keys = parts["key"].str.to_integer(base=16, dtype=pl.UInt64).fill_null(0).to_numpy().copy()
        others = texts.filter(~own)
        hashes = [xxhash.xxh3_64_intdigest(text.encode()) for text in others.to_list()]
        keys[~own.to_numpy()] = np.array(hashes, np.uint64)
        words = {word.label: int(word) for word in Tier}
        told = parts["tier"].replace_strict(words, default=None, return_dtype=pl.UInt8)
        tiers = pl.select(pl.when(own & told.is_not_null()).then(told).otherwise(int(tier)))
        self._keep(np.array(hashes, np.uint64), others.to_arrow().cast(pa.string()))
        indices = found.indices.to_numpy()
        return keys[indices], tiers.to_series().cast(pl.UInt8).to_numpy()[indices]

    def _own(self, parts: pl.DataFrame) -> pl.Series:
        """Return which names are our own."""
        prefixes = parts["prefix"].filter(parts["key"].is_not_null())
        if self._prefix is None and len(prefixes):
            self._prefix = prefixes[0]
        return parts["key"].is_not_null() & (parts["prefix"] == (self._prefix or ""))

    def _keep(self, keys: NDArray[np.uint64], names: pa.Array) -> None:
        places = keys & np.uint64(_TABLE - 1)
        new = self._met[places] != keys
        if new.any():
            self._met[places[new]] = keys[new]
            self._file.append(keys[new], names.filter(pa.array(new)))
            self.kept += int(new.sum())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Finish the file if it has any names."""
        self._file.__exit__(*raised)
        if raised[0] is None and not self.kept:
            self._file.path.unlink()
