"""Pools of slots and the structs that C and Python share."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtrace.formats.common.blockio import BlockIoStruct
from kvtrace.formats.common.capacity import CapacityStruct, DeletesStruct
from kvtrace.formats.common.names import NamingStruct, PartsStruct
from kvtrace.formats.common.objects import OpsStruct
from kvtrace.formats.common.words import LinesStruct, WordsStruct
from kvtrace.formats.elbencho.lines import LogStruct
from kvtrace.formats.elbencho.ops import OpenStruct, RowsStruct
from kvtrace.native.core import function
from kvtrace.native.hashmap import MISSING, Pool, PoolStruct
from kvtrace.native.library import INT
from kvtrace.requests.invent import InventingStruct
from kvtrace.requests.invent import RowsStruct as InventedRowsStruct
from kvtrace.sources.bailian import ChatsStruct
from kvtrace.tools.profile_keys import TouchesStruct
from kvtrace.tools.profile_tier import TierStruct
from kvtrace.trace.check import CheckStruct
from kvtrace.trace.reuse import ReuseStruct

ROW = np.dtype([("key", "i8"), ("next", "i8")])
STRUCTS: dict[str, Any] = {
    "kv_pool_size": PoolStruct,
    "kv_check_size": CheckStruct,
    "kv_reuse_size": ReuseStruct,
    "kv_touches_size": TouchesStruct,
    "kv_tier_size": TierStruct,
    "kv_lines_size": LinesStruct,
    "kv_words_size": WordsStruct,
    "kv_block_io_size": BlockIoStruct,
    "kv_capacity_size": CapacityStruct,
    "kv_deletes_size": DeletesStruct,
    "kv_log_ops_size": OpsStruct,
    "kv_inventing_size": InventingStruct,
    "kv_invented_rows_size": InventedRowsStruct,
    "kv_chats_size": ChatsStruct,
    "kv_parts_size": PartsStruct,
    "kv_naming_size": NamingStruct,
    "kv_log_size": LogStruct,
    "kv_log_rows_size": RowsStruct,
    "kv_open_size": OpenStruct,
}


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_are_as_long_as_in_c(name: str) -> None:
    """A field that one side lacks would shift all behind it."""
    assert function(name, returns=INT)() == ctypes.sizeof(STRUCTS[name])


@given(st.lists(st.tuples(st.booleans(), st.integers(-40, 40)), max_size=300))
def test_a_pool_knows_what_is_in_it(steps: list[tuple[bool, int]]) -> None:
    """A key has the slot that it took until it is given back; free slots are used first."""
    pool, slots, most = Pool(ROW, 4), dict[int, int](), 0
    for taken, key in steps:
        if taken and key not in slots:
            slots[key] = int(pool.take(np.array([key]))[0])
        elif not taken and key in slots:
            pool.give_back(np.array([slots.pop(key)]))
        most = max(most, len(slots))
        assert pool.used == most
        keys = np.arange(-40, 41)
        assert pool.find(keys).tolist() == [slots.get(each, MISSING) for each in keys.tolist()]
    assert len(set(slots.values())) == len(slots)


def test_a_pool_grows() -> None:
    """Slots keep their numbers and contents when there are more."""
    pool, keys = Pool(ROW, 4), np.arange(10_000) * 7919
    assert pool.take(keys[:100]).tolist() == list(range(100))
    pool.take(keys[100:])
    assert pool.rows["key"].tolist() == keys.tolist()
    assert pool.find(keys).tolist() == list(range(10_000))
