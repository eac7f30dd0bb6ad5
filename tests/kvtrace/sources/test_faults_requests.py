"""Request logs that were read wrongly: each fault's input, and what is right.

Those in `faults` are made by the project and named after the fault; further ones of the same kinds
lie beside the project, where they are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.errors import TraceError, UsageError
from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record
from kvtrace.requests.families import families
from kvtrace.requests.request import Ragged
from kvtrace.requests.rows import alone
from kvtrace.sources import recognised
from tests.support import places, request_files
from tests.support.request_files import GOOD, good, read, write

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.recording.pipeline import Recorded

FAULTS = places.FAULTS
SAMPLES = places.SAMPLES / "faults"
needs_samples = pytest.mark.skipif(
    not SAMPLES.exists(), reason="shared/samples/faults isn't beside the project"
)
MIB = 1 << 20


def recorded(folder: Path, path: Path, **options: Any) -> Recorded:
    """Return a recording of a file's requests on nvme alone; no source is named."""
    keys = {"source.input": [str(path)], "model": "tiny-1b", "tiers.gpu.capacity": "0"}
    keys |= {"tiers.cpu.capacity": "0"} | {k.replace("__", "."): v for k, v in options.items()}
    return record(load_config(None, keys), folder / "t.parquet", force=True, dry_run=True)


def written(made: Recorded) -> int:
    return sum(cell.bytes for cell in made.header.totals.cells if cell.op == "write")


# --- Ids and tokens -----------------------------------------------------------------------------


def test_mooncake_block64(tmp_path: Path) -> None:
    """Ids of 64 tokens aren't read as of 512: the row, both counts and the size are named."""
    path = FAULTS / "mooncake_block64.jsonl"
    named = r"jsonl:1: too many hash_ids: got 20; accepted: 3, .* 64 tokens per id would fit"
    with pytest.raises(TraceError, match=named):
        recorded(tmp_path, path)
    made = recorded(tmp_path, path, source__block_tokens=64, block_tokens=64)
    assert made.header.statistics["ideal_prefix_hit"] == 30 / 80
    assert made.header.config["source"]["block_tokens"] == 64


@needs_samples
def test_dynamo_block64(tmp_path: Path) -> None:
    """With 64 tokens an id, hit ratio 0.450 and 792 MiB; the same in blocks of 512."""
    path = SAMPLES / "dynamo_block64.jsonl"
    with pytest.raises(TraceError, match=r":1: .*got 100; accepted: 13, .* 64 tokens per id"):
        recorded(tmp_path, path)
    for name, size in (("dynamo_block64", 64), ("same_block512", 512)):
        made = recorded(
            tmp_path, SAMPLES / f"{name}.jsonl", source__block_tokens=size, block_tokens=512
        )
        assert made.header.statistics["hit_ratio"]["nvme"] == 0.45
        assert written(made) == 792 * MIB


def test_bailian_block64(tmp_path: Path) -> None:
    """The same holds of Bailian's files, with too few ids as with too many."""
    path = FAULTS / "bailian_block64.jsonl"
    with pytest.raises(TraceError, match=r"too few hash_ids: got 1; accepted: 4, .* 64 tok"):
        recorded(tmp_path, path)
    made = recorded(tmp_path, path, source__block_tokens=64, block_tokens=64)
    assert made.header.statistics["hit_ratio"]["nvme"] == 0.5


def test_weka_many_ids(tmp_path: Path) -> None:
    """A conversation says its block size: one that its own ids contradict is refused."""
    with pytest.raises(TraceError, match=r"request 1: too many hash_ids: got 4; .* 32 tok"):
        recorded(tmp_path, FAULTS / "weka_many_ids.json")


def test_mooncake_fractions() -> None:
    """Fractions of a millisecond are kept, rounded to ns."""
    found, _ = read("mooncake", FAULTS / "mooncake_fractions.jsonl")
    assert found["arrival_ns"] == [0, 10_250_000, 10_750_000]


# --- ShareGPT -----------------------------------------------------------------------------------


def test_sharegpt_system() -> None:
    """What stands beside the messages is a part of the prompt: 19 and 4 characters; 4, 3 and 3."""
    found, _ = read("sharegpt", FAULTS / "sharegpt_system.json")
    assert found["input_tokens"] == [5 + 1, 1 + 1 + 1]


def test_sharegpt_system_that_is_no_text(tmp_path: Path) -> None:
    """It is refused, and a first message that repeats it counts once."""
    said = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"}]
    entry = {"conversations": [*said, {"from": "gpt", "value": "Hi"}], "system": "Be kind."}
    path = write(tmp_path / "a.json", json.dumps([entry]))
    assert read("sharegpt", path)[0]["input_tokens"] == [3]
    write(path, json.dumps([entry | {"system": {"a": 1}}]))
    with pytest.raises(TraceError, match="entry 1: bad system: got"):
        read("sharegpt", path)


@needs_samples
def test_sharegpt_sys_top(tmp_path: Path) -> None:
    """21 prompt tokens at 4 characters each."""
    made = recorded(tmp_path, SAMPLES / "sharegpt_sys_top.json", block_tokens=1)
    assert made.header.statistics["prompt_tokens"] == 21


# --- Thinning -----------------------------------------------------------------------------------


def conversations(path: Path, count: int, turns: int, shared: int) -> Path:
    """Write conversations whose prompts grow by a block, all behind the same first blocks."""
    rows = []
    for talk in range(count):
        ids = list(range(shared))
        for turn in range(turns):
            ids.append(shared + talk * turns + turn)
            rows.append((1000 * turn + talk, list(ids)))
    lines = [
        request_files.mooncake_line(time, tokens=512 * len(ids), ids=ids)
        for time, ids in sorted(rows)
    ]
    return write(path, "".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0, 3])
def test_scale_sessions_keeps_the_reuse(tmp_path: Path, shared: int) -> None:
    """Requests that name no session are thinned by families of prefixes: the hit ratio stays."""
    path = conversations(tmp_path / "a.jsonl", 40, 40, shared)
    made = recorded(tmp_path, path, source__scale_sessions=0.25, block_tokens=512)
    sampled = made.header.statistics["sampled"]
    assert sampled["by"] == "prefix families"
    assert sampled["requests_before"] == 1600
    assert 0 < sampled["requests"] < 1000
    assert sampled["requests"] % 40 == 0
    before, after = sampled["ideal_prefix_hit_before"], sampled["ideal_prefix_hit"]
    assert before > 0.94
    assert abs(after - before) < 0.01


def test_copies_of_families(tmp_path: Path) -> None:
    """A copy's requests share its own blocks: twice as many make the same hit ratio."""
    path = conversations(tmp_path / "a.jsonl", 20, 10, 2)
    made = recorded(tmp_path, path, source__scale_sessions=2.0, block_tokens=512)
    sampled = made.header.statistics["sampled"]
    assert sampled["requests"] == 400
    assert abs(sampled["ideal_prefix_hit"] - sampled["ideal_prefix_hit_before"]) < 0.01


def test_families() -> None:
    """A family begins where prompts part; one that ends before goes with the most."""
    lists = [[1, 2, 3], [1, 2, 3, 4], [1, 2, 9], [1], [7, 8], [7, 8, 5], [], [7, 6]]
    lists += [[1, 2, 3]] * 9
    counts = np.array([len(ids) for ids in lists])
    ids = Ragged.from_counts(counts, np.array([i for some in lists for i in some], np.int64))
    zeros = np.zeros(len(lists), np.int64)
    rows = alone(0, zeros, 16 * counts + 1, zeros, ids)
    found = families([rows], 16).tolist()
    assert found[0] == found[1] == found[3] == found[8]
    assert len({found[0], found[2], found[4], found[6], found[7]}) == 5
    assert found[4] == found[5]


def test_nothing_is_left(tmp_path: Path) -> None:
    """So small a part that no session stays is refused by its option."""
    path = conversations(tmp_path / "a.jsonl", 2, 2, 0)
    with pytest.raises(UsageError, match="--scale-sessions: no session is left: got 1e-06"):
        recorded(tmp_path, path, source__scale_sessions=1e-6)


def test_sampled_sessions_are_told(tmp_path: Path) -> None:
    """Of sources that name sessions it is told, too; without scaling there is nothing to tell."""
    talks = request_files.sharegpt(*[[("human", "a" * 2000), ("gpt", "b" * 2000)]] * 30)
    path = write(tmp_path / "a.json", talks)
    made = recorded(tmp_path, path, source__scale_sessions=0.5, source__rate="10/s")
    sampled = made.header.statistics["sampled"]
    assert (sampled["by"], sampled["requests_before"]) == ("sessions", 30)
    assert sampled["requests"] == made.header.statistics["requests"] < 30
    assert "sampled" not in recorded(tmp_path, path).header.statistics


# --- Recognising --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_sources_are_recognised(tmp_path: Path, name: str) -> None:
    """A file tells which source reads it, so that --source may be left out."""
    assert recognised([str(good(tmp_path, name))]) == name


def test_what_no_source_reads_is_named(tmp_path: Path) -> None:
    """Another file is refused, and the candidates are named."""
    path = write(tmp_path / "a.log", "fio version 3 iolog\n")
    with pytest.raises(UsageError, match=r"it is for kvtrace import \(fio\)"):
        load_config(None, {"source.input": [str(path)]})
    write(path, "hello\n")
    with pytest.raises(UsageError, match=r"a\.log: no source is known.*azure, bailian, b"):
        load_config(None, {"source.input": [str(path)]})
    assert load_config(None, {"source.input": [str(path)], "source.name": "weka"})
