"""Mooncake's store in a program: what closing does."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from tests.support import captures

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class _Store:
    """Takes anything."""

    def put(self, _key: str, _value: bytes) -> int:
        return 0

    def close(self) -> int:
        return 0


def test_a_store_closed_twice_leaves_the_recording_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores of a process share a recorder; the second end of one isn't the other's."""
    monkeypatch.setattr(metadata, "version", lambda _: "0.3.13")
    module: Any = import_module("kvtrace.capture.mooncake")
    one, two = (module.RecordingStore(_Store(), out=str(tmp_path), flush_s=0.01) for _ in range(2))
    assert (one.close(), one.close()) == (0, 0)
    assert two.put("k", b"abc") == 0
    two.close()
    assert captures.records(tmp_path)["size"].tolist() == [3]
