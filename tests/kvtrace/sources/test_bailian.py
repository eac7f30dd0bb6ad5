"""Bailian's ids, which name a block's own tokens, are chained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvtrace.requests import lines
from tests.support.making import make
from tests.support.request_files import bailian_line, read, write

if TYPE_CHECKING:
    from pathlib import Path

IDS = [[1, 2, 3, 4], [1, 2, 3, 5], [9, 2, 3, 4], [1, 3, 2, 4], [9, 2, 3, 6]]
"""Behind the first: three known ids; three behind another one; one known, three behind it."""


def chats(folder: Path, ids: list[list[int]] = IDS) -> Path:
    """Write a chat of each list, of 16 tokens an id."""
    text = "".join(
        bailian_line(n, -1, n, input_length=16 * len(each), hash_ids=each)
        for n, each in enumerate(ids)
    )
    return write(folder / "a.jsonl", text)


def test_an_id_is_the_same_block_behind_the_same_ids_only(tmp_path: Path) -> None:
    """Blocks are told apart by all ids up to theirs, and what that changes is counted."""
    columns, info = read("bailian", chats(tmp_path))
    assert columns["block_ids"] == [
        [0, 1, 2, 3], [0, 1, 2, 4], [5, 6, 7, 8], [0, 9, 10, 11], [5, 6, 7, 12],
    ]  # fmt: skip
    # Of 20 references 13 have ids that came before; 3 of the third list and 3 of the fourth don't
    # follow what they followed.
    assert info["notes"] == [
        "6 of 13 repeated ids (46.15 %) follow other ids than before: a prefix cache has no such "
        "block, so they are blocks of their own"
    ]


def test_pieces_dont_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither blocks nor counts depend on pieces of lines or on worker processes."""
    path = chats(tmp_path)
    whole = read("bailian", path)
    monkeypatch.setattr(lines, "LINES_PER_PIECE", 2)
    for workers in (1, 2):
        columns, info = read("bailian", path, workers=workers)
        assert (columns, info["notes"]) == (whole[0], whole[1]["notes"])


def test_chained_ids_stay_as_they_are(tmp_path: Path) -> None:
    """Of ids that always follow the same ones nothing changes, and the header says nothing."""
    columns, info = read("bailian", chats(tmp_path, [[1, 2, 3], [1, 2, 4], [5], [1, 2, 3]]))
    assert columns["block_ids"] == [[0, 1, 2], [0, 1, 3], [4], [0, 1, 2]]
    assert "notes" not in info


@pytest.mark.parametrize(("block_tokens", "hits"), [(8, 14), (16, 7), (32, 2), (64, 0)])
def test_hits_of_small_blocks(tmp_path: Path, block_tokens: int, hits: int) -> None:
    """A layout's blocks of 16 tokens and fewer hit what larger ones do: prefixes."""
    made = make(
        tmp_path / "t.parquet", source__users=None, duration=None, source__name="bailian",
        source__input=[str(chats(tmp_path))], block_tokens=block_tokens,
    )  # fmt: skip
    asked = 5 * 64 // block_tokens
    assert made.header.statistics["ideal_prefix_hit"] == pytest.approx(hits / asked)
