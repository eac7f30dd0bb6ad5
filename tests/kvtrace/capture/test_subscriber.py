"""A subscriber records what a publisher sends, wherever either of them binds."""

from __future__ import annotations

import importlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.capture import subscriber
from kvtrace.capture.errors import CaptureError
from kvtrace.capture.events import Cleaner, text_of
from kvtrace.capture.identity import Hasher
from kvtrace.capture.settings import Settings
from kvtrace.capture.spool import Kind
from kvtrace.capture.subscriber import EventWriter, Subscriber, endpoint_of
from tests.support import captures
from tests.support.kv_batches import message, published, removed, stored

if TYPE_CHECKING:
    from pathlib import Path


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "bind", "expected"),
    [
        ("tcp://*:5557", None, ("tcp://127.0.0.1:5557", False)),
        ("tcp://0.0.0.0:5557", None, ("tcp://127.0.0.1:5557", False)),
        ("tcp://127.0.0.1:5557", None, ("tcp://127.0.0.1:5557", True)),
        ("tcp://10.0.0.7:5557", False, ("tcp://10.0.0.7:5557", False)),
        ("ipc:///tmp/events", None, ("ipc:///tmp/events", False)),
        ("tcp://*:5557", True, ("tcp://*:5557", True)),
    ],
)
def test_the_end_that_the_engine_leaves(
    address: str, bind: bool | None, expected: tuple[str, bool]
) -> None:
    """Engines bind wildcards and connect to other addresses; nothing is opened to all hosts."""
    endpoint = endpoint_of(address, bind=bind)
    assert (endpoint.address, endpoint.bind) == expected


def recorded(out: Path, wanted: int, *, bind: bool, messages: Any) -> Cleaner:
    """Record until a number of messages have come."""
    address, cleaner = free_address(), Cleaner(Hasher(b"s"))
    subscription = Subscriber(endpoint_of(address, bind=not bind))
    writer = EventWriter(Settings(out, flush_s=0.01), cleaner)
    with published(messages, address, bind=bind):
        subscriber.record(
            subscription, writer, lambda: cleaner.batches + cleaner.unreadable >= wanted
        )
    subscription.close()
    return cleaner


@pytest.mark.parametrize("bind", [True, False])
def test_events_are_recorded(tmp_path: Path, bind: bool) -> None:
    """All lines and an end with counts are in the file; a message of another kind is counted."""
    other = [b"", b"x", b"y"]
    cleaner = recorded(
        tmp_path, 8, bind=bind, messages=[message(0, [stored(1, 2), removed(3)]), other]
    )
    frames = captures.frames(tmp_path, Kind.EVENTS)
    lines = [line for frame in frames for line in text_of(frame.payload).splitlines()]
    assert len(lines) == cleaner.batches > 1
    assert sum(frame.rows for frame in frames) == 2 * cleaner.batches
    (end,) = captures.documents(tmp_path, Kind.END)
    assert end["final"]
    assert end["events"] == {"BlockRemoved GPU": len(lines), "BlockStored GPU": 2 * len(lines)}
    assert end["unreadable_messages"] == cleaner.unreadable > 0


def test_a_gap_in_the_numbers_is_a_gap_in_the_file(tmp_path: Path) -> None:
    """Batches that never came are told where they are missing."""
    recorded(tmp_path, 2, bind=True, messages=[message(n, [removed(1)]) for n in (1, 5)])
    gaps = captures.documents(tmp_path, Kind.GAP)
    assert {gap["reason"] for gap in gaps} == {"batches missed"}
    assert sum(gap["dropped_rows"] for gap in gaps) % 3 == 0


def test_files_are_rotated(tmp_path: Path) -> None:
    """A long recording is several files, each with a header, the last with the final end."""
    cleaner = Cleaner(Hasher(b"s"))
    writer = EventWriter(Settings(tmp_path, rotate_bytes=500), cleaner)
    for seq in range(4):
        writer.write([cleaner.line(b"", seq, [1.0, [stored(*range(40))], 0], 1)])
    writer.finish()
    heads = captures.documents(tmp_path, Kind.HEADER)
    assert [head["part"] for head in heads] == list(range(len(heads)))
    assert len(heads) > 2
    assert [end["final"] for end in captures.documents(tmp_path, Kind.END)].count(True) == 1


def test_without_the_packages_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come with an extra."""

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(CaptureError, match=r"pyzmq isn't installed: pip install 'kvtrace\[capture"):
        Subscriber(endpoint_of("tcp://127.0.0.1:1"))


def test_an_address_in_use_is_told() -> None:
    """The message names address and reason."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(CaptureError, match=f"can't bind {address}: Address already in use"):
            Subscriber(endpoint_of(address))
