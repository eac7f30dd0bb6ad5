"""The spool's files: what is whole comes back, what isn't is told."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.capture import spool
from kvtrace.capture.part import Part
from kvtrace.capture.spool import Damage, Frame, Kind, SpoolError

if TYPE_CHECKING:
    from pathlib import Path


def some(rows: int, seed: int = 1) -> np.ndarray:
    """Return records of random keys."""
    made = np.zeros(rows, spool.RECORD)
    made["key"] = np.random.default_rng(seed).integers(0, 1 << 63, rows, np.uint64)
    made["size"] = 4096
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Make a file of a header, twelve frames of rows, an anchor among them, and an end."""
    part = Part(tmp_path / f"x{spool.SUFFIX}")
    part.append(spool.pack_json(Kind.HEADER, {"spool": 1}))
    for seed in range(12):
        part.append(spool.pack_rows(some(20, seed)))
        if seed == 6:
            part.append(spool.pack_json(Kind.ANCHOR, {"mono_ns": 1}))
    part.append(spool.pack_json(Kind.END, {"final": True}))
    part.close()
    return tmp_path / f"x{spool.SUFFIX}"


def keys(parts: list[Frame | Damage]) -> list[int]:
    """Return the keys of all rows that came back."""
    whole = [p for p in parts if isinstance(p, Frame) and p.kind == Kind.ROWS]
    return [key for frame in whole for key in spool.records(frame)["key"].tolist()]


def test_what_was_written_comes_back(file: Path) -> None:
    """Records, documents and their order are what was appended; a record has 64 bytes."""
    back = list(spool.frames(file))
    kinds = [Kind(frame.kind) for frame in back if isinstance(frame, Frame)]
    assert kinds == [1] + [2] * 7 + [4] + [2] * 5 + [5]
    assert keys(back) == [key for seed in range(12) for key in some(20, seed)["key"].tolist()]
    assert isinstance(back[-1], Frame)
    assert spool.document(back[-1]) == {"final": True}
    assert spool.RECORD.itemsize == 64
    assert spool.parts(file.parent) == [file]


def test_reading_goes_on_from_an_offset(file: Path) -> None:
    """A file that grows is read on from where a frame ended."""
    back = [frame for frame in spool.frames(file) if isinstance(frame, Frame)]
    rest = list(spool.frames(file, start=back[8].end))
    assert rest == back[9:]


@pytest.mark.parametrize("place", ["sync", "kind", "length", "rows", "crc", "payload"])
def test_a_damaged_frame_loses_itself_only(file: Path, place: str) -> None:
    """Whatever of it is damaged, all frames behind it come back and its bytes are told."""
    frame = list(spool.frames(file))[5]
    assert isinstance(frame, Frame)
    where = {"sync": 0, "kind": 4, "length": 8, "rows": 12, "crc": 16, "payload": 30}[place]
    data = bytearray(file.read_bytes())
    data[frame.offset + where] ^= 0x11
    file.write_bytes(data)
    back = list(spool.frames(file))
    assert len(keys(back)) == 11 * 20
    (damage,) = [part for part in back if isinstance(part, Damage)]
    assert (damage.offset, damage.length) == (frame.offset, frame.end - frame.offset)
    assert not damage.torn


@pytest.mark.slow
def test_every_bit_flip_is_noticed(file: Path) -> None:
    """Of 400 flipped bits anywhere each is told, and costs one frame at most."""
    whole, rng = file.read_bytes(), np.random.default_rng(7)
    for bit in rng.choice(len(whole) * 8, 400, replace=False).tolist():
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        back = list(spool.frames(file))
        damages = [part for part in back if isinstance(part, Damage)]
        assert len(damages) == 1, bit
        assert damages[0].offset <= bit // 8 < damages[0].offset + damages[0].length
        assert len(keys(back)) >= 11 * 20


def test_a_file_may_be_cut_anywhere(file: Path) -> None:
    """Cut at every 7th byte, its whole frames come back and the torn one is told as torn."""
    whole = file.read_bytes()
    ends = [frame.end for frame in spool.frames(file) if isinstance(frame, Frame)]
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        back = list(spool.frames(file))
        assert len([part for part in back if isinstance(part, Frame)]) == sum(
            end <= length for end in ends
        )
        torn = [part for part in back if isinstance(part, Damage)]
        clean = length in (0, len(spool.MAGIC), *ends)
        assert [part.torn for part in torn] == ([] if clean else [True])


def test_half_a_frame_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails leaves the file as it was; a cut that fails is made up for later."""
    part = Part(tmp_path / f"x{spool.SUFFIX}")
    part.append(spool.pack_rows(some(5)))
    before = (tmp_path / f"x{spool.SUFFIX}").read_bytes()

    def half(data: bytes) -> None:
        part._file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(part, "_write", half)
        with pytest.raises(OSError, match="full"):
            part.append(spool.pack_rows(some(6)))
        assert (tmp_path / f"x{spool.SUFFIX}").read_bytes() == before
        patch.setattr(os, "ftruncate", lambda *_: half(b"x"))
        with pytest.raises(OSError, match="full"):
            part.append(spool.pack_rows(some(6)))
    part.append(spool.pack_rows(some(7)))
    part.close()
    back = list(spool.frames(tmp_path / f"x{spool.SUFFIX}"))
    assert [frame.rows for frame in back if isinstance(frame, Frame)] == [5, 7]
    assert len(back) == 2


def test_a_whole_frame_may_still_be_wrong(tmp_path: Path) -> None:
    """Rows that aren't as many as promised, or documents that aren't JSON, are refused."""
    rows = spool.pack_rows(some(3))[spool.HEAD.size :]
    for frame in (Frame(Kind.ROWS, 2, rows, 0), Frame(Kind.ROWS, 3, rows[:-9], 0),
                  Frame(Kind.ROWS, 3, b"x", 0)):  # fmt: skip
        with pytest.raises(SpoolError, match="a frame"):
            spool.records(frame)
    for payload in (b"{", b"[]", b"\xff"):
        with pytest.raises(SpoolError, match="JSON"):
            spool.document(Frame(Kind.END, 0, payload, 0))


def test_another_program_is_no_capture(tmp_path: Path) -> None:
    """A file of something else is one damage, without a frame."""
    path = tmp_path / f"x{spool.SUFFIX}"
    path.write_bytes(b"something else entirely")
    back = list(spool.frames(path))
    assert all(isinstance(part, Damage) for part in back)
    assert sum(part.length for part in back if isinstance(part, Damage)) == 23
