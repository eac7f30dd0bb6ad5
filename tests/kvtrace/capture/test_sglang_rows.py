"""Calls of SGLang's storage back ends become rows."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from kvtrace.capture.sglang_rows import HiCacheWatch, block_bytes
from kvtrace.trace.schema import Op, Phase, Tier

PAGE = 64


class Tensor:
    def __init__(self, numbers: int, width: int = 2) -> None:
        self.numbers, self.width = numbers, width

    def numel(self) -> int:
        return self.numbers

    def element_size(self) -> int:
        return self.width


class Pool:
    def get_dummy_flat_data_page(self) -> Tensor:
        return Tensor(PAGE // 2)


@pytest.fixture
def rows() -> list[tuple[Any, ...]]:
    return []


@pytest.fixture
def watch(rows: list[tuple[Any, ...]]) -> HiCacheWatch:
    """A watch that knows the host's pool and appends (op, phase, keys, sizes, errors)."""

    def record(op: Op, tier: Tier, phase: Phase, start: int, end: int, *rest: Any) -> None:
        keys, sizes, errors, request, rank = rest
        assert (tier, request, rank, start < end) == (Tier.NVME, None, 3, True)
        rows.append((op, phase, keys, sizes, errors))

    watch = HiCacheWatch(record, Tier.NVME, 3)
    watch.pool_registered(0, None, Pool())
    return watch


def test_a_count_of_pages_is_hits_and_one_miss(watch: HiCacheWatch, rows: list[Any]) -> None:
    """Pages behind the first miss weren't asked for."""
    watch.batch_existed(1, 1, ["a", "b", "c"], None)
    watch.batch_existed(1, 2, ["a", "b"], extra_info=None)
    watch.batch_existed_v2(1, SimpleNamespace(kv_hit_pages=0), ["a"])
    assert rows == [
        (Op.LOOKUP, Phase.DECODE, ["a", "b"], 0, [0, errno.ENOENT]),
        (Op.LOOKUP, Phase.DECODE, ["a", "b"], 0, [0, 0]),
        (Op.LOOKUP, Phase.DECODE, ["a"], 0, [errno.ENOENT]),
    ]


def test_reads_tell_what_came(watch: HiCacheWatch, rows: list[Any]) -> None:
    """A result per page or a count; sizes are the tensors', or a page's."""
    watch.batch_got(1, [Tensor(4), None], ["a", "b"], [Tensor(4), Tensor(8)])
    watch.batch_got(1, 1, ["a", "b"])
    watch.batch_got(1, None, ["a"])
    watch.batch_got_v1(1, [True, False], ["a", "b"], None)
    watch.got(1, None, "a", Tensor(4))
    assert rows == [
        (Op.READ, Phase.DECODE, ["a", "b"], [8, 16], [0, errno.ENOENT]),
        (Op.READ, Phase.DECODE, ["a", "b"], PAGE, [0, errno.ENOENT]),
        (Op.READ, Phase.DECODE, ["a"], PAGE, [errno.ENOENT]),
        (Op.READ, Phase.DECODE, ["a", "b"], PAGE, [0, errno.ENOENT]),
        (Op.READ, Phase.DECODE, ["a"], 8, [errno.ENOENT]),
    ]


def test_writes_tell_what_was_stored(watch: HiCacheWatch, rows: list[Any]) -> None:
    """One result is that of all pages."""
    watch.batch_was_set(1, True, ["a", "b"], [Tensor(4), Tensor(8)])
    watch.batch_was_set(1, False, ["a"], None)
    watch.batch_was_set_v1(1, [True, False], ["a", "b"], None)
    watch.was_set(1, None, "a", Tensor(4))
    assert rows == [
        (Op.WRITE, Phase.PREFILL, ["a", "b"], [8, 16], 0),
        (Op.WRITE, Phase.PREFILL, ["a"], PAGE, errno.EIO),
        (Op.WRITE, Phase.PREFILL, ["a", "b"], PAGE, [0, errno.EIO]),
        (Op.WRITE, Phase.PREFILL, ["a"], 8, errno.EIO),
    ]


def test_pages_that_mooncake_has_are_skipped(watch: HiCacheWatch, rows: list[Any]) -> None:
    """Its back end asks for all objects of a page, stores what lacks, and says it stored all."""
    watch.parts_existed(1, [1, 1, 1, 0, 0, 0], ["a_k", "a_v", "b_k", "b_v", "c_k", "c_v"])
    watch.batch_was_set_v1(1, [True, True, False], ["a", "b", "c"], None)
    watch.batch_was_set_v1(1, [True], ["a"], None)
    assert [row[4] for row in rows] == [[errno.EEXIST, 0, errno.EIO], [0]]


def test_pools_of_other_state_have_keys_of_their_own(watch: HiCacheWatch, rows: list[Any]) -> None:
    """A page of another pool is another object, of that pool's size."""
    watch.further_pool_registered(0, None, SimpleNamespace(
        get_dummy_flat_data_page=lambda: Tensor(5)
    ), "mamba")  # fmt: skip
    transfers = [SimpleNamespace(name="kv", keys=["a"]), SimpleNamespace(name="mamba", keys=["a"])]
    watch.batch_was_set_v2(1, {"kv": [True], "mamba": [False]}, transfers)
    watch.batch_got_v2(1, {"kv": [True], "mamba": [False]}, transfers, extra_info=None)
    assert rows == [
        (Op.WRITE, Phase.PREFILL, ["a"], PAGE, [0]),
        (Op.WRITE, Phase.PREFILL, ["a.mamba"], 10, [errno.EIO]),
        (Op.READ, Phase.DECODE, ["a"], PAGE, [0]),
        (Op.READ, Phase.DECODE, ["a.mamba"], 10, [errno.ENOENT]),
    ]


def test_no_pages_are_no_row(watch: HiCacheWatch, rows: list[Any]) -> None:
    """A call without keys did nothing."""
    watch.batch_existed(1, 0, [])
    assert not rows


def test_a_block_is_what_kv_events_call_it() -> None:
    """SGLang publishes a page's hash as its first 16 digits, signed; pools share the block."""
    page_hash = "f0" + "0123456789abcdef" * 3
    published = int(page_hash[:16], 16) - (1 << 64)
    block = int.from_bytes(block_bytes(f"{page_hash}.mamba"), "big", signed=True)
    assert block == published
    assert block_bytes("not a hash") == b"not a hash"
