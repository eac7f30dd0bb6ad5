"""`kvtrace capture kv-events`: options, Ctrl-C, and what a recording is good for."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from kvtrace.capture.spool import Kind
from tests.support import captures, processes
from tests.support.kv_batches import message, published, removed, stored

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

    Cli = Callable[..., Outcome]

MESSAGES = [
    message(0, [stored(1, 2)], ts=1_796_000_000.0),
    message(1, [stored(3, parent=2), removed(1)], ts=1_796_000_001.0),
]


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Exit 0, a summary, and a file with an end."""
    out, address = tmp_path / "c", free_address()
    process = processes.start("capture", "kv-events", "--endpoint", address, "--out", out)
    with published(MESSAGES, address, bind=False):
        processes.wait_until(lambda: out.is_dir() and captures.frames(out, Kind.EVENTS), process)
        process.send_signal(number)
        printed, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    text = " ".join(printed.split())
    assert text.startswith(f"bound to {address}, recording in {out}; Ctrl-C ends {out}: ")
    assert " blocks of BlockStored GPU\n" in printed
    (end,) = captures.documents(out, Kind.END)
    assert end["final"]
    assert end["batches"] > 0


@pytest.mark.slow
def test_a_recording_is_imported_and_recorded_from(tmp_path: Path, cli: Cli) -> None:
    """`import` makes rows of the GPU's cache, `record` simulates the requests behind them."""
    out, address, trace = tmp_path / "c", free_address(), tmp_path / "t.parquet"
    with published(MESSAGES, address, bind=True):
        words = ("--out", out, "--connect", "--duration", "500ms", "--json")
        document = json.loads(cli("capture", "kv-events", "--endpoint", address, *words).out)
    assert document["events"]["BlockStored GPU"] > 2
    status = cli("capture", "--status", out)
    assert status.out.startswith("kv-events: 0 recording, 1 ended\n")
    assert " KV-cache events\nlost: nothing\n" in status.out
    assert json.loads(cli("capture", "--status", out, "--json").out)["events"] > 2
    assert cli("import", out, trace, "--block-size", "64KiB").code == 0
    assert "gpu" in cli("info", trace).out
    made = tmp_path / "r.parquet"
    words = ("--source", "kv-events", "--input", out, "--model", "tiny-1b", "--block-tokens", "16")
    assert cli("record", made, *words).err == ""
    assert "kv-events" in cli("info", made).out


def test_nothing_came(tmp_path: Path, cli: Cli) -> None:
    """Exit 4: the engine isn't where it was looked for; the file has its end all the same."""
    words = ("--endpoint", free_address(), "--out", tmp_path, "--duration", "50ms")
    ended = cli("capture", "kv-events", *words)
    assert ended.code == 4
    assert "no events came" in ended.error
    assert "Or try --connect" in ended.error
    assert captures.documents(tmp_path, Kind.END)[0]["batches"] == 0


@pytest.mark.parametrize(
    ("words", "message_"),
    [
        (("kv-events", "--out", "OUT"), "--endpoint is missing"),
        (("kv-events", "--endpoint", "tcp://127.0.0.1:1"), "--out DIR is missing"),
        (("kv-events", "--endpoint", "x", "--out", "OUT", "--inner", "{}"), "--inner is of other"),
        (("vllm", "--out", "OUT", "--topic", "kv"), "--topic: is of kv-events"),
        (("vllm", "--out", "OUT", "--bind"), "--bind: is of kv-events"),
        (("--status", "OUT", "--endpoint", "x"), "--endpoint: is of kv-events"),
        (("kv-events", "--endpoint", "tcp://*:1", "--out", "OUT", "--duration", "x"), "--duration"),
        (("kv-events", "--endpoint", "tcp://*:1", "--out", "OUT", "--secret-file", "OUT/none"),
         "secret_file"),
    ],
)  # fmt: skip
def test_wrong_options(tmp_path: Path, cli: Cli, words: tuple[str, ...], message_: str) -> None:
    """They are refused before anything is opened."""
    given = [word.replace("OUT", str(tmp_path)) for word in words]
    ended = cli("capture", *given)
    assert (ended.code, message_ in ended.error) == (2, True), ended.error


def test_an_address_that_cant_be_used(tmp_path: Path, cli: Cli) -> None:
    """Exit 4, with ZeroMQ's reason."""
    words = ("--endpoint", "nonsense", "--out", tmp_path)
    ended = cli("capture", "kv-events", *words)
    assert (ended.code, "can't bind nonsense" in ended.error) == (4, True), ended.error
