"""Version 1.1: what captures need beside version 1, and what files without it stay."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kvtrace.errors import TraceError
from kvtrace.tools.anonymise import anonymised
from kvtrace.tools.diff import compare
from kvtrace.tools.merge import merged
from kvtrace.tools.profile import profile
from kvtrace.tools.slice import Cut, sliced
from kvtrace.tools.stats import summarise
from kvtrace.tools.stream import write
from kvtrace.trace.check import check
from kvtrace.trace.header import Capture, Header
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import CAPTURE_VERSION, FORMAT_VERSION, Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from tests.support.traces import make_columns, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Cli

KIB4 = 4096
CPU, NVME = Tier.CPU, Tier.NVME
ROWS = [
    (0, Op.LOOKUP, NVME, 1, Phase.DECODE, 0),
    (1, Op.READ, NVME, 1, Phase.DECODE, KIB4),
    (2, Op.WRITE, NVME, 1, Phase.PREFILL, KIB4),
    (3, Op.WRITE, NVME, 1, Phase.PREFILL, 2 * KIB4),
    (4, Op.LOOKUP, NVME, 1, Phase.DECODE, 0),
    (5, Op.READ, NVME, 1, Phase.DECODE, KIB4),
    (6, Op.DELETE, NVME, 1, Phase.EVICT, KIB4),
    (7, Op.WRITE, NVME, 1, Phase.PREFILL, 2 * KIB4),
]
ERRORS = [errno.ENOENT, errno.ENOENT, 0, errno.EEXIST, 0, 0, 0, errno.ECANCELED]
CAPTURE = Capture(engine="lmcache", engine_version="0.5.6", processes=1, boot_id="b", key_check=7)


def write_capture(path: Path, *, capture: Capture | None = CAPTURE, **columns: Any) -> Path:
    header = Header(capture=capture)
    with TraceWriter(path, header, columns) as writer:
        writer.append(make_columns(ROWS, None) | columns)
    return path


def captured(path: Path) -> Path:
    """Write a recording with a look-up that missed, a store skipped, one that never ended."""
    batch = {"batch": np.arange(8, dtype="u4"), "position": np.zeros(8, "u2")}
    return write_capture(path, error=np.array(ERRORS, "i4"), **batch)


@pytest.mark.parametrize(
    ("capture", "columns", "version"),
    [
        (None, (), FORMAT_VERSION),
        (None, ("error",), FORMAT_VERSION),
        (None, ("batch",), CAPTURE_VERSION),
        (CAPTURE, (), CAPTURE_VERSION),
    ],
)
def test_a_file_states_the_first_version_that_has_all_it_uses(
    tmp_path: Path, capture: Capture | None, columns: tuple[str, ...], version: int | str
) -> None:
    zeros = {name: np.zeros(8, "u4" if name == "batch" else "i4") for name in columns}
    path = write_capture(tmp_path / "t.parquet", capture=capture, **zeros)
    with open_trace(path) as trace:
        assert trace.header.format_version == version
    stated = json.loads(pq.read_metadata(path).metadata[b"kvtrace"])
    assert stated["format_version"] == version
    assert ("capture" in stated) == (capture is not None)


def test_a_version_that_is_not_known_is_refused_with_the_one_that_wrote_it() -> None:
    text = b'{"format_version": "1.2", "producer": {"name": "kvtrace", "version": "9.9"}}'
    with pytest.raises(TraceError, match=r"got 1\.2; accepted: 1, 1\.1; update kvtrace, to 9\.9"):
        Header.from_json(text, where="t.parquet")


def test_ops_that_moved_nothing_are_checked_as_such(tmp_path: Path) -> None:
    """Without their outcomes the first read would be of what isn't there, the sizes others."""
    with open_trace(captured(tmp_path / "t.parquet")) as trace:
        report = check(trace)
    assert report.ok
    assert report.derived == 0
    assert report.peak_bytes[NVME] == KIB4
    bare = write_capture(tmp_path / "bare.parquet", error=np.zeros(8, "i4"))
    with open_trace(bare) as trace:
        assert not check(trace).ok


def test_info_counts_moved_bytes_outcomes_and_hits(tmp_path: Path) -> None:
    with open_trace(captured(tmp_path / "t.parquet")) as trace:
        info = summarise(trace)
    moved = {(cell["phase"], cell["op"]): cell["bytes"] for cell in info["cells"]}
    assert moved["decode", "read"] == moved["prefill", "write"] == KIB4
    nvme = info["tiers"]["nvme"]
    assert (nvme["lookups"], nvme["lookup_hit_ratio"]) == (2, 0.5)
    assert [(e["op"], e["outcome"], e["ops"], e["bytes"]) for e in info["outcomes"]] == [
        ("read", "missed", 1, KIB4),
        ("write", "skipped", 1, 2 * KIB4),
        ("write", "in flight at the end", 1, 2 * KIB4),
        ("lookup", "missed", 1, 0),
    ]


def test_info_prints_what_was_lost_and_what_missed(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "t.parquet"
    capture = CAPTURE.model_copy(update={"gaps": [{"dropped_rows": 3}], "unfinished_processes": 1})
    write_capture(path, capture=capture, error=np.array(ERRORS, "i4"))
    printed = cli("info", path).out
    assert "lmcache 0.5.6, 1 process; 1 gaps, 1 processes without an end" in printed
    assert "50.0% of 2 recorded look-ups hit" in printed
    assert "nvme: 1 writes skipped, 8.00 KiB not moved" in printed


def test_merged_captures_keep_their_tasks_apart(tmp_path: Path) -> None:
    paths = [captured(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    with open_trace(paths[0]) as one, open_trace(paths[1]) as other:
        made = write(merged([one, other]), tmp_path / "m.parquet")
    assert made.header.capture is None
    rows = pq.read_table(tmp_path / "m.parquet")
    nodes = [key >> 48 for key in rows["key"].to_pylist()]
    tasks = set(zip(nodes, rows["batch"].to_pylist(), strict=True))
    assert tasks == {(node, node * 8 + at) for node in (0, 1) for at in range(8)}


def test_an_anonymised_capture_keeps_counts_only(tmp_path: Path) -> None:
    with open_trace(captured(tmp_path / "t.parquet")) as trace:
        made = write(anonymised(trace, b"k" * 16), tmp_path / "a.parquet")
    capture = made.header.capture
    assert capture is not None
    assert (capture.engine, capture.boot_id, capture.key_check) == ("lmcache", None, None)


TWO_READS = [
    (0, Op.WRITE, NVME, 1, Phase.PREFILL, KIB4),
    (1, Op.WRITE, NVME, 1, Phase.PREFILL, 8 * KIB4),
    (2, Op.READ, NVME, 2, Phase.DECODE, KIB4),
    (3, Op.READ, NVME, 1, Phase.DECODE, KIB4),
]
OUTCOMES = [0, errno.EEXIST, errno.ENOENT, 0]


@pytest.fixture
def idle(tmp_path: Path) -> Path:
    """A trace of a store and a read that were done, and one of each that moved nothing."""
    columns = {"error": np.array(OUTCOMES, "i4"), "request": np.arange(4, dtype="u8")}
    columns["step"] = np.array([2, 2, 1, 1], "u2")
    path = tmp_path / "idle.parquet"
    with TraceWriter(path, Header(), columns) as writer:
        writer.append(make_columns(TWO_READS, None) | columns)
    return path


def test_a_profile_shows_what_was_moved(idle: Path) -> None:
    with open_trace(idle) as trace:
        tier = profile(trace).tiers[NVME]
    assert int(tier.bytes[:, Op.WRITE].sum()) == int(tier.bytes[:, Op.READ].sum()) == KIB4
    assert tier.held_bytes_max == KIB4


def test_a_comparison_counts_what_was_moved(idle: Path, tmp_path: Path) -> None:
    done = [row for row, error in zip(TWO_READS, OUTCOMES, strict=True) if not error]
    write_trace(tmp_path / "done.parquet", done)
    with open_trace(idle) as one, open_trace(tmp_path / "done.parquet") as other:
        by_quantity = {each.quantity: each for each in compare(one, other)}
    assert by_quantity["size"].ks == 0
    assert by_quantity["read_share"].ks == 0


def test_a_slice_takes_nothing_idle_for_resident(idle: Path, tmp_path: Path) -> None:
    with open_trace(idle) as trace:
        made = write(sliced(trace, Cut(first_row=1)), tmp_path / "part.parquet")
    assert made.header.resident.objects == {"nvme": 1}
    with open_trace(tmp_path / "part.parquet") as part:
        assert part.resident()["size"].tolist() == [KIB4]
        assert check(part).ok


@pytest.mark.parametrize(
    ("to", "suffix", "rows"), [("mlperf-csv", ".csv", 2), ("oracle", ".oracleGeneral", 2)]
)
def test_exports_leave_out_what_moved_nothing(
    idle: Path, tmp_path: Path, cli: Cli, to: str, suffix: str, rows: int
) -> None:
    out = tmp_path / f"out{suffix}"
    document = json.loads(cli("export", idle, out, "--to", to, "--json").out)
    assert (document["rows"], document["dropped_rows"]) == (rows, 2)


def test_lmcache_gets_what_was_moved(idle: Path, tmp_path: Path, cli: Cli) -> None:
    back = tmp_path / "back.parquet"
    cli("export", idle, tmp_path / "out.lct", "--to", "lmcache")
    cli("import", tmp_path / "out.lct", back)
    rows = pq.read_table(back).to_pydict()
    kinds = list(zip(rows["op"], rows["size"], strict=True))
    assert (kinds.count(("write", KIB4)), kinds.count(("read", KIB4))) == (1, 1)
    assert ("write", 8 * KIB4) not in kinds
