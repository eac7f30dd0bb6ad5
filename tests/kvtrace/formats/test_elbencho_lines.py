"""elbencho's lines: scanned as they are parsed, and put together as a naive model does."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtrace.errors import TraceError
from kvtrace.formats.common.names import texts
from kvtrace.formats.elbencho import lines as elbencho
from kvtrace.formats.elbencho.lines import FIELDS, OPS, WORDS, Lines
from kvtrace.formats.elbencho.ops import Follower

LOG = Path("ops.log")
DATES = st.one_of(
    st.datetimes(datetime(1970, 1, 2), datetime(2261, 12, 31)).map(
        lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}"
    ),
    st.sampled_from(["2024-02-29T23:59:59.999", "2023-02-29T00:00:00.000", "1900-03-01T00:00:00.1",
                     "2100-02-29T00:00:00.000", "2026-01-01T24:00:00.000", "yesterday"]),
)  # fmt: skip
ZONES = st.sampled_from(["+0000", "+0100", "-1130", "+2500", "Z"])
NUMBERS = st.integers(0, 1 << 41) | st.sampled_from([-1, 7, 1 << 62])
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'))
ROWS = st.tuples(
    st.builds(str.__add__, DATES, ZONES),
    st.integers(0, 300),
    st.sampled_from([*WORDS, "mkdirat", ""]),
    PLAIN | st.text(max_size=5),
    NUMBERS,
    NUMBERS,
    st.booleans(),
    st.booleans(),
)


def printed(row: tuple[Any, ...]) -> str:
    """Return a line as elbencho prints it."""
    fields = zip(FIELDS, row, strict=True)
    return (
        "{ "
        + ", ".join(f'"{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in fields)
        + " }"
    )


def columns(lines: Lines) -> list[list[Any]]:
    """Return lines as lists that can be compared."""
    names = lines.names
    numbers = (lines.rank, lines.word, lines.offset, lines.length, lines.is_finished)
    found = [values.tolist() for values in (*numbers, lines.is_error, lines.ns)]
    return [*found, texts(names).to_pylist(), [lines.first]]


@pytest.mark.slow
@given(rows=st.lists(ROWS, min_size=1, max_size=4), compact=st.booleans(), cut=st.integers(0, 30))
def test_lines_are_scanned_as_they_are_parsed(
    rows: list[tuple[Any, ...]], compact: bool, cut: int
) -> None:
    """The scanner takes only what the parser takes, and reads the same from it."""
    lines = [printed(row) for row in rows]
    if compact:
        lines[-1] = lines[-1].replace(": ", ":")
    block = "\n".join(lines).encode()
    block = block[: len(block) - cut] if cut < 3 else block
    scanned = elbencho._scanned(memoryview(block), 6)
    try:
        parsed = elbencho._parsed(LOG, block, 6)
    except TraceError:
        assert scanned is None
    else:
        assert scanned is None or columns(scanned) == columns(parsed)


@pytest.mark.slow
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_what_elbencho_prints_is_scanned(rows: list[tuple[Any, ...]]) -> None:
    """Lines without anything unusual don't go through the slow parser."""
    usual = [("2026-03-01T10:00:00.125+0100", 3, word, "b/o 1", 5, 6, True, False)
             for _, _, word, *_ in rows]  # fmt: skip
    block = "\n".join(printed(row) for row in usual).encode()
    assert elbencho._scanned(memoryview(block), 0) is not None


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["pread", "pwrite", "openat", "close", "unlinkat"]),
        st.sampled_from(["7", "8", "f", "g"]),
        st.integers(0, 1),
        st.booleans(),
    ),
    max_size=40,
)


@given(events=EVENTS, cuts=st.lists(st.integers(0, 80), max_size=3))
def test_ops_are_put_together(events: list[tuple[Any, ...]], cuts: list[int]) -> None:
    """Ends belong to the latest start of an equal op, descriptors to the one file that is open."""
    rows, running = [], defaultdict(list)
    opened: dict[int, str] = {}
    counts: defaultdict[int, int] = defaultdict(int)
    expected, others = [], 0
    for at, (rank, word, entry, offset, failed) in enumerate(events):
        ident = (rank, word, entry, offset)
        ends = bool(running[ident]) and at % 3 > 0
        date = f"2026-03-01T10:00:{at:02}.000+0000"
        rows.append((date, rank, word, entry, offset, 4, ends, failed))
        if not ends:
            running[ident].append(at)
            name = None
        else:
            start = running[ident].pop()
            others += word not in OPS
            if word in elbencho.OPENS and not failed:
                opened[rank], counts[rank] = entry, counts[rank] + 1
            elif word in elbencho.CLOSES and not failed:
                counts[rank] -= 1
            sole = counts[rank] == 1 and rank in opened
            name = entry if not entry.isdigit() else opened[rank] if sole else f"descriptor {entry}"
            if word in OPS:
                expected.append((at, start, name))
    left = sum(len(starts) for (_, word, *_), starts in running.items() if word in OPS)
    follower, found = Follower(), []
    edges = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    for begin, end in pairwise(edges):
        block = "\n".join(printed(row) for row in rows[begin:end]).encode()
        lines = elbencho._lines(LOG, memoryview(block), begin)
        ops = follower.take(lines)
        names = texts(ops.names).to_pylist()
        starts = ((ops.begun_ns // 10**9) % 60).tolist()
        found += zip((ops.line + begin).tolist(), starts, names, strict=True)
    assert found == expected
    assert (follower.left_out, follower.unfinished) == (others, left)


def test_names_with_escapes_come_in() -> None:
    """A block with a name that JSON escapes is parsed as a whole."""
    row = ("2026-03-01T10:00:00.125+0100", 3, "pread", 'b/"é', 5, 6, True, False)
    lines = elbencho._lines(LOG, memoryview(printed(row).encode()), 0)
    assert columns(lines)[-2] == ['b/"é']
    with pytest.raises(TraceError, match=r"ops.log:2"):
        elbencho._lines(LOG, memoryview((printed(row) + "\n{}").encode()), 0)
