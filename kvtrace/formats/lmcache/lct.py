"""LMCache's .lct recordings of its storage manager's calls, from both sides.

Source: LMCache 0.5.6, lmcache/v1/mp_observability/trace/{format,codecs}.py and
lmcache/cli/commands/trace/_dispatch.py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NEEDS = "msgpack"
MANAGER = "lmcache.v1.distributed.storage_manager.StorageManager."
LOOK_UP, RESERVE, FINISH_WRITE, ENTER, EXIT, FINISH_READ = (
    "submit_prefetch_task",
    "reserve_write",
    "finish_write",
    "read_prefetched_results.__enter__",
    "read_prefetched_results.__exit__",
    "finish_read_prefetched",
)
HASH_BYTES = 32
KEY_BYTES = 8
OWN_HASH = bytes(HASH_BYTES - KEY_BYTES)
"""Prefix of a chunk's hash that holds one of kvtrace's keys."""
OWN_REQUEST = "kvtrace-"
_MAX_RANK = 255


def packer() -> Any:
    """Return msgpack's `packb`."""
    return importlib.import_module(NEEDS).packb


def kv_rank(rank: int, world: int) -> int:
    """Return what LMCache calls worker `rank` of `world` workers on one node.

    Source: LMCache 0.5.6, `ObjectKey.ComputeKVRank`.
    """
    rank, world = min(rank, _MAX_RANK), min(world, _MAX_RANK)
    return world << 24 | rank << 16 | world << 8 | rank


class Calls:
    """Makes frames of calls: u32 length, then msgpack.

    Keys are copied from a template of their encoding, which has the same length for all.
    """

    def __init__(self, model: str, world: int) -> None:
        self._pack, self._world = packer(), world
        probe = bytes(range(1, HASH_BYTES + 1))
        fields = {"chunk_hash": probe, "model_name": model, "kv_rank": 1 << 31}
        fields["object_group_id"] = 0
        template = self._pack({"__t__": "ObjectKey", "v": fields}, use_bin_type=True)
        self._template = np.frombuffer(template, np.uint8)
        at = template.index(probe)
        self._key = slice(at + len(OWN_HASH), at + HASH_BYTES)
        self._hash_start = slice(at, at + len(OWN_HASH))
        rank_at = template.index((1 << 31).to_bytes(4, "big"))
        self._rank = slice(rank_at, rank_at + 4)

    def header(self, wall_s: float) -> bytes:
        """Return the frame that a file begins with."""
        return self._frame(
            self._pack(
                {
                    "type": "header", "magic": b"LMCT", "format_version": 1, "level": "storage",
                    "trace_schema_version": 1, "t_mono_start": 0.0, "t_wall_start": wall_s,
                    "sm_config_json": "", "sm_config_digest": "",
                },
                use_bin_type=True,
            )
        )  # fmt: skip

    def keys(self, key: NDArray[np.uint64], rank: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the encodings of keys, a row each."""
        rows = np.tile(self._template, (len(key), 1))
        rows[:, self._hash_start] = 0
        rows[:, self._key] = key.astype(">u8").view(np.uint8).reshape(-1, KEY_BYTES)
        numbers = np.array([kv_rank(int(of), self._world) for of in np.unique(rank)], ">u4")
        place = np.searchsorted(np.unique(rank), rank)
        rows[:, self._rank] = numbers[place].view(np.uint8).reshape(-1, 4)
        return rows

    def call(self, method: str, time_s: float, wall_s: float, arguments: dict[str, bytes]) -> bytes:
        """Return the frame of a call whose arguments are encoded already."""
        pack = self._pack
        head = b"".join(
            pack(part) for name, value in (
                ("type", "record"), ("t_mono", time_s), ("t_wall", wall_s),
                ("qualname", MANAGER + method),
            ) for part in (name, value)
        )  # fmt: skip
        named = b"".join(pack(name) + value for name, value in arguments.items())
        return self._frame(_map(5) + head + pack("args") + _map(len(arguments)) + named)

    def key_list(self, keys: NDArray[np.uint8]) -> bytes:
        """Return the encoding of a list of encoded keys."""
        return _array(len(keys)) + keys.tobytes()

    def plain(self, value: Any) -> bytes:
        """Return the encoding of a value without keys."""
        encoded: bytes = self._pack(value, use_bin_type=True)
        return encoded

    def layout(self, size: int, tokens: int | None) -> bytes:
        """Return the layout of an object of `size` bytes: K and V in one, its tokens, the rest."""
        rows = tokens if tokens and size % tokens == 0 else 1
        shape = [1, 1, rows, size // rows]
        desc = {"shapes": [shape], "dtypes": ["torch.uint8"]}
        return self.plain({"__t__": "MemoryLayoutDesc", "v": desc})

    def spec(self, groups: Sequence[tuple[NDArray[np.uint8], bytes]]) -> bytes:
        """Return what a look-up asks for: encoded keys and layout of each rank."""
        pack = self._pack
        listed = _array(len(groups))
        for keys, layout in groups:
            fields = pack("keys") + self.key_list(keys) + pack("object_group_id") + pack(0)
            fields += pack("layout_desc") + layout + pack("sliding_window_size") + pack(-1)
            listed += _tagged(pack, "GroupedObjectKeys", _map(4) + fields)
        lock = pack({"__t__": "PrefetchLockMode", "v": "LOCK"})
        fields = pack("key_groups") + listed + pack("num_kv_readers") + pack(1)
        fields += pack("fetching_policy") + pack("prefix") + pack("lock_mode") + lock
        return _tagged(pack, "PrefetchTaskSpec", _map(4) + fields)

    @staticmethod
    def _frame(body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + body


def _tagged(pack: Any, tag: str, encoded: bytes) -> bytes:
    tagged: bytes = _map(2) + pack("__t__") + pack(tag) + pack("v") + encoded
    return tagged


def _map(entries: int) -> bytes:
    """Return the start of a map. Source: the msgpack specification, formats fixmap and map 32."""
    return bytes([0x80 | entries]) if entries < 16 else b"\xdf" + entries.to_bytes(4, "big")


def _array(entries: int) -> bytes:
    """Return the start of an array. Source: likewise, array 32."""
    return b"\xdd" + entries.to_bytes(4, "big")
