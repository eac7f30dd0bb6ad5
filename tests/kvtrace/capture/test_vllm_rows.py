"""Calls of vLLM's tiers become rows."""

from __future__ import annotations

import errno
import os
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.capture.moment import monotonic_ns
from kvtrace.capture.skipped import Files
from kvtrace.capture.vllm_rows import CpuWatch, TierWatch, block_bytes
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 4096


class Answer(Enum):
    """As LookupResult of vLLM."""

    MISS = 1
    HIT = 2
    HIT_PENDING = 3
    RETRY = 4


class Rows(list[dict[str, Any]]):
    """What a watch records."""

    NAMES = ("op", "tier", "phase", "submit", "complete", "keys", "sizes", "errors", "request")

    def task(self, *values: Any) -> None:
        row = dict(zip(self.NAMES, values, strict=True))
        if hasattr(row["errors"], "expand"):
            row["errors"] = row["errors"].expand(len(row["keys"]))
        self.append(row)


def asked(request: str) -> Any:
    return SimpleNamespace(req_id=request)


def job(number: int, keys: list[bytes], *, promotion: bool = False) -> Any:
    return SimpleNamespace(job_id=number, keys=keys, is_promotion=promotion, req_context=asked("r"))


def result(number: int, *, success: bool = True, **more: Any) -> Any:
    return SimpleNamespace(
        job_id=number, success=success, **({"successful_keys": None, "transfer_time": None} | more)
    )


def tier(rows: Rows, **more: Any) -> TierWatch:
    return TierWatch(rows.task, Tier.NVME, CHUNK, **more)


def test_a_look_up_is_one_row_from_first_ask_to_answer() -> None:
    """Asks that the scheduler repeats are the same look-up."""
    rows = Rows()
    watch = tier(rows)
    for start, answer in (
        (10, Answer.RETRY),
        (20, Answer.RETRY),
        (30, Answer.HIT),
        (40, Answer.HIT),
    ):
        watch.looked(start, answer, b"k", asked("r"))
    assert [(row["op"], row["submit"], row["errors"], row["request"]) for row in rows] == [
        (Op.LOOKUP, 10, 0, "r")
    ]
    assert rows[0]["complete"] > 40


def test_a_preempted_request_looks_up_anew() -> None:
    """What it asks after the preemption are further look-ups."""
    rows = Rows()
    watch = tier(rows)
    watch.looked(1, Answer.MISS, b"k", asked("r"))
    watch.scheduled(0, None, SimpleNamespace(preempted_req_ids=["r"]))
    watch.looked(5, Answer.MISS, b"k", asked("r"))
    assert [(row["submit"], row["errors"]) for row in rows] == [
        (1, errno.ENOENT),
        (5, errno.ENOENT),
    ]


def test_look_ups_without_an_answer_are_counted() -> None:
    """A request that gave up a look-up leaves no row."""
    rows = Rows()
    watch = tier(rows)
    watch.looked(1, Answer.RETRY, b"a", asked("r"))
    watch.looked(1, Answer.RETRY, b"b", asked("s"))
    watch.looked(1, Answer.MISS, b"c", asked("r"))
    watch.request_finished(0, None, asked("r"))
    watch.closed()
    assert (watch.lookups.unanswered, len(rows)) == (2, 1)


def test_a_load_that_succeeds_in_part() -> None:
    """Keys that didn't arrive have EIO; the tier's own time ends the row."""
    rows = Rows()
    watch = tier(rows)
    watch.submitted(100, None, job(1, [b"a", b"b"], promotion=True))
    watch.finished(0, [result(1, success=False, successful_keys=(b"a",), transfer_time=2e-9)])
    (row,) = rows
    assert (row["op"], row["phase"], row["errors"]) == (Op.READ, Phase.DECODE, [0, errno.EIO])
    assert (row["submit"], row["complete"], row["sizes"]) == (100, 102, CHUNK)


def test_a_failed_store_has_no_bytes() -> None:
    """All keys of a failed store have EIO: the interface has one outcome for a store."""
    rows = Rows()
    watch = tier(rows)
    watch.submitted(1, None, job(1, [b"a", b"b"]))
    watch.finished(0, [result(1, success=False)])
    assert rows[0]["errors"] == [errno.EIO, errno.EIO]


def test_jobs_in_flight_at_the_end() -> None:
    """They are rows with ECANCELED that end with the recording."""
    rows = Rows()
    watch = tier(rows)
    watch.submitted(1, None, job(1, [b"a"]))
    watch.finished(0, [result(2)])
    assert not rows
    watch.closed()
    assert [(row["op"], row["errors"]) for row in rows] == [(Op.WRITE, errno.ECANCELED)]
    assert rows[0]["complete"] > 1


def test_a_store_of_the_fs_tier_asks_the_files(tmp_path: Path) -> None:
    """Stores do, loads don't."""
    rows = Rows()
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (1, 1))
    watch = tier(rows, files=Files(lambda key: str(tmp_path / key.decode())))
    watch.submitted(monotonic_ns(), None, job(1, [b"a"]))
    watch.submitted(monotonic_ns(), None, job(2, [b"a"], promotion=True))
    watch.finished(0, [result(1), result(2)])
    assert [row["errors"] for row in rows] == [[errno.EEXIST], 0]


def prepared(keys: list[bytes], evicted: list[bytes] | None = None) -> Any:
    return SimpleNamespace(keys_to_store=keys, evicted_keys=evicted or [])


def test_a_store_into_the_cpu_tier() -> None:
    """What was evicted for it is deleted, what is here already is refused, each with its start."""
    rows = Rows()
    watch = CpuWatch(rows.task, CHUNK)
    watch.store_prepared(10, prepared([b"a"], [b"x"]), [b"a", b"h"], asked("r"))
    watch.store_prepared(20, prepared([b"b"]), [b"b"], asked("r"))
    watch.store_completed(30, None, [b"a", b"b"], asked("r"))
    kinds = [(row["op"], row["phase"], row["submit"], row["keys"], row["errors"]) for row in rows]
    assert kinds == [
        (Op.DELETE, Phase.EVICT, 10, [b"x"], 0),
        (Op.WRITE, Phase.PREFILL, 10, [b"h"], errno.EEXIST),
        (Op.WRITE, Phase.PREFILL, [10, 20], [b"a", b"b"], 0),
    ]


def test_a_promotion_into_the_cpu_tier() -> None:
    """It is a write of its own phase; one that fails has EIO."""
    rows = Rows()
    watch = CpuWatch(rows.task, CHUNK)
    watch.promotion_prepared(10, prepared([b"a", b"b"]), [b"a", b"b"], asked("r"))
    watch.promotion_completed(20, None, (b"a",), asked("r"), True)
    watch.promotion_completed(20, None, {b"b"}, asked("r"), success=False)
    assert [(row["phase"], row["keys"], row["errors"]) for row in rows] == [
        (Phase.PROMOTE, [b"a"], 0),
        (Phase.PROMOTE, [b"b"], errno.EIO),
    ]


def test_a_tier_without_space_refuses() -> None:
    """No key is stored then."""
    rows = Rows()
    CpuWatch(rows.task, CHUNK).store_prepared(1, None, [b"a", b"b"], asked("r"))
    assert [(row["keys"], row["errors"]) for row in rows] == [([b"a", b"b"], errno.EEXIST)]


def test_a_load_is_pinned_per_request() -> None:
    """Two requests that load one block have their own starts."""
    rows = Rows()
    watch = CpuWatch(rows.task, CHUNK)
    watch.load_prepared(10, None, [b"a"], asked("r"))
    watch.load_prepared(20, None, [b"a"], asked("s"))
    watch.load_completed(30, None, [b"a"], asked("s"))
    watch.load_completed(30, None, [b"a"], asked("r"))
    assert [(row["op"], row["submit"], row["request"]) for row in rows] == [
        (Op.READ, [20], "s"),
        (Op.READ, [10], "r"),
    ]


def test_a_reset_deletes_what_is_held() -> None:
    """Writes in flight have no outcome, blocks that were evicted aren't deleted twice."""
    rows = Rows()
    watch = CpuWatch(rows.task, CHUNK)
    watch.store_prepared(1, prepared([b"a", b"b"]), [b"a", b"b"], asked("r"))
    watch.store_completed(2, None, [b"a", b"b"], asked("r"))
    watch.store_prepared(3, prepared([b"c"], [b"a"]), [b"c"], asked("r"))
    del rows[:]
    watch.reset(9, None)
    watch.reset(9, None)
    assert [(row["op"], row["keys"], row["errors"]) for row in rows] == [
        (Op.WRITE, [b"c"], errno.ECANCELED),
        (Op.DELETE, [b"b"], 0),
    ]


@pytest.mark.parametrize("group", [0, 3])
def test_a_block_is_what_kv_events_call_it(group: int) -> None:
    """The engine publishes the hash's last 64 bits; groups share a block."""
    block_hash = bytes(range(32))
    published = int.from_bytes(block_hash, "big") & (1 << 64) - 1
    key = block_hash + group.to_bytes(4, "big")
    assert int.from_bytes(block_bytes(key), "big") == published
