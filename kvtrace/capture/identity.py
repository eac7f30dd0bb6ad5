"""Keyed hashes of keys, blocks and requests: equal within a capture, meaningless outside.

Without the secret, a hash can't be told from a random number, so that neither prompts nor models
nor requests can be recognised by it. Captures that share a secret share identities.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.capture.spool import UNKNOWN, UNKNOWN_RANK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HASH_BYTES = 8
MOST_REMEMBERED = 1 << 17
"""Hashes of keys that are kept, some 35 MB of them; a forgotten one is worked out again."""


class Hasher:
    """63-bit keyed hashes (blake2b) under a secret, or a random one."""

    def __init__(self, secret: bytes | None) -> None:
        self.secret_given = secret is not None
        key = hashlib.blake2b(secret or os.urandom(32), digest_size=32).digest()
        self._base = hashlib.blake2b(key=key, digest_size=HASH_BYTES)
        self.check = self(b"c", b"kvtrace capture") & 0xFFFF

    def __call__(self, domain: bytes, data: bytes) -> int:
        """Return the hash of bytes; equal bytes of two domains have different ones."""
        state = self._base.copy()
        state.update(domain + data)
        return int.from_bytes(state.digest(), "little") >> 1


def as_bytes(key: object) -> bytes:
    """Return the bytes of a key that is bytes, text or a number."""
    return key if isinstance(key, bytes) else str(key).encode()


@dataclass(frozen=True, slots=True)
class Names:
    """How an engine's keys become identities; called in the writer thread only.

    `key_bytes`: everything that tells two objects apart. `block_bytes`: what the object's logical
    block is, if that is less. `rank_of`: the rank that owns it. `fields`, where `key_bytes` is
    slow: something quicker (an `attrgetter`) that is equal where `key_bytes` is, and is hashable.
    """

    key_bytes: Callable[[Any], bytes] = as_bytes
    block_bytes: Callable[[Any], bytes] | None = None
    rank_of: Callable[[Any], int] | None = None
    fields: Callable[[Any], Any] | None = None


class Known(list[int]):
    """Places of keys in `Identities`, in lieu of the keys themselves, until the next `trim`."""


IDENTITY = np.dtype([("key", "<u8"), ("block", "<u8"), ("rank", "<u2")])


class Identities:
    """The hashes of the keys and requests seen, remembered: a table, and a place in it per key."""

    def __init__(self, hasher: Hasher, names: Names) -> None:
        self.hasher, self.names = hasher, names
        self._table = np.empty(1024, IDENTITY)
        self._fresh: list[tuple[int, int, int]] = []  # learned, not in the table yet
        self._fields = names.fields or names.key_bytes
        self._places: dict[Any, int] = {}
        self._requests: dict[Any, int] = {}

    def trim(self) -> None:
        """Forget everything if it is much; places are then those of other keys."""
        if len(self._places) > MOST_REMEMBERED:
            self._places.clear()
            self._fresh.clear()
        if len(self._requests) > MOST_REMEMBERED:
            self._requests.clear()

    def places(self, keys: Iterable[Any]) -> Known:
        """Return the place of each of an engine's keys."""
        if type(keys) is Known:
            return keys
        keys = keys if isinstance(keys, list) else list(keys)
        fields = list(map(self._fields, keys))
        places: list[Any] = list(map(self._places.get, fields))
        if None in places:
            for at in [at for at, place in enumerate(places) if place is None]:
                places[at] = self._learn(fields[at], keys[at])
        return Known(places)

    def _learn(self, raw: Any, key: Any) -> int:
        place = self._places.get(raw)  # a key may come twice in a task
        if place is not None:
            return place
        names, hasher = self.names, self.hasher
        key_hash = hasher(b"k", names.key_bytes(key))
        block = UNKNOWN if names.block_bytes is None else hasher(b"b", names.block_bytes(key))
        rank = UNKNOWN_RANK if names.rank_of is None else names.rank_of(key)
        # Whatever a key may raise comes before the table changes, or no later key would fit.
        if not 0 <= rank <= UNKNOWN_RANK:
            raise ValueError("a rank is out of range")
        place = len(self._places)
        self._places[raw] = place
        self._fresh.append((key_hash, block, rank))
        return place

    @property
    def table(self) -> np.ndarray:
        """Key, block and rank of each place."""
        if self._fresh:
            end = len(self._places)
            while end > len(self._table):
                self._table = np.concatenate([self._table, np.empty_like(self._table)])
            self._table[end - len(self._fresh) : end] = self._fresh
            self._fresh.clear()
        return self._table

    def hashes(self, places: Sequence[int]) -> list[int]:
        """Return the hashes of the keys at places."""
        hashes: list[int] = self.table["key"][places].tolist()
        return hashes

    def block(self, block: Any) -> int:
        """Return the hash of an engine's own name of a block."""
        return self.hasher(b"b", as_bytes(block))

    def request(self, request: Any) -> int:
        """Return the hash of a request's id, UNKNOWN for None."""
        if request is None:
            return UNKNOWN
        known = self._requests.get(request)
        if known is None:
            known = self._requests[request] = self.hasher(b"r", as_bytes(request))
        return known
