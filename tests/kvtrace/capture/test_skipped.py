"""A store that an engine skipped, since the file exists, isn't a write."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from kvtrace.capture import moment, skipped
from kvtrace.capture.moment import Anchor, anchor
from kvtrace.capture.skipped import Files

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def write(path: Path, now: Anchor, later_ns: int) -> None:
    path.touch()
    os.utime(path, ns=(now.wall_ns + later_ns, now.wall_ns + later_ns))


def test_a_file_older_than_its_store_was_skipped(tmp_path: Path) -> None:
    """A file that is gone keeps the outcome that the engine reported."""
    now, files = anchor(), Files(lambda key: str(tmp_path / key))
    write(tmp_path / "old", now, -(10**9))
    write(tmp_path / "new", now, 0)
    keys = ["old", "new", "gone"]
    assert files.stored(keys, now.mono_ns).expand(3) == [errno.EEXIST, 0, 0]
    write(tmp_path / "new", now, 10**6)
    failed = files.stored(keys, now.mono_ns, missing=errno.EIO)
    assert failed.expand(3) == [errno.EEXIST, 0, errno.EIO]


def test_a_file_is_written_once_per_date(tmp_path: Path) -> None:
    """Of two stores within a tick of the clock, the second was skipped if the date stayed."""
    now, files = anchor(), Files(lambda key: str(tmp_path / key))
    write(tmp_path / "a", now, 0)
    assert files.stored(["a"], now.mono_ns).expand(1) == [0]
    assert files.stored(["a"], now.mono_ns + 1).expand(1) == [errno.EEXIST]
    write(tmp_path / "a", now, 5 * 10**6)
    assert files.stored(["a"], now.mono_ns + 1).expand(1) == [0]


def test_dates_are_remembered_in_a_bounded_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays small whatever an engine stores."""
    monkeypatch.setattr(skipped, "MOST_REMEMBERED", 2)
    now, files = anchor(), Files(lambda key: str(tmp_path / key))
    for name in "abcde":
        write(tmp_path / name, now, 0)
    assert files.stored(list("abcde"), now.mono_ns).expand(5) == [0] * 5
    assert len(files._dates) <= 2


def test_a_file_that_was_deleted_before_the_look_was_skipped_if_it_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored at 1, skipped at 3, deleted at 4, stored at 5, deleted at 6, skipped never."""
    now, files = anchor(), Files(lambda key: str(tmp_path / key))
    times = iter([now.mono_ns + 4, now.mono_ns + 6])
    monkeypatch.setattr(moment, "monotonic_ns", lambda: next(times))
    for _ in range(2):
        files.deleted("page")
    monkeypatch.undo()
    outcomes = [files.stored(["page"], now.mono_ns + at).expand(1)[0] for at in (1, 3, 5, 7)]
    assert outcomes == [0, errno.EEXIST, 0, 0]
    failed = files.stored(["page"], now.mono_ns + 8, missing=errno.EIO)
    assert failed.expand(1) == [errno.EIO]
