"""LMCache's .lct recordings as storage ops: out, in, and replayed by LMCache itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import TraceError, UsageError
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.common.importing import ImportOptions
from kvtrace.formats.lmcache import lct
from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record
from kvtrace.sources.lmcache import frames
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support import places
from tests.support.examples import examples
from tests.support.making import make, write_rows
from tests.support.random_traces import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

msgpack = pytest.importorskip("msgpack")
SAMPLE = places.SAMPLES / "lmcache/lmcache-0.5.6_storage_level.lct.zst"
needs_sample = pytest.mark.skipif(not SAMPLE.exists(), reason="the LMCache sample isn't here")
ROWS = [
    (0, Op.WRITE, 64, Tier.GPU, 11, Phase.PREFILL),
    (0, Op.WRITE, 64, Tier.CPU, 11, Phase.PREFILL),
    (0, Op.WRITE, 64, Tier.GPU, 10, Phase.PREFILL),
    (1_000_000_000, Op.READ, 64, Tier.GPU, 10, Phase.DECODE),
    (1_000_000_000, Op.READ, 64, Tier.CPU, 11, Phase.EVICT),
    (2_000_000_000, Op.WRITE, 32, Tier.GPU, 12, Phase.PREFILL),
    (3_500_000_000, Op.WRITE, 64, Tier.GPU, 13, Phase.DECODE),
    (4_000_000_000, Op.DELETE, 64, Tier.GPU, 13, Phase.EVICT),
]
STEPS = {
    "request": np.array([1, 1, 1, 2, 2, 2, 2, 2], np.uint64),
    "step": np.array([2, 2, 2, 1, 1, 2, 3, 3], np.uint16),
}


def export(path: Path, out: Path, **options: Any) -> exporters.Exported:
    with open_trace(path) as trace:
        return exporters.export(trace, out, "lmcache", ExportOptions(**options))


def bring(path: Path, out: Path, **options: Any) -> importers.Imported:
    return importers.convert([path], out, options=ImportOptions(**options))


def calls(path: Path) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """Yield time, method and arguments of each call."""
    for number, found in frames(path):
        if number > 1:
            yield found["t_mono"], found["qualname"].removeprefix(lct.MANAGER), found["args"]


def keys_of(listed: list[dict[str, Any]]) -> list[int]:
    return [int.from_bytes(each["v"]["chunk_hash"], "big") for each in listed]


def test_the_calls_are_those_of_the_requests(tmp_path: Path) -> None:
    """A look-up of the prompt from its head, loads of what is found, stores of what is computed."""
    path, out = write_rows(tmp_path / "t.parquet", ROWS, **STEPS), tmp_path / "t.lct"
    made = export(path, out)
    found = []
    for time_s, method, arguments in calls(out):
        if method == lct.LOOK_UP:
            groups = arguments["spec"]["v"]["key_groups"]
            listed = [key for group in groups for key in group["v"]["keys"]]
            found.append((time_s, method, arguments["external_request_id"], keys_of(listed)))
        else:
            found.append((time_s, method, keys_of(arguments["keys"])))
    assert found == [
        (0.0, lct.LOOK_UP, "kvtrace-1", [10, 11]),
        (0.0, lct.RESERVE, [11, 10]),
        (0.0, lct.FINISH_WRITE, [11, 10]),
        (1.0, lct.LOOK_UP, "kvtrace-2", [10, 12]),
        (1.0, lct.ENTER, [10]),
        (1.0, lct.EXIT, [10]),
        (1.0, lct.FINISH_READ, [10]),
        (2.0, lct.RESERVE, [12]),
        (2.0, lct.FINISH_WRITE, [12]),
        (3.5, lct.RESERVE, [13]),
        (3.5, lct.FINISH_WRITE, [13]),
    ]
    assert (made.rows, made.dropped_rows) == (5, 3)


def test_frames_are_those_of_msgpack(tmp_path: Path, small_trace: Path) -> None:
    """Each frame, unpacked and packed again by msgpack, says the same, in LMCache's fields."""
    export(small_trace, tmp_path / "t.lct")
    for number, found in frames(tmp_path / "t.lct"):
        again = msgpack.unpackb(msgpack.packb(found), strict_map_key=False)
        assert again == found
        wanted = {"type", "t_mono", "t_wall", "qualname", "args"} if number > 1 else {
            "type", "magic", "format_version", "level", "trace_schema_version", "t_mono_start",
            "t_wall_start", "sm_config_json", "sm_config_digest",
        }  # fmt: skip
        assert found.keys() == wanted


def test_layouts_tell_the_size(tmp_path: Path) -> None:
    """Objects of different sizes are stored by calls of their own, each with its layout."""
    rows = [(0, Op.WRITE, size, Tier.GPU, size, Phase.PREFILL) for size in (64, 32, 64 + 1)]
    more = {"request": np.zeros(3, np.uint64), "step": np.full(3, 2, np.uint16)}
    export(write_rows(tmp_path / "t.parquet", rows, **more), tmp_path / "t.lct")
    sizes = [
        np.prod(arguments["layout_desc"]["v"]["shapes"][0])
        for _, method, arguments in calls(tmp_path / "t.lct")
        if method == lct.RESERVE
    ]
    assert sizes == [32, 64, 65]


def test_ranks_are_rows_of_a_look_up(tmp_path: Path) -> None:
    """Of several ranks' objects each rank has its row, under LMCache's number for it."""
    rows = [(0, Op.WRITE, 64, Tier.GPU, key, Phase.PREFILL) for key in range(4)]
    more = {
        "request": np.zeros(4, np.uint64), "step": np.full(4, 2, np.uint16),
        "rank": np.array([0, 1, 0, 1], np.uint16),
    }  # fmt: skip
    export(write_rows(tmp_path / "t.parquet", rows, **more), tmp_path / "t.lct")
    _, _, arguments = next(calls(tmp_path / "t.lct"))
    groups = arguments["spec"]["v"]["key_groups"]
    assert [keys_of(group["v"]["keys"]) for group in groups] == [[2, 0], [3, 1]]
    assert {key["v"]["kv_rank"] for key in groups[1]["v"]["keys"]} == {
        1 << 24 | 1 << 16 | 1 << 8 | 1
    }


@pytest.mark.slow
@settings(max_examples=examples(12))
@given(
    seed=st.integers(0, 10**6),
    options=st.fixed_dictionaries(
        {
            "write_policy": st.sampled_from(["waterfall", "write-through"]),
            "touch_order": st.sampled_from(["tail-first", "in-order"]),
            "source__users": st.integers(1, 5),
            "layout": st.sampled_from(["vllm", "lmcache"]),
        }
    ),
)
def test_round_trip(
    seed: int, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What requests load and store comes back, each object once per step, at its time."""
    folder = tmp_path_factory.mktemp("lct")
    path, out = folder / "t.parquet", folder / "t.lct"
    make(path, seed=seed, **options)
    export(path, out)
    bring(out, folder / "back.parquet")
    columns = ["timestamp", "op", "size", "tier", "key", "phase", "request", "step"]
    ours = read_rows(path, columns).filter(
        ((pl.col("op") == "read") & (pl.col("phase") == "decode"))
        | ((pl.col("op") == "write") & pl.col("phase").is_in(["prefill", "decode"]))
    )
    expected = ours.unique(["timestamp", "op", "key", "request", "step"], maintain_order=True)
    first = expected["timestamp"][0]
    back = read_rows(folder / "back.parquet", ["timestamp", "op", "size", "key", "tier", "request"])
    moved = back.filter(pl.col("op") != "lookup")
    wanted = expected.select(pl.col("timestamp") - first, "op", "size", "key")
    assert sorted(moved.select("timestamp", "op", "size", "key").rows()) == sorted(wanted.rows())
    assert set(back["tier"]) == {"cpu"}
    asked = back.filter(op="lookup")
    prompts = expected.filter(pl.col("step") <= 2)
    assert sorted(asked.select("request", "key").rows()) == sorted(
        prompts.select("request", "key").unique().rows()
    )
    with open_trace(folder / "back.parquet") as trace:
        assert check(trace).ok


def test_look_ups_are_prompts_from_the_head(tmp_path: Path) -> None:
    """The recording's prompts, as the source lmcache reads them, hit what the trace's hit."""
    path, out = tmp_path / "t.parquet", tmp_path / "t.lct"
    made = make(path, tiers__gpu__capacity="unlimited", store_generated="no")
    export(path, out)
    options = {"model": "tiny-1b", "block_tokens": 64, "tiers.gpu.capacity": "unlimited"}
    options |= {"source.name": "lmcache", "source.input": [str(out)]}
    again = record(load_config(None, options), tmp_path / "again.parquet")
    hits, back = (
        {(cell.op, cell.phase): cell.ops for cell in found.header.totals.cells}
        for found in (made, again)
    )
    assert hits == back
    assert hits["read", "decode"] > 0


@pytest.mark.slow
@needs_sample
def test_a_real_recording_comes_in(tmp_path: Path) -> None:
    """LMCache's own recording: stores last from reserve to finish, loads from enter to exit."""
    made = bring(SAMPLE, tmp_path / "t.parquet")
    rows = read_rows(tmp_path / "t.parquet", ["op", "size", "submit", "complete", "request"])
    kinds = Counter(rows["op"])
    expected: Counter[str] = Counter()
    for _, method, arguments in calls(SAMPLE):
        if method == lct.LOOK_UP:
            groups = arguments["spec"]["v"]["key_groups"]
            expected["lookup"] += sum(len(group["v"]["keys"]) for group in groups)
        elif method in (lct.FINISH_WRITE, lct.EXIT):
            expected["write" if method == lct.FINISH_WRITE else "read"] += len(arguments["keys"])
    assert kinds == expected
    moved = rows.filter(pl.col("op") != "lookup")
    assert set(moved["size"]) == {2 * 32 * 16 * 128 * 2}
    assert (moved["complete"] > moved["submit"]).all()
    assert rows.filter(op="lookup")["request"].n_unique() == 400
    assert any("stores that were never finished" in note for note in made.notes)
    with open_trace(tmp_path / "t.parquet") as trace:
        assert check(trace).ok


def frame(content: dict[str, Any]) -> bytes:
    body = msgpack.packb(content)
    return len(body).to_bytes(4, "big") + body


HEADER = frame({"type": "header", "magic": b"LMCT", "format_version": 1, "t_wall_start": 1.0})
KEY = {"__t__": "ObjectKey", "v": {"chunk_hash": b"x" * 32, "model_name": "m", "kv_rank": 1}}


def call(method: str, time_s: float = 0.0, **arguments: Any) -> bytes:
    named = {"type": "record", "t_mono": time_s, "t_wall": 0.0, "qualname": lct.MANAGER + method}
    return frame(named | {"args": arguments})


def layout(*shape: int, dtype: str = "torch.bfloat16") -> dict[str, Any]:
    return {"__t__": "MemoryLayoutDesc", "v": {"shapes": [list(shape)], "dtypes": [dtype]}}


def reserve(desc: dict[str, Any]) -> bytes:
    return call(lct.RESERVE, keys=[KEY], layout_desc=desc)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (HEADER, "no rows"),
        (HEADER[:-3], "t.lct:1: the file ends within a record"),
        (HEADER + call(lct.RESERVE)[:-1], "t.lct:2: the file ends within a record"),
        (HEADER + call(lct.RESERVE), "t.lct:2: a call of reserve_write without 'keys'"),
        (
            HEADER + call(lct.RESERVE, keys=[KEY]),
            "t.lct:2: a call of reserve_write without 'layout_desc'",
        ),
        (
            HEADER + call(lct.RESERVE, keys=[KEY], layout_desc=layout(1 << 50)),
            "t.lct:2: .*a size from",
        ),
        (HEADER + call(lct.RESERVE, keys=[KEY], layout_desc=layout(-1)), "t.lct:2: .*a size from"),
        (
            HEADER + call(lct.RESERVE, keys=[KEY], layout_desc=layout(1, dtype="q7")),
            "t.lct:2: .*q7",
        ),
        (HEADER + b"\x00\x00\x00\x02\xc1\xc1", "t.lct:2: not msgpack"),
    ],
)
def test_bad_recordings_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Damage is refused by the record's number; nothing is left behind."""
    path = tmp_path / "t.lct"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=message):
        importers.convert([path], tmp_path / "t.parquet", format_name="lmcache")
    assert [p.name for p in tmp_path.iterdir()] == ["t.lct"]


def test_tier_is_the_users_choice(tmp_path: Path) -> None:
    """LMCache's objects are on the cpu tier unless --tier says otherwise."""
    keys = {"keys": [KEY]}
    data = (
        HEADER
        + call(lct.RESERVE, **keys, layout_desc=layout(8))
        + call(lct.FINISH_WRITE, 1.0, **keys)
    )
    (tmp_path / "t.lct").write_bytes(data)
    for tier, label in ((None, "cpu"), (Tier.NVME, "nvme"), (Tier.GPU, "gpu")):
        bring(tmp_path / "t.lct", tmp_path / "t.parquet", force=True, tier=tier)
        rows = read_rows(tmp_path / "t.parquet", ["tier", "size", "submit", "complete"])
        assert rows.rows() == [(label, 16, 0, 10**9)]


def test_traces_without_requests_are_refused(tmp_path: Path) -> None:
    """Which blocks are one prompt can't be told without requests and steps."""
    path = write_rows(tmp_path / "t.parquet", ROWS)
    with pytest.raises(TraceError, match="has no requests"):
        export(path, tmp_path / "t.lct")
    path = write_rows(
        tmp_path / "e.parquet", [ROWS[4]], request=STEPS["request"][4:5], step=STEPS["step"][4:5]
    )
    with pytest.raises(UsageError, match="no load or store"):
        export(path, tmp_path / "t.lct")
    assert not (tmp_path / "t.lct").exists()


def test_only_chosen_tiers(tmp_path: Path) -> None:
    """With --tiers loads and stores of other tiers are none."""
    path = write_rows(tmp_path / "t.parquet", ROWS, **STEPS)
    assert export(path, tmp_path / "t.lct", tiers=(Tier.CPU,)).rows == 1


@pytest.mark.slow
def test_lmcache_replays_it(tmp_path: Path, small_trace: Path) -> None:
    """LMCache itself replays the recording: no record skipped or failed (where it is installed)."""
    program = shutil.which("lmcache")
    if program is None:
        pytest.skip("the program lmcache isn't installed: pip install lmcache torch")
    export(small_trace, tmp_path / "t.lct")
    ended = subprocess.run(
        [program, "trace", "replay", str(tmp_path / "t.lct"),
         "--l1-size-gb", "4", "--eviction-policy", "LRU", "--output-dir", str(tmp_path), "--json"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    counted = re.findall(r"Records (replayed|skipped|failed): +(\d+)", ended.stdout)
    calls_made = sum(1 for _ in calls(tmp_path / "t.lct"))
    assert counted == [("replayed", str(calls_made)), ("skipped", "0"), ("failed", "0")]
    assert "Failed to read prefetched object" not in ended.stdout + ended.stderr
