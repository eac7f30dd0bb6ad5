"""Content of a device: known formats by their magic, and unrecognised data."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TargetError
from kvtrace.units import MIB
from replay.device.direct import read_block
from replay.safety.identity import block_size_bytes, size_bytes
from replay.safety.magics import MAGICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

UNKNOWN = "unknown"
"""Name of unrecognised data in --allow-signature."""
_PAGE_BYTES, _SAMPLES = 4096, 256
_SHOWN = 4
_BLKID_NOTHING, _BLKID_AMBIVALENT = 2, 8


@dataclass(frozen=True, slots=True)
class Signature:
    """A format that was recognised, and the byte that shows it; None if only `blkid` knows."""

    name: str
    offset: int | None = None

    def __str__(self) -> str:
        """Its name and place."""
        return self.name if self.offset is None else f"{self.name} at byte {self.offset}"


def find(descriptor: int, title: str) -> tuple[Signature, ...]:
    """Return what is recognised on an open device or in a file, each format once.

    Raises TargetError where the device can't be read or `blkid` can't tell.
    """
    known = {name.lower(): Signature(name) for name in _by_blkid(descriptor, title)}
    for signature in _by_magic(descriptor, title):
        family = signature.name.lower()
        if family == "ext" and any(name.startswith("ext") for name in known):
            family = next(name for name in known if name.startswith("ext"))
        old = known.get(family, signature)
        if old.offset is None:
            known[family] = Signature(old.name, signature.offset)
        else:
            known.setdefault(family, signature)
    return tuple(known.values())


def _by_magic(descriptor: int, title: str) -> Iterator[Signature]:
    size = size_bytes(descriptor)

    @cache
    def page(index: int) -> bytes:
        return read(descriptor, index * _PAGE_BYTES, 2 * _PAGE_BYTES, title).tobytes()

    for magic in MAGICS:
        place = magic.place(size)
        if not 0 <= place <= size - len(magic.value):
            continue
        at = place % _PAGE_BYTES
        if page(place // _PAGE_BYTES)[at : at + len(magic.value)] == magic.value:
            yield Signature(magic.name, place)


def read(descriptor: int, offset: int, length: int, title: str) -> NDArray[np.uint8]:
    """Return bytes of an open target, as `read_block` does.

    Raises TargetError: a device that can't be read isn't taken for an empty one.
    """
    try:
        return read_block(descriptor, offset, length)
    except OSError as error:
        raise TargetError(
            f"can't read: {error.strerror}",
            where=title,
            got=f"at byte {offset}",
            hint="nothing is written where the content can't be looked at; see the kernel's log",
        ) from error


@dataclass(frozen=True, slots=True)
class Sample:
    """What a look at parts of a device found: where it has data, and a digest of all parts."""

    places: tuple[int, ...]
    """Bytes other than zero, one per part."""
    digest: str


def sample(descriptor: int, title: str) -> Sample:
    """Return a look at the first and last MiB of a device and 256 pages between them."""
    size = block_size_bytes(descriptor)
    last = max(0, size - MIB) // _PAGE_BYTES * _PAGE_BYTES
    pages = np.linspace(0, max(0, size - _PAGE_BYTES), _SAMPLES).astype(np.int64) // _PAGE_BYTES
    parts = [(0, MIB), (last, MIB + _PAGE_BYTES)]
    parts += [(int(page) * _PAGE_BYTES, _PAGE_BYTES) for page in pages]
    places, digest = set(), hashlib.sha256()
    for offset, length in parts:
        block = read(descriptor, offset, length, title)
        digest.update(block.data)
        nonzero = np.flatnonzero(block)
        if len(nonzero):
            places.add(offset + int(nonzero[0]))
    return Sample(tuple(sorted(places)), digest.hexdigest())


def describe_places(places: tuple[int, ...]) -> str:
    """Return where data was seen, for people."""
    shown = ", ".join(str(place) for place in places[:_SHOWN])
    return f"data at byte {shown}{', …' if len(places) > _SHOWN else ''}"


def _by_blkid(descriptor: int, title: str) -> tuple[str, ...]:
    """Return the types that `blkid` recognises. Raises TargetError if it can't tell."""
    program = shutil.which("blkid", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise TargetError(
            "can't look for signatures: blkid isn't there", where=title, hint="install util-linux"
        )
    # The descriptor, not the path: a name may be another device's by now, or begin with a dash.
    answer = subprocess.run(
        [program, "-p", "-o", "export", f"/proc/self/fd/{descriptor}"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        pass_fds=(descriptor,),
    )
    if answer.returncode == _BLKID_NOTHING and not answer.stderr.strip():
        return ()
    if answer.returncode != 0:
        ambivalent = answer.returncode == _BLKID_AMBIVALENT
        raise TargetError(
            "blkid finds conflicting signatures" if ambivalent else "blkid failed",
            where=title,
            got=answer.stderr.strip() or f"exit code {answer.returncode}",
            hint="look at it with `wipefs`, and remove what isn't needed",
        )
    lines = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    types = [lines[name] for name in ("TYPE", "PTTYPE") if name in lines]
    return tuple(types) or (UNKNOWN,)
