"""Names of objects in other tools' files, and the keys that they get here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from kvtrace.outfile import TableFile
from kvtrace.schema import Tier

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_DIGITS = 16
_HEX = r"^[0-9a-f]{16}$"
_HEAD = re.compile(r"(.*?)(?:(gpu|cpu|nvme|object)/)?", re.DOTALL)
_UNTOLD = 255
_TABLE = 1 << 22
_SCHEMA = pa.schema([("key", pa.uint64()), ("name", pa.string())])


def names_path(out: Path) -> Path:
    """Return where the names of trace `out` are kept."""
    return out.with_name(f"{out.stem}.keys.parquet")


class NamesFile(TableFile):
    """Writes a row per key: the key, and its name in the other tool's file."""

    def _open(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(self.partial, _SCHEMA, compression="zstd")

    def append(self, keys: NDArray[np.uint64], names: pl.Series) -> None:
        """Add some keys with their names."""
        columns = [pa.array(keys), names.to_arrow().cast(pa.string())]
        self.write(pa.Table.from_arrays(columns, schema=_SCHEMA))


class Names:
    """Turns names into keys: xxh3-64 of a name; of one that an export here made, the key in it.

    Own names are a prefix, a tier and 16 hex digits; one prefix is taken for our own, the first one
    that is met, so that no two names become one key. Hashed names are kept in `names_path(out)`;
    of very many one may stand there more than once: which were met is remembered in a table of
    fixed size.
    """

    def __init__(self, out: Path, *, force: bool) -> None:
        self._file = NamesFile(names_path(out), force=force)
        self._met = np.zeros(_TABLE, np.uint64)
        self._prefix: str | None = None
        self.kept = 0

    def of(self, names: pa.Array, tier: Tier) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Return each name's key and tier, which is `tier` unless an own name tells it."""
        found = names.dictionary_encode()
        texts = pl.Series("name", pl.from_arrow(found.dictionary), pl.String)
        keys, tiers = np.zeros(len(texts), np.uint64), np.full(len(texts), tier, np.uint8)
        own = self._own(texts, keys, tiers)
        others = texts.filter(pl.Series(~own))
        hashes = [xxhash.xxh3_64_intdigest(text.encode()) for text in others.to_list()]
        keys[~own] = np.array(hashes, np.uint64)
        self._keep(keys[~own], others)
        indices = found.indices.to_numpy()
        return keys[indices], tiers[indices]

    def _own(
        self, texts: pl.Series, keys: NDArray[np.uint64], tiers: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Return which names are our own; write their keys, and their tiers if they tell them.

        What stands before the digits takes few values, so that only those are looked at.
        """
        digits = texts.str.tail(_DIGITS)
        fits = digits.str.contains(_HEX)
        own = fits.to_numpy().copy()
        if not own.any():
            return own
        heads = texts.filter(fits).str.head(-_DIGITS).to_arrow().dictionary_encode()
        parts = [_HEAD.fullmatch(head) for head in heads.dictionary.to_pylist()]
        found = [(part[1], part[2]) for part in parts if part is not None]
        codes = heads.indices.to_numpy()
        if self._prefix is None:
            self._prefix = found[codes[0]][0]
        ours = np.array([prefix == self._prefix for prefix, _ in found])[codes]
        known = [_UNTOLD if word is None else Tier[word.upper()] for _, word in found]
        told = np.array(known, np.uint8)[codes]
        own[own] = ours
        keys[own] = digits.filter(pl.Series(own)).str.to_integer(base=16, dtype=pl.UInt64)
        tiers[own] = np.where(told[ours] == _UNTOLD, tiers[own], told[ours])
        return own

    def _keep(self, keys: NDArray[np.uint64], names: pl.Series) -> None:
        places = keys & np.uint64(_TABLE - 1)
        new = self._met[places] != keys
        if new.any():
            self._met[places[new]] = keys[new]
            self._file.append(keys[new], names.filter(pl.Series(new)))
            self.kept += int(new.sum())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Finish the file if it has any names."""
        self._file.__exit__(*raised)
        if raised[0] is None and not self.kept:
            self._file.path.unlink()
