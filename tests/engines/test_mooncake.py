"""Mooncake's store, recorded in a program that uses it: the master counts the same."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.capture.spool import Kind
from kvtrace.trace.schema import Op, Tier
from tests.support import captures, engines

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


pytestmark = [
    *engines.needs(engines.VLLM),
    pytest.mark.skipif(
        not engines.own_network(), reason="no network namespace can be made: run as root"
    ),
]


def run(folder: Path, **plan: Any) -> Any:
    arguments = json.dumps({"folder": str(folder), **plan})
    return engines.run(engines.VLLM, "mooncake_drive.py", arguments, before=["unshare", "-n"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded") / "capture"


@pytest.fixture(scope="module")
def recorded(out: Path) -> Any:
    return run(out.parent, capture={"out": str(out), "secret": "one"})


def rows(out: Path, op: Op, error: int = 0) -> np.ndarray:
    every = captures.records(out)
    assert set(every["tier"].tolist()) == {Tier.OBJECT}
    return every[(every["op"] == op) & (every["error"] == error)]


def test_writes_equal_the_masters_count(recorded: Any, out: Path) -> None:
    """Each put that the master saw end is a write; one without space failed."""
    counts = recorded["counts"]
    ended = counts["put_end_requests_total"] + counts["batch_put_end_items_total"]
    assert len(rows(out, Op.WRITE)) == ended > 100
    failed = captures.records(out)
    failed = failed[(failed["op"] == Op.WRITE) & (failed["error"] != 0)]
    assert len(failed) == 1
    assert failed["size"].tolist() == [100 << 20]


def test_the_rest_equals_what_the_program_saw(recorded: Any, out: Path) -> None:
    """Objects held, look-ups and removals are the master's; every load and miss is a row."""
    counts = recorded["counts"]
    removed = rows(out, Op.DELETE)
    assert len(rows(out, Op.WRITE)) - len(removed) == counts["key_count"]
    assert len(removed) == counts["remove_requests_total"] - counts["remove_failures_total"] == 2
    lookups = len(rows(out, Op.LOOKUP)) + len(rows(out, Op.LOOKUP, errno.ENOENT))
    asked = counts["exist_key_requests_total"] + counts["batch_exist_key_items_total"]
    assert lookups == asked
    assert len(rows(out, Op.READ)) == 100 + 6
    assert len(rows(out, Op.READ, errno.ENOENT)) == 7
    assert rows(out, Op.READ)["size"].sum() == 100 * (16 << 10) + 2 * 1000 + 2000 + 2 * 4096 + 8192


def test_the_end_names_calls_that_arent_recorded(recorded: Any, out: Path) -> None:
    """Objects of remove_all are unknown: the call is counted."""
    (end,) = captures.documents(out, Kind.END)
    assert end["final"]
    assert end["unrecorded_calls"] == {"remove_all": 1}
    assert end["guarded_errors"] == {}


def test_the_program_gets_the_same_results(plain: Any, recorded: Any, tmp_path: Path) -> None:
    """With a recording, and with hooks that raise two times out of three."""
    assert recorded["results"] == plain["results"]
    out = tmp_path / "capture"
    faulty = run(tmp_path, faults=True, capture={"out": str(out)})
    assert faulty["results"] == plain["results"]
    (end,) = captures.documents(out, Kind.END)
    assert set(end["guarded_errors"]) >= {"put", "get", "is_exist", "batch_put_from", "get_into"}
