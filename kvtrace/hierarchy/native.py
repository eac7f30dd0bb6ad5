"""The structures of `hierarchy.h` and `policy.h` as Python sees them, and the functions on them."""

from __future__ import annotations

import ctypes

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.library import I64, INT, POINTER
from kvtrace.trace.cell import COUNT
from kvtrace.trace.schema import Tier

TIERS = len(Tier)
NONE = -1

DONE, NEED_REQUESTS, NEED_CHAIN, NEED_SLOTS, EVENTS_FULL, PAUSED = range(6)
"""Why `run` stopped."""

LOOK_UP, LOAD, STORE, FIRST_DECODE = range(4)
"""Steps of a request (schema: column `step`); NONE: done."""

RUN, SHARED, CHECKPOINT = 1, 2, 4
"""Flags of a block. A run is a prefix of its own; a checkpoint is the state behind a block."""

HELD = (1 << TIERS) - 1
"""In a slot's `where`: bit t, tier t holds it."""

SUB_BINS = 32
BINS = 38 * SUB_BINS
"""Of histograms: bins for each power of two of microseconds, of which the first are exact."""

SLOT = np.dtype(
    [
        ("ident", np.int64),
        ("key", np.int64),
        ("tokens", np.int64),
        ("where", np.uint64),
        ("links", np.uint32, (TIERS, 2)),
    ]
)
"""`struct kv_slot`: a line of the CPU's cache."""

REQUEST = np.dtype(
    [
        (name, np.int64)
        for name in (
            "arrival_ns", "think_ns", "follow", "chain", "session", "last_turn",
            "input_tokens", "output_tokens", "qos", "prompt_blocks", "begin", "end",
            "number", "step", "hit_blocks", "prefilled_ns", "decoding_ns",
        )
    ]
)  # fmt: skip
"""`struct kv_request`."""

BLOCK = np.dtype([(name, np.int64) for name in ("ident", "tokens", "at", "flags", "slot")])
"""`struct kv_block`."""

NEXT = np.dtype([(name, np.int64) for name in ("time_ns", "order", "row")])
"""`struct kv_next`."""

EVENT_COLUMNS = {
    "time_ns": np.int64,
    "key": np.int64,
    "tokens": np.int64,
    "request": np.int64,
    "session": np.int64,
    "step": np.uint16,
    "op": np.uint8,
    "tier": np.uint8,
    "phase": np.uint8,
    "qos": np.uint8,
}
"""Columns of events, in the order in which `struct kv_hierarchy` has their pointers."""


class TierStruct(ctypes.Structure):
    """`struct kv_tier`."""

    _fields_ = (
        ("policy", POINTER),
        ("state", POINTER),
        *(
            (name, INT)
            for name in (
                "number", "high_bytes", "low_bytes", "used_bytes", "peak_bytes", "hits", "evicted",
                "token_bytes", "block_bytes", "constant_bytes", "window_token_bytes",
                "window_tokens", "align_bytes",
            )
        ),
    )  # fmt: skip


class HierarchyStruct(ctypes.Structure):
    """`struct kv_hierarchy`."""

    _fields_ = (
        ("tiers", TierStruct * TIERS),
        ("slots", POINTER),
        ("entries", POINTER),
        ("mask", ctypes.c_uint64),
        ("requests", POINTER),
        ("blocks", POINTER),
        ("block_count", INT),
        ("heap", POINTER),
        *((name, POINTER) for name in EVENT_COLUMNS),
        *(
            (name, INT)
            for name in (
                "events", "events_limit",
                "write_through", "promote", "tail_first", "second_use", "hybrid", "lookups",
                "generation_ns", "prefill_ps", "reread_tokens", "prefill_slots", "decode_slots",
            )
        ),
        ("prefill_free_ns", POINTER),
        ("decode_free_ns", POINTER),
        *(
            (name, INT)
            for name in (
                "max_requests", "end_ns", "pause_ns", "pause_requests", "pause_tier",
                "tallied_tokens",
                "stream", "loaded", "no_more", "heap_size", "first_free", "fresh", "free_slots",
                "request_base", "block_base", "asked",
                "now_ns", "now_step", "now_request", "now_session", "now_qos",
                "keys", "states", "begun", "blocks_asked", "hit_tokens", "ideal_hits",
                "prompt_tokens", "generated_tokens",
                "shared_blocks", "shared_hits", "shared_hit_tokens", "shared_ideal_hits",
                "prefill_tokens", "prefill_busy_ns", "prefill_end_ns", "decode_wait_ns",
                "tallied_ns",
            )
        ),
        ("tally", INT * COUNT),
        ("first_token", INT * BINS),
        ("prefill_wait", INT * BINS),
    )  # fmt: skip


_HIERARCHY = ctypes.POINTER(HierarchyStruct)
run = function("kv_hierarchy_run", _HIERARCHY, returns=ctypes.c_int)
"""Process what happens next, in order of (time, request, step), until something is needed."""
preload = function("kv_hierarchy_preload", _HIERARCHY, I64, I64, INT, INT, returns=INT)
"""Enter blocks that are there at the start; return how many fitted. Slots are free for all."""
restart = function("kv_hierarchy_restart", _HIERARCHY, INT, I64, I64, INT, returns=INT)
"""Empty tiers, deleting the slots given; return how many requests in flight begin again."""
setup_tier = function("kv_tier_setup", ctypes.POINTER(TierStruct))
"""Let a policy prepare its state of an empty tier."""
load_blocks = function("kv_load_blocks", I64, INT, I64, I64, I64, I64)
"""Put columns of blocks (identity, tokens, at, flags) into rows."""
