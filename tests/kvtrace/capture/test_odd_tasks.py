"""Tasks that no import takes, and keys that can't be named: lost alone, and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.capture.identity import Hasher, Identities, Names
from kvtrace.capture.spool import Kind
from kvtrace.formats.common.importing import convert
from tests.support import captures

if TYPE_CHECKING:
    from pathlib import Path

ODD: dict[str, dict[str, Any]] = {
    "an op": {"op": 9},
    "a tier": {"tier": 9},
    "a phase": {"phase": 9},
    "a size": {"sizes": 1 << 62},
    "a submission": {"submit_ns": -5},
    "an end": {"complete_ns": -5},
    "a rank": {"rank": 70_000},
}


@pytest.mark.parametrize("name", ODD)
def test_a_value_that_no_import_takes_spoils_its_own_task_only(tmp_path: Path, name: str) -> None:
    """One of them in a file would make the whole recording unreadable, or another value."""
    recorder = captures.recorder(tmp_path / "c")
    usual = {"op": 1, "tier": 2, "phase": 0, "submit_ns": 5, "complete_ns": 9, "sizes": 100}
    recorder.task(**(usual | {"keys": ["odd"]} | ODD[name]))
    recorder.task(**(usual | {"keys": ["a", "b"]}))
    recorder.close()
    (end,) = captures.documents(tmp_path / "c", Kind.END)
    assert (end["rows"], end["dropped_rows"], end["guarded_errors"]) == (2, 1, {"task": 1})
    made = convert([tmp_path / "c"], tmp_path / "t.parquet")
    assert made.header.dropped_rows == 1


def test_a_key_of_an_impossible_rank_spoils_no_later_key() -> None:
    known = Identities(Hasher(b"s"), Names(rank_of=lambda key: 70_000 if key == "odd" else 3))
    with pytest.raises(ValueError, match="rank is out of range"):
        known.places(["odd"])
    places = known.places(["a", "b"])
    assert known.table["rank"][places].tolist() == [3, 3]
    assert known.hashes(places) == [Hasher(b"s")(b"k", key) for key in (b"a", b"b")]


def test_a_key_whose_hash_fails_once_spoils_no_later_key() -> None:
    class Flaky:
        asked = 0

        def __hash__(self) -> int:
            self.asked += 1
            if self.asked == 3:
                raise RuntimeError
            return 7

        def __eq__(self, other: object) -> bool:
            return self is other

    known = Identities(Hasher(b"s"), Names(fields=lambda key: key))
    with pytest.raises(RuntimeError):
        known.places([Flaky()])
    places = known.places(["a", "b"])
    assert known.hashes(places) == [Hasher(b"s")(b"k", key) for key in (b"a", b"b")]
