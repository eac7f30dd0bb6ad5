"""Sources that read files: what they find in them, and what their options change."""

from __future__ import annotations

import gzip
import json
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import zstandard

from kvtrace import plugins
from kvtrace.errors import TraceError, UsageError
from kvtrace.recording.config import load_config
from kvtrace.recording.parts import Recording
from kvtrace.requests import csvrows, jsonstream, lines
from kvtrace.requests.source_config import SourceConfig
from kvtrace.sources import recognised
from kvtrace.units import MS_NS, S_NS
from tests.support import request_files as files
from tests.support.making import make
from tests.support.request_files import GOOD, SAMPLES, good, read, write

if TYPE_CHECKING:
    from pathlib import Path

needs_samples = pytest.mark.skipif(not SAMPLES.exists(), reason="shared/samples isn't here")
FILES = sorted(GOOD)


# --- The public files: exact counts -------------------------------------------------------------


@needs_samples
def test_mooncake_sample() -> None:
    """3,993 requests until 1,022,025 ms, 121,877 block references, 43,924 of them unique."""
    found, info = read("mooncake", SAMPLES / "mooncake/synthetic_trace.jsonl")
    assert len(found["arrival_ns"]) == 3_993
    assert found["arrival_ns"][-1] == 1_022_025 * MS_NS
    references = [ident for ids in found["block_ids"] for ident in ids]
    assert (len(references), len(set(references))) == (121_877, 43_924)
    assert info["listed_ids"] == {"references": 121_877, "unique": 43_924}
    ideal_prefix_hit = (len(references) - len(set(references))) / len(references)
    assert ideal_prefix_hit == pytest.approx(0.6396, abs=5e-5)
    assert info["invented"] == []


@needs_samples
def test_azure_sample() -> None:
    """8,819 requests, the last of which has no newline; seven digits of a second are exact."""
    found, info = read("azure", SAMPLES / "azure/AzureLLMInferenceTrace_code.csv")
    assert len(found["input_tokens"]) == 8_819
    assert found["arrival_ns"][1] == 52_000_000
    assert found["arrival_ns"][-1] == 3_435_948_056_000
    assert (found["input_tokens"][-1], found["output_tokens"][-1]) == (549, 173)
    assert len(set(found["session"])) == 8_819
    assert "doesn't tell of reuse" in info["notes"][0]


@needs_samples
def test_burstgpt_sample() -> None:
    """Three requests, seconds counted from the first."""
    found, _ = read("burstgpt", SAMPLES / "burstgpt/burstgpt_3_real_rows.csv")
    assert found["arrival_ns"] == [0, 40 * S_NS, 113 * S_NS]
    assert found["input_tokens"] == [472, 1087, 417]


@needs_samples
def test_bailian_sample() -> None:
    """A chat and its follow-up are one session; 31 of 16-token ids come again."""
    found, _ = read("bailian", SAMPLES / "bailian/bailian_FIXTURE_not_real.jsonl")
    assert (found["session"], found["turn"]) == ([0, 0], [0, 1])
    assert found["arrival_ns"] == [0, 41_500_000_000]
    first, second = map(set, found["block_ids"])
    assert (len(first), len(second), len(first & second)) == (32, 35, 31)


@needs_samples
def test_weka_sample() -> None:
    """41 requests of one conversation; 71,175 tokens have 1,112 ids: full blocks only."""
    found, _ = read("weka", SAMPLES / "weka/trace_0001.json")
    assert len(found["turn"]) == 41
    assert (found["input_tokens"][0], len(found["block_ids"][0])) == (71_175, 1_112)
    assert sum(found["input_tokens"]) == 4_873_373
    assert sum(found["output_tokens"]) == 27_119
    assert found["think_ns"][:3] == [0, 12 * S_NS, 8 * S_NS]


@needs_samples
def test_lmcache_sample() -> None:
    """400 look-ups of 11,349 chunks, 9,821 of them unique, of 16 tokens and 262,144 bytes."""
    found, info = read("lmcache", SAMPLES / "lmcache/lmcache-0.5.6_storage_level.lct.zst")
    references = [ident for ids in found["block_ids"] for ident in ids]
    assert len(found["input_tokens"]) == 400
    assert (len(references), len(set(references))) == (11_349, 9_821)
    assert sum(found["input_tokens"]) == 11_349 * 16
    assert info["parameters"]["chunk_bytes"] == 262_144
    assert any("output tokens" in text for text in info["invented"])


SAMPLE_FILES = {
    "azure": ("azure/AzureLLMInferenceTrace_code.csv", 8_819),
    "bailian": ("bailian/bailian_FIXTURE_not_real.jsonl", 2),
    "burstgpt": ("burstgpt/burstgpt_3_real_rows.csv", 3),
    "lmcache": ("lmcache/lmcache-0.5.6_storage_level.lct.zst", 400),
    "weka": ("weka/trace_0001.json", 41),
}


@pytest.mark.slow
@needs_samples
@pytest.mark.parametrize("name", SAMPLE_FILES)
def test_samples_are_recorded_whole(tmp_path: Path, name: str) -> None:
    """A finite input is processed once, whole, whatever its length."""
    file, requests = SAMPLE_FILES[name]
    made = record(tmp_path / "t.parquet", name, SAMPLES / file, block_tokens=64)
    assert made.header.statistics["requests"] == requests


# --- What every source does ---------------------------------------------------------------------


def record(out: Path, name: str, *paths: Path, **options: Any) -> Any:
    """Record a source's requests."""
    closed = {"source__users": None, "duration": None}
    named = {"source__name": name, "source__input": [str(path) for path in paths]}
    return make(out, **closed | named | options)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files(tmp_path: Path, name: str, suffix: str) -> None:
    """A compressed file gives the same requests as the plain one."""
    plain = good(tmp_path, name)
    squeeze = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor().compress
    packed = write(tmp_path / f"{plain.name}{suffix}", squeeze(plain.read_bytes()))
    assert read(name, packed)[0] == read(name, plain)[0]


@pytest.mark.parametrize("name", [name for name in FILES if name != "lmcache"])
def test_marks_of_byte_order(tmp_path: Path, name: str) -> None:
    """A file that begins with UTF-8's mark of byte order is recognised and read as without it."""
    plain = good(tmp_path, name)
    marked = write(tmp_path / f"marked{plain.suffix}", BOM_UTF8 + plain.read_bytes())
    assert recognised([str(marked)]) == name
    assert read(name, marked)[0] == read(name, plain)[0]


@pytest.mark.parametrize("name", FILES)
def test_cycles(tmp_path: Path, name: str) -> None:
    """A second cycle has the same requests behind the first, with the same ids, in new sessions."""
    path = good(tmp_path, name)
    once, twice = read(name, path)[0], read(name, path, cycles=2)[0]
    count = len(once["turn"])
    assert twice["input_tokens"] == 2 * once["input_tokens"]
    assert not set(twice["session"][:count]) & set(twice["session"][count:])
    if "block_ids" in once:
        assert twice["block_ids"] == 2 * once["block_ids"]
    known = [arrival for arrival in twice["arrival_ns"] if arrival >= 0]
    assert known == sorted(known)
    assert known[len(known) // 2] > known[len(known) // 2 - 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_rows_reach_the_trace(tmp_path: Path, name: str) -> None:
    """Each kind of file makes a trace, under blocks and under whole turns."""
    path = good(tmp_path, name)
    block_tokens = {"mooncake": 256, "lmcache": 16}.get(name, 64 if name != "bailian" else 16)
    made = record(tmp_path / "t.parquet", name, path, block_tokens=block_tokens)
    assert made.header.totals.rows > 0
    assert made.header.source.name == name
    assert str(tmp_path) not in made.header.to_json().decode()
    turns = record(tmp_path / "u.parquet", name, path, layout="request", block_tokens=None)
    assert turns.header.totals.rows > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["azure", "bailian", "burstgpt", "mooncake"])
def test_pieces_and_workers_dont_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither the size of pieces nor worker processes change anything, whatever is drawn."""
    many = {
        "azure": [f"2023-11-16 18:17:{n:02}.5,{99 + n},9\n" for n in range(50)],
        "burstgpt": [f"{n // 3},GPT-4,{99 + n},9,0,API log\n" for n in range(50)],
        "bailian": [files.bailian_line(n, n - 7 if n > 9 else -1, n // 3) for n in range(50)],
        "mooncake": [files.mooncake_line(3000 * (n // 3), ids=[n % 9, n]) for n in range(50)],
    }[name]
    header = {"azure": files.AZURE_HEADER, "burstgpt": files.BURSTGPT_HEADER}.get(name, "")
    path = write(tmp_path / "many", header + "".join(many))
    options: dict[str, Any] = {"scale_sessions": 2.5, "cycles": 2, "dequantise": "1s"}
    if name in ("azure", "burstgpt"):
        options["invent_sessions"] = 0.7
    whole = read(name, path, **options)[0]
    monkeypatch.setattr(lines, "LINES_PER_PIECE", 4)
    monkeypatch.setattr(csvrows, "LINES_PER_PIECE", 4)
    assert read(name, path, **options)[0] == whole
    if name in ("bailian", "mooncake"):
        assert read(name, path, workers=2, **options)[0] == whole


@pytest.mark.slow
def test_files_in_name_order(tmp_path: Path) -> None:
    """A directory is all its files in the order of their names; inputs keep their own order."""
    for name, time in (("b.jsonl", 7), ("a.jsonl", 3)):
        write(tmp_path / name, files.mooncake_line(time, ids=[time, 0]))
    made = record(tmp_path.parent / f"{tmp_path.name}.parquet", "mooncake", tmp_path)
    assert made.header.statistics["requests"] == 2
    found, _ = read("mooncake", tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert found["arrival_ns"] == [0, 4 * MS_NS]
    with pytest.raises(TraceError, match=r"a\.jsonl:1: time runs backwards"):
        read("mooncake", tmp_path / "b.jsonl", tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_sources_say_which_keys_they_use(name: str) -> None:
    """Every key of the configuration belongs to a source, and no source names another."""
    module = plugins.load(plugins.SOURCE, name)
    assert set(SourceConfig.model_fields) >= module.KEYS


def test_every_key_is_used() -> None:
    """No key of the configuration is without a source."""
    used = {"name", "input"}
    for name in plugins.names(plugins.SOURCE):
        used |= plugins.load(plugins.SOURCE, name).KEYS
    assert used == set(SourceConfig.model_fields)


VALUES: dict[str, Any] = {
    "users": 2, "rate": 5, "arrival": "gamma", "gamma_shape": 2, "diurnal_amplitude": 0.1,
    "diurnal_period": "1h", "speed": 2.0, "cycles": 3, "scale_sessions": 3.0, "dequantise": "1s",
    "invent_sessions": 0.5, "tokenizer": "t.json", "think_s": [1, 2], "multi_turn": False,
    "end_probability": 0.5, "max_turns": 2, "max_context_tokens": 99, "prefix_caching": False,
    "templates": {"a": {"context_tokens": [1, 2], "generated_tokens": [1, 2], "think_s": [0, 1]}},
    "system_prompts": {"count": 1}, "rag": {}, "block_tokens": 32, "timing": "think",
    "qos_mix": {"interactive": 1, "responsive": 0, "batch": 0},
    "index": "aisaq-scale", "vectors": 9, "dimensions": 9, "vector_type": "int8", "degree": 9,
    "search_list": 9, "beam_width": 9, "cached_nodes": 9, "code_bytes": 9, "skew": 0.9,
    "round_time": "1ms", "build": True,
    "start_ratio": [0, 1], "warmup_requests": 3, "idle_max": "10s", "own_plays": True,
}  # fmt: skip
"""Of each key a value that isn't its default."""


@pytest.mark.parametrize("name", [*FILES, "synthetic"])
def test_keys_without_effect_are_refused(tmp_path: Path, name: str) -> None:
    """A key that the source doesn't use is refused with one clear line, its default isn't."""
    used = plugins.load(plugins.SOURCE, name).KEYS
    paths = [good(tmp_path, name)] if name in GOOD else []
    fields = SourceConfig.model_fields
    unused = sorted(set(fields) - used - {"name", "input"})
    for key in unused:
        with pytest.raises(
            UsageError, match=rf"^source\.{key}: has no effect on source {name}: got"
        ):
            read(name, *paths, **{key: VALUES[key]})
    if name in GOOD:
        defaults = {key: fields[key].get_default(call_default_factory=True) for key in unused}
        read(name, *paths, **defaults)


# --- Options ------------------------------------------------------------------------------------


def test_speed(tmp_path: Path) -> None:
    """Arrivals, or think times, are divided by the speed."""
    path = write(tmp_path / "a", files.mooncake_line(0) + files.mooncake_line(9))
    assert read("mooncake", path, speed=2)[0]["arrival_ns"] == [0, 4_500_000]
    talk = write(tmp_path / "b", files.weka([files.weka_request(think_time=3)]))
    assert read("weka", talk, speed=2)[0]["think_ns"] == [1_500_000_000]


def test_arrivals_count_from_the_first(tmp_path: Path) -> None:
    """A file that begins at some later time gives a trace that begins at 0."""
    path = write(tmp_path / "a", files.mooncake_line(70_000) + files.mooncake_line(70_009))
    assert read("mooncake", path)[0]["arrival_ns"] == [0, 9 * MS_NS]


def test_cycle_begins_a_gap_later(tmp_path: Path) -> None:
    """A cycle begins one mean gap after the last request of the one before it."""
    path = write(tmp_path / "a", "".join(map(files.mooncake_line, (0, 4, 10))))
    arrivals = read("mooncake", path, cycles=2)[0]["arrival_ns"]
    assert [time // MS_NS for time in arrivals] == [0, 4, 10, 15, 19, 25]


def many_chats(folder: Path, chats: int = 400) -> Path:
    """Write chats of two turns; all begin with blocks 1 and 2, the third is each chat's own."""
    text = ""
    for chat in range(chats):
        ids = [1, 2, 1000 + chat]
        text += files.bailian_line(2 * chat, -1, chat, input_length=48, hash_ids=ids)
        text += files.bailian_line(2 * chat + 1, 2 * chat, chat, input_length=48, hash_ids=ids)
    return write(folder / "chats.jsonl", text)


def test_sessions_thinned(tmp_path: Path) -> None:
    """Below 1 whole sessions are left out, others by another seed."""
    path = many_chats(tmp_path)
    kept = read("bailian", path, scale_sessions=0.25)[0]
    assert 60 < len(set(kept["session"])) < 140
    assert all(kept["session"].count(session) == 2 for session in set(kept["session"]))
    assert read("bailian", path, scale_sessions=0.25, seed=1)[0]["session"] != kept["session"]
    assert read("bailian", path, scale_sessions=0.25)[0] == kept


def test_sessions_copied(tmp_path: Path) -> None:
    """Above 1 sessions are copied: own ids are fresh in each copy, shared ones stay shared."""
    found = read("bailian", many_chats(tmp_path), scale_sessions=2.5)[0]
    sessions = set(found["session"])
    assert 950 < len(sessions) < 1050
    assert all(found["session"].count(session) == 2 for session in list(sessions)[:50])
    assert len({ids[0] for ids in found["block_ids"]}) == 1
    assert len({ids[2] for ids in found["block_ids"]}) == len(sessions)
    assert found["arrival_ns"] == sorted(found["arrival_ns"])
    late = np.array(found["arrival_ns"]) - np.array(found["session"]) // 3 * S_NS
    original = np.array(found["session"]) % 3 == 0
    assert not late[original].any()
    assert 0 < late[~original].min() < 2 * S_NS
    assert 50 * S_NS < late[~original].max() < 60 * S_NS


def test_copies_of_conversations(tmp_path: Path) -> None:
    """Copies of a conversation whose ids are its own share nothing with it; global ones do."""
    two = [files.weka([files.weka_request(hash_ids=[1, n])], id=f"c{n}") for n in (5, 6)]
    path = write(tmp_path / "a.json", "\n".join(two))
    found = read("weka", path, scale_sessions=2.0)[0]
    assert len({ident for ids in found["block_ids"] for ident in ids}) == 8
    path.write_text("\n".join(two).replace("local", "global"))
    found = read("weka", path, scale_sessions=2.0)[0]
    assert len({ids[0] for ids in found["block_ids"]}) == 1
    assert len({ids[1] for ids in found["block_ids"]}) == 4


def test_dequantise(tmp_path: Path) -> None:
    """Requests of one tick are spread over it by the seed and keep the order of their lines."""
    text = "".join(files.mooncake_line(3000 * (n // 40), tokens=513 + n) for n in range(120))
    path = write(tmp_path / "a.jsonl", text)
    found = read("mooncake", path, dequantise="3s")[0]
    assert found["input_tokens"] == [513 + n for n in range(120)]
    times = np.array(found["arrival_ns"]) / S_NS
    assert (np.diff(times) > 0).all()
    # Counted from the first: by some part of a tick all are within their ticks, and spread in it.
    ticks = times.reshape(3, 40) - 3 * np.arange(3)[:, None]
    assert 2.5 < np.ptp(ticks) < 3
    assert np.ptp(ticks, axis=1).min() > 2
    assert read("mooncake", path, dequantise="3s", seed=1)[0]["arrival_ns"] != found["arrival_ns"]
    with pytest.raises(UsageError, match=r"clock doesn't tick like that: got 7s"):
        read("mooncake", path, dequantise="7s")


@pytest.mark.slow
def test_invented_sessions(tmp_path: Path) -> None:
    """Invented sessions are declared, grow, wait for their answers and go on as often as asked."""
    rng = np.random.default_rng(1)
    prompts, answers = rng.integers(10, 4000, 2000), rng.integers(1, 50, 2000)
    rows = [
        f"{n},GPT-4,{prompt},{answer},0,API log\n"
        for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    path = write(tmp_path / "a.csv", files.BURSTGPT_HEADER + "".join(rows))
    found, info = read("burstgpt", path, invent_sessions=0.5)
    assert info["invented"] == ["sessions: each goes on after a turn with probability 0.5"]
    assert 0.4 < np.mean(np.array(found["turn"]) > 0) < 0.5
    context: dict[int, int] = {}
    ready: dict[int, int] = {}
    for row, session in enumerate(found["session"]):
        assert found["input_tokens"][row] > context.get(session, 0)
        assert found["arrival_ns"][row] >= ready.get(session, 0)
        context[session] = found["input_tokens"][row] + found["output_tokens"][row]
        ready[session] = found["arrival_ns"][row] + found["output_tokens"][row] * 30 * MS_NS
    for session in {
        s for s, last in zip(found["session"], found["last_turn"], strict=True) if last
    }:
        last = max(row for row, other in enumerate(found["session"]) if other == session)
        assert found["last_turn"][last]
    assert read("burstgpt", path, invent_sessions=0.5, seed=1)[0]["session"] != found["session"]
    made = record(tmp_path / "t.parquet", "burstgpt", path, source__invent_sessions=0.5)
    assert made.header.statistics["ideal_prefix_hit"] > 0.1
    assert "session" in pl.read_parquet_schema(tmp_path / "t.parquet")
    plain = record(tmp_path / "u.parquet", "burstgpt", path)
    assert plain.header.statistics["ideal_prefix_hit"] == 0
    assert "session" not in pl.read_parquet_schema(tmp_path / "u.parquet")


FILE_KEYS: dict[str, tuple[str, Any]] = {
    "speed": ("mooncake", 2.0),
    "cycles": ("mooncake", 2),
    "scale_sessions": ("mooncake", 3.0),
    "dequantise": ("mooncake", "1ms"),
    "invent_sessions": ("burstgpt", 0.9),
    "tokenizer": ("sharegpt", None),
    "think_s": ("sharegpt", [3, 9]),
    "rate": ("sharegpt", 9.0),
    "users": ("weka", 2),
    "arrival": ("weka", "constant"),
    "timing": ("weka", "recorded"),
}


@pytest.mark.slow
@pytest.mark.parametrize("key", FILE_KEYS)
def test_every_key_changes_the_trace(tmp_path: Path, key: str) -> None:
    """No key of a file source is without effect on the rows."""
    name, value = FILE_KEYS[key]
    path = good(tmp_path, name)
    if name == "burstgpt":
        more = "".join(f"{9 * n},GPT-4,{99 * n},18,490,API log\n" for n in range(1, 50))
        path.write_text(files.BURSTGPT_HEADER + more)
    if key == "tokenizer":
        value = str(word_tokenizer(tmp_path / "tokenizer.json"))
        path.write_text(files.sharegpt([("human", "hello " * 300), ("gpt", "hello " * 900)] * 3))
    options = {"block_tokens": 64}
    record(tmp_path / "plain.parquet", name, path, **options)
    record(tmp_path / "other.parquet", name, path, **options | {f"source__{key}": value})
    plain, other = (pl.read_parquet(tmp_path / f"{n}.parquet") for n in ("plain", "other"))
    assert not plain.equals(other)


# --- Traps of each kind -------------------------------------------------------------------------


def test_ids_are_kept_whole(tmp_path: Path) -> None:
    """Ids above 2⁵³ and 2⁶³ that differ in their last bit differ as blocks."""
    big = [(1 << 53) + 1, (1 << 53) + 2, (1 << 63) + 1, (1 << 63) + 2, (1 << 64) - 1, (1 << 64) - 2]
    text = "".join(files.mooncake_line(0, ids=[ident, 0]) for ident in big)
    found, _ = read("mooncake", write(tmp_path / "a", text))
    assert len({ids[0] for ids in found["block_ids"]}) == len(big)
    assert max(ids[0] for ids in found["block_ids"]) < len(big) + 1  # interned


def test_azure_dates(tmp_path: Path) -> None:
    """Dates have any number of digits of a second, or the zone of the later traces."""
    rows = (
        "2023-11-16 18:17:03.9799600,10,1\n2023-11-16 18:17:04,10,1\n"
        "2023-11-16 18:17:04.000001+00:00,10,0\n2023-11-16 18:17:05Z,0,1"
    )
    found, info = read("azure", write(tmp_path / "a.csv", files.AZURE_HEADER + rows))
    assert found["arrival_ns"] == [0, 20_040_000, 20_041_000]
    assert info["dropped"] == {"no prompt tokens": 1}


def test_burstgpt_failed_requests(tmp_path: Path) -> None:
    """A request with 0 response tokens failed: it is left out and counted, also in the header."""
    rows = "1,ChatGPT,10,0,10,API log\n2,ChatGPT,90,5,95,API log\n3,ChatGPT,7,0,7,API log\n"
    path = write(tmp_path / "a.csv", files.BURSTGPT_HEADER + rows)
    found, info = read("burstgpt", path)
    assert found["input_tokens"] == [90]
    assert info["dropped"] == {"failed: 0 response tokens": 2}
    made = record(tmp_path / "t.parquet", "burstgpt", path, block_tokens=64)
    assert made.header.source.model_dump()["dropped"] == info["dropped"]


def test_burstgpt_later_layout(tmp_path: Path) -> None:
    """The later layout's columns are found by their names."""
    text = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type\r\n1.5,9,0.2,ChatGPT,472,18,490,Conversation log\r\n"
    )
    found, _ = read("burstgpt", write(tmp_path / "a.csv", text))
    assert (found["input_tokens"], found["output_tokens"]) == ([472], [18])


def test_bailian_sessions(tmp_path: Path) -> None:
    """A session is a chat and all that descend from it; a lost parent begins one, and is told."""
    chats = [(5, -1), (6, -1), (7, 5), (8, 7), (9, 99), (10, 9)]
    text = "".join(files.bailian_line(chat, parent) for chat, parent in chats)
    found, info = read("bailian", write(tmp_path / "a", text))
    assert found["session"] == [0, 1, 0, 0, 2, 2]
    assert info["notes"] == ["1 chats whose parent isn't in the file begin a session"]


def test_bailian_turns_are_objects(tmp_path: Path) -> None:
    """Under whole turns an object is what a turn added; a context that shrank begins anew."""
    lengths = [(0, -1, 40), (1, 0, 70), (2, 1, 50)]
    text = "".join(
        files.bailian_line(
            chat, parent, input_length=tokens, hash_ids=list(range(-(-tokens // 16)))
        )
        for chat, parent, tokens in lengths
    )
    found, _ = read("bailian", write(tmp_path / "a", text), by_turn=True)
    assert found["turn_tokens"] == [[40], [40, 30], [50]]
    assert found["session"] == [0, 0, 1]


def test_weka_ids_are_local(tmp_path: Path) -> None:
    """Equal ids of two conversations are different blocks, unless their scope is global."""
    write(tmp_path / "a.json", files.weka([files.weka_request()], id="a"))
    write(tmp_path / "b.json", files.weka([files.weka_request()], id="b"))
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    assert read("weka", *paths)[0]["block_ids"] == [[0, 1], [2, 3]]
    for path in paths:
        path.write_text(path.read_text().replace("local", "global"))
    assert read("weka", *paths)[0]["block_ids"] == [[0, 1], [0, 1]]
    paths[0].write_text(paths[0].read_text().replace("global", "local"))
    with pytest.raises(TraceError, match=r"b\.json: entry 1: another hash_id_scope"):
        read("weka", *paths)


def test_weka_subagents(tmp_path: Path) -> None:
    """Subagents' requests are of the same conversation, in order of time, with its ids."""
    agent = {"type": "subagent", "agent_id": "x", "t": 4.0, "requests": [
        files.weka_request(5.0, hash_ids=[1, 3], think_time=0.5),
        files.weka_request(9.0, hash_ids=[1, 3], think_time=1.5),
        {"type": "subagent", "requests": [files.weka_request(7.0, hash_ids=[4, 5])]},
    ]}  # fmt: skip
    requests = [
        files.weka_request(0.0, api_time=2.0, think_time=0.0),
        agent,
        files.weka_request(20.0, think_time=3.0, tokens=140),
    ]
    found, _ = read("weka", write(tmp_path / "a.json", files.weka(requests)))
    assert found["session"] == [0] * 5
    assert found["turn"] == [0, 1, 2, 3, 4]
    assert found["block_ids"] == [[0, 1], [0, 2], [3, 4], [0, 2], [0, 1]]
    # Another agent's think time isn't counted from this one's answer: what the times leave is.
    assert found["think_ns"] == [0, 3 * S_NS, 2 * S_NS, 2 * S_NS, 11 * S_NS]
    assert found["follow"] == [1, 1, 1, 1, 0]
    turns = read("weka", write(tmp_path / "a.json", files.weka(requests)), by_turn=True)[0]
    assert turns["turn_tokens"] == [[130], [130], [130], [130], [130, 10]]


def test_weka_lines_and_lists(tmp_path: Path) -> None:
    """Conversations may be one to a file, one to a line or a list."""
    two = [files.weka([files.weka_request()], id=name) for name in "ab"]
    for text in ("\n".join(two), f"[{','.join(two)}]"):
        assert len(read("weka", write(tmp_path / "a", text))[0]["turn"]) == 2


def test_sharegpt_context_grows(tmp_path: Path) -> None:
    """A turn's prompt repeats all before it; what isn't a turn is left out, short entries too."""
    talk = [
        ("gpt", "w" * 40),  # an answer to nothing: context
        ("human", "x" * 400),
        ("human", "y" * 40),
        ("gpt", "a" * 81),
        ("user", "z" * 8),
        ("assistant", "b" * 8),
        ("human", "never answered"),
    ]
    path = write(tmp_path / "a", files.sharegpt(talk, [("human", "alone")], [], talk[:1]))
    found, info = read("sharegpt", path)
    assert found["input_tokens"] == [120, 120 + 21 + 2]
    assert found["output_tokens"] == [21, 2]
    assert found["last_turn"] == [False, True]
    assert info["dropped"] == {"entries with fewer than two turns": 3}
    assert info["parameters"]["tokens"] == "characters ÷ 4, rounded up"
    assert "arrivals" in info["invented"]
    assert read("sharegpt", path, by_turn=True)[0]["turn_tokens"] == [[120], [120, 23]]


def test_sharegpt_users(tmp_path: Path) -> None:
    """Users hold one conversation each and begin the next one when it has ended."""
    talk = [("human", "x" * 40), ("gpt", "a" * 8)] * 2
    path = write(tmp_path / "a", files.sharegpt(*[talk] * 5))
    found = read("sharegpt", path, users=2)[0]
    assert found["session"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] or found["session"][0] == 1
    assert found["follow"] == [1, -1] * 5
    made = record(
        tmp_path / "t.parquet", "sharegpt", path, source__users=2, block_tokens=4, requests=9
    )
    assert made.header.statistics["requests"] == 9


def test_rate_of_conversations(tmp_path: Path) -> None:
    """Sessions begin so that requests come at the rate on average."""
    talk = [("human", "x" * 40), ("gpt", "a" * 8)] * 4
    path = write(tmp_path / "a", files.sharegpt(*[talk] * 500))
    arrivals = [time for time in read("sharegpt", path, rate=8)[0]["arrival_ns"] if time >= 0]
    assert len(arrivals) == 500
    assert arrivals[-1] / S_NS == pytest.approx(500 * 4 / 8, rel=0.15)


def word_tokenizer(path: Path) -> Path:
    """Write a tokenizer that counts words."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers isn't here")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(path))
    return path


def test_sharegpt_tokenizer(tmp_path: Path) -> None:
    """With a tokenizer tokens are its own, and the header says which one by its sha256."""
    tokenizer = word_tokenizer(tmp_path / "tokenizer.json")
    path = write(tmp_path / "a", files.sharegpt([("human", "one two three"), ("gpt", "four")]))
    found, info = read("sharegpt", path, tokenizer=str(tokenizer))
    assert (found["input_tokens"], found["output_tokens"]) == ([3], [1])
    assert info["parameters"]["tokens"] == "tokenizer"
    assert len(info["parameters"]["tokenizer_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(info)


def test_lmcache_look_ups(tmp_path: Path) -> None:
    """Ranks' keys of one chunk are one block; a request that asks again is counted once."""
    stray = {"type": "record", "t_mono": 0.1, "qualname": "X.finish_write", "args": {"keys": []}}
    recording = files.lct(
        files.look_up(0.25, [b"a", b"b"], request="r1"),
        stray | {"t_mono": 0.3},
        files.look_up(0.5, [b"a", b"b"], request="r1"),
        files.look_up(0.75, [b"a", b"c"], request="r2"),
        files.look_up(1.0, [], request="r3"),
    )
    found, info = read("lmcache", write(tmp_path / "a.lct", recording))
    assert found["block_ids"] == [[0, 1], [0, 2]]
    assert found["arrival_ns"] == [0, 500_000_000]
    assert found["input_tokens"] == [32, 32]
    assert info["dropped"] == {
        "look-ups of a request that had asked before": 1,
        "prompts without a whole chunk": 1,
    }


def test_json_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file read in chunks of any size gives its values."""
    values = [{"a": "x" * 50}, 12345, [1, [2]], True, None, 'é"\\', 1.5e10, {}]
    for text in (json.dumps(values), " [ " + " ,\n".join(map(json.dumps, values)) + " ] \n"):
        path = write(tmp_path / "a.json", text)
        for size in (1, 2, 3, 7, 1000):
            monkeypatch.setattr(jsonstream, "CHUNK_CHARACTERS", size)
            assert [value for _, value in jsonstream.values(path)] == values
    several = write(tmp_path / "b.json", "\n".join(map(json.dumps, values[:3])))
    assert [value for _, value in jsonstream.values(several)] == values[:3]


def test_what_a_source_does_not_list_has_no_blocks(tmp_path: Path) -> None:
    """Weka lists full blocks of 64: of 130 tokens, a layout of 16-token blocks has 8, not 9."""
    path = write(tmp_path / "a.json", files.weka([files.weka_request(tokens=158)] * 2))
    options = {"source.name": "weka", "source.input": [str(path)], "layout": "vllm"}
    recording = Recording(load_config(None, options | {"model": "llama3.1-8b"}))
    (cut,) = recording.requests()
    assert cut.prompt_blocks.tolist() == [8, 8]
