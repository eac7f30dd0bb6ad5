"""Keyed hashes of keys, blocks and requests: equal within a capture, meaningless outside.

Without the secret, a hash can't be told from a random number, so that neither prompts nor models
nor requests can be recognised by it. Captures that share a secret share identities.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.capture.spool import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    block is, if that is less. `rank_of`: the rank that owns it.
    """

    key_bytes: Callable[[Any], bytes] = as_bytes
    block_bytes: Callable[[Any], bytes] | None = None
    rank_of: Callable[[Any], int] | None = None


class Identities:
    """The hashes of the keys and requests seen, remembered."""

    def __init__(self, hasher: Hasher, names: Names) -> None:
        self.hasher, self.names = hasher, names
        self._keys: dict[Any, tuple[int, int]] = {}
        self._requests: dict[Any, int] = {}

    def keys(self, keys: Sequence[Any]) -> list[tuple[int, int]]:
        """Return (key, block) of each of an engine's keys."""
        if len(self._keys) > MOST_REMEMBERED:
            self._keys.clear()
        to_bytes, remembered = self.names.key_bytes, self._keys
        raws = [to_bytes(key) for key in keys]
        hashes = [remembered.get(raw) for raw in raws]
        return [
            pair or self._learn(raw, key) for pair, raw, key in zip(hashes, raws, keys, strict=True)
        ]

    def _learn(self, raw: bytes, key: Any) -> tuple[int, int]:
        to_block = self.names.block_bytes
        block = UNKNOWN if to_block is None else self.hasher(b"b", to_block(key))
        pair = self._keys[raw] = self.hasher(b"k", raw), block
        return pair

    def block(self, block: Any) -> int:
        """Return the hash of an engine's own name of a block."""
        return self.hasher(b"b", as_bytes(block))

    def request(self, request: Any) -> int:
        """Return the hash of a request's id, UNKNOWN for None."""
        if request is None:
            return UNKNOWN
        if len(self._requests) > MOST_REMEMBERED:
            self._requests.clear()
        known = self._requests.get(request)
        if known is None:
            known = self._requests[request] = self.hasher(b"r", as_bytes(request))
        return known
