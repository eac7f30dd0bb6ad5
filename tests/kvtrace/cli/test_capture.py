"""`kvtrace capture`: strings that engines take, and what a recording does meanwhile."""

from __future__ import annotations

import ast
import json
import shlex
import signal
import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

import kvtrace.capture
from kvtrace.capture import moment, spool
from kvtrace.capture.spool import Kind
from kvtrace.errors import EXIT_INTERRUPTED
from kvtrace.formats.capture.status import Follower
from kvtrace.trace.schema import Op, Tier
from tests.support import recordings
from tests.support.command import APART
from tests.support.recordings import KIB32, START_NS, record, rows, write, write_part

if TYPE_CHECKING:
    from tests.support.command import Cli

SECOND_US = 1_000_000


def strings(cli: Cli, *words: object) -> list[str]:
    document = json.loads(cli("capture", *words, "--json").out)
    return [each["text"] for each in document["strings"]]


def configuration(text: str) -> dict[str, Any]:
    """Return the JSON that a shell gives to the engine: the last word."""
    value: dict[str, Any] = json.loads(shlex.split(text)[-1])
    return value


def classes_of(module: str) -> set[str]:
    """Return the classes of an adapter, which can't be imported without its engine."""
    file = Path(kvtrace.capture.__path__[0]) / f"{module.rpartition('.')[2]}.py"
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.ClassDef)}


def test_lmcache_gets_its_adapter_inside_ours(tmp_path: Path, cli: Cli) -> None:
    out, secret = tmp_path / "it's here", tmp_path / "secret"
    inner = {"type": "s3", "bucket": "kv"}
    words = ("--out", out, "--secret-file", secret, "--inner", json.dumps(inner))
    (text,) = strings(cli, "lmcache", *words)
    spec = configuration(text)
    assert spec["adapter_params"] == {
        "inner": inner, "out": str(out), "secret_file": str(secret),
    }  # fmt: skip
    assert spec["class_name"] in classes_of(spec["module_path"])


def test_vllm_gets_one_string_for_all_tiers_and_one_for_one(tmp_path: Path, cli: Cli) -> None:
    texts = strings(cli, "vllm", "--out", tmp_path)
    both, one = (configuration(text)["kv_connector_extra_config"] for text in texts)
    assert both["spec_name"] in classes_of(both["spec_module_path"])
    assert both["capture"]["out"] == str(tmp_path)
    (tier,) = one["secondary_tiers"]
    assert tier["type"] in classes_of(tier["module_path"])
    assert tier["capture"]["out"] == str(tmp_path)
    assert tier["inner"] == both["secondary_tiers"][0]


@pytest.mark.parametrize(("inner", "zero_copy"), [("file", 0), ("mooncake", 1)])
def test_sglang_selects_the_calls_that_the_back_end_takes(
    tmp_path: Path, cli: Cli, inner: str, zero_copy: int
) -> None:
    words = ("--out", tmp_path, "--inner", json.dumps({"type": inner, "x": 1}))
    (text,) = strings(cli, "sglang", *words)
    extra = configuration(text)
    assert (extra["inner"], extra["interface_v1"], extra["x"]) == (inner, zero_copy, 1)
    assert extra["class_name"] in classes_of(extra["module_path"])


def test_mooncake_is_wrapped_in_the_program(tmp_path: Path, cli: Cli) -> None:
    text = strings(cli, "mooncake", "--out", tmp_path)[0]
    assert repr(str(tmp_path)) in text
    assert "RecordingStore" in classes_of("kvtrace.capture.mooncake")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vlm", "--out", "d"), "did you mean vllm"),
        (("vllm",), "--out DIR is missing"),
        ((), "ENGINE is missing"),
        (("--watch",), "needs --status DIR"),
        (("vllm", "--status", "d"), "excludes ENGINE"),
        (("--status", "d", "--out", "d"), "excludes --out"),
        (("--status", "d", "--inner", "{}"), "excludes --inner"),
        (("--status", "d", "--secret-file", "s"), "excludes --secret-file"),
        (("lmcache", "--out", "d", "--inner", "{"), "not JSON"),
        (("lmcache", "--out", "d", "--inner", "[]"), "not a JSON object"),
        (("vllm", "--out", "d", "--inner", "{}"), "its `type` is missing"),
        (("sglang", "--out", "d", "--inner", '{"type": 5}'), "its `type` is missing or no text"),
        (("mooncake", "--out", "d", "--inner", '{"type": "s"}'), "--inner: is of other engines"),
        (("--status", "/"), "no recording in this folder yet"),
    ],
)
def test_words_that_do_not_go_together(cli: Cli, words: tuple[str, ...], message: str) -> None:
    ended = cli("capture", *words)
    assert ended.code in (2, 3)
    assert message in ended.error


def test_a_folder_is_one_word_of_the_commands_to_paste(cli: Cli) -> None:
    out = "my 'kv' $HOME"
    lines = cli("capture", "lmcache", "--out", out).out.splitlines()
    assert shlex.split(lines[-2])[2:] == ["--status", out]
    assert shlex.split(lines[-1])[2:] == [out, "trace.parquet"]


def test_status_reads_on_and_counts_rates_depth_and_losses(tmp_path: Path) -> None:
    """Two writes of a second each, side by side; then a read, a gap and the end come."""
    gap = spool.pack_json(
        Kind.GAP, {"dropped_rows": 4, "until_mono_ns": START_NS, "reason": "queue full"}
    )
    path = write_part(
        tmp_path, [rows(write(1, 0, SECOND_US), write(2, 0, SECOND_US))], ended=False,
        process="999999999-a", boot_id=moment.boot_id(),
    )  # fmt: skip
    follower = Follower(tmp_path)
    first = follower.read(START_NS + 3_000_000_000)
    assert (first.rows, first.processes, first.ended, first.killed) == (2, 1, 0, 1)
    nvme = first.tiers[Tier.NVME]
    assert (nvme.ops_per_s, nvme.write_bytes_per_s, nvme.in_flight) == (2, 2 * KIB32, 2)
    assert first.silent_ns == 2_000_000_000
    more = spool.pack_rows(rows(record(Op.READ, 1, SECOND_US, 2 * SECOND_US)))
    end = recordings.end(3, dropped_rows=4, bus_dropped=5, write_errors=6, guarded_errors={"x": 7})
    with path.open("ab") as file:
        file.write(more + gap + end)
    second = follower.read(START_NS + 3_000_000_000)
    assert (second.rows, second.ended, second.killed) == (3, 1, 0)
    assert (second.dropped_rows, second.gaps) == (4, 1)
    assert (second.bus_events_dropped, second.write_errors, second.guarded_errors) == (5, 6, 7)
    assert second.tiers[Tier.NVME].in_flight == 1.5


def test_status_of_a_rotated_recording_begins_with_the_newest_file(tmp_path: Path) -> None:
    """What the file before counted is taken from its end, and not read."""
    before = recordings.end(1000, final=False)
    write_part(tmp_path, [rows(write(1, 0, 1)), before], ended=False)
    write_part(tmp_path, [rows(write(2, 5, 9))], ended=False, part=1)
    assert Follower(tmp_path).read(START_NS).rows == 1001


def test_status_of_more_parts_than_the_number_in_a_name_has_digits(tmp_path: Path) -> None:
    """Part 10000 comes behind 9999, though its name sorts before it."""
    for part in (9999, 10000):
        frames = [rows(write(part, 0, 5)), recordings.end(part, final=False)]
        path = write_part(tmp_path, frames, ended=False, part=part)
        path.rename(tmp_path / f"lmcache-7-a-{part:04}.kvcap")
    assert [path.stem[-5:] for path in spool.parts(tmp_path)] == ["-9999", "10000"]
    assert Follower(tmp_path).read(START_NS).rows == 10_000


def test_status_goes_on_behind_a_file_that_was_removed(tmp_path: Path) -> None:
    frames = [rows(write(1, 0, 1)), recordings.end(1, final=False)]
    old = write_part(tmp_path, frames, ended=False)
    follower = Follower(tmp_path)
    assert follower.read(START_NS).rows == 1
    old.unlink()
    write_part(tmp_path, [rows(write(2, 5, 9), write(3, 5, 9))], ended=False, part=1)
    assert follower.read(START_NS).rows == 3
    assert follower.read(START_NS).rows == 3


def test_status_names_the_engine_whose_events_lie_beside(tmp_path: Path) -> None:
    write_part(tmp_path, [], ended=False, engine="kv-events", process="1-a")
    write_part(tmp_path, [rows(write(1, 0, 1))], engine="vllm", engine_version="0.32.0")
    assert Follower(tmp_path).read(START_NS).engine == "vllm 0.32.0"


def test_status_on_a_terminal(tmp_path: Path, cli: Cli) -> None:
    write_part(tmp_path, [rows(write(1, 0, SECOND_US))])
    printed = cli("capture", "--status", tmp_path).out
    assert "lmcache 0.5.6: 0 recording, 1 ended" in printed
    assert "1 rows in" in printed
    assert "at its end 1 rows/s" in printed
    assert "lost: nothing" in printed
    document = json.loads(cli("capture", "--status", tmp_path, "--json").out)
    assert document["tiers"]["nvme"]["write_bytes_per_s"] == KIB32


def test_import_anonymised(tmp_path: Path, cli: Cli) -> None:
    import pyarrow.parquet as pq

    write_part(tmp_path / "c", [rows(write(1, 0, 5))])
    (tmp_path / "secret").write_bytes(b"s" * 16)
    keys = []
    for name, words in (
        ("a", ["--secret-file", tmp_path / "secret"]),
        ("b", ["--secret-file", tmp_path / "secret"]),
        ("c", []),
    ):
        out = tmp_path / f"{name}.parquet"
        cli("import", tmp_path / "c", out, "--anonymise", *words)
        header = json.loads(pq.read_metadata(out).metadata[b"kvtrace"])
        assert header["anonymised"]
        assert header["capture"]["boot_id"] is None
        keys.append(pq.read_table(out)["key"].to_pylist())
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] != [1]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["a.parquet", "b.parquet", "c", "c.parquet", "secret"]


def test_a_secret_without_anonymise_is_refused(tmp_path: Path, cli: Cli) -> None:
    words = ("import", tmp_path, tmp_path / "t.parquet", "--secret-file", tmp_path / "s")
    assert "--secret-file: needs --anonymise" in cli(*words).error


@pytest.mark.slow
def test_a_watch_waits_for_the_first_file_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    command = [*APART, "capture", "--status", str(tmp_path / "c"), "--watch"]
    (tmp_path / "c").mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        until(process.stdout, "no recording in this folder yet")
        write_part(tmp_path / "c", [rows(write(1, 0, SECOND_US))])
        until(process.stdout, "lmcache 0.5.6: 0 recording, 1 ended")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == EXIT_INTERRUPTED


def until(lines: IO[str], text: str) -> None:
    """Read lines up to one that has a text."""
    assert any(text in line for line in lines)
