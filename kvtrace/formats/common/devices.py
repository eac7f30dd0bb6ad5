"""Devices in a trace of the block layer: which were asked for, and which lie on others."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MINOR_BITS = 20
"""Of a device's number, as the kernel keeps it."""
_MD_MAJOR = 9
"""Of md arrays. Source: Documentation/admin-guide/devices.txt of Linux."""
_SAMPLE = 1 << 16
"""Queue events of a device that are compared with those of another."""
_ALIKE = 2
_SECTOR_PRIME, _SIZE_PRIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xFF51AFD7ED558CCD)


def parse_device(text: str, where: str) -> int:
    """Return the number of a device written as MAJOR,MINOR or MAJOR:MINOR. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,4})[,:](\d{1,7})", text.strip())
    if match is None or int(match[1]) >> 12 or int(match[2]) >> MINOR_BITS:
        raise UsageError(
            "not a device", where=where, got=repr(text), accepted="MAJOR,MINOR, e.g. 253,0"
        )
    return (int(match[1]) << MINOR_BITS) | int(match[2])


def label(device: int) -> str:
    """Return a device's number as blkparse prints it."""
    return f"{device >> MINOR_BITS},{device & ((1 << MINOR_BITS) - 1)}"


@dataclass(slots=True)
class _Seen:
    """The queue events of one device: how many, their bytes, and a hash of each of the first."""

    events: int = 0
    size_bytes: int = 0
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)

    def note(self, hashes: NDArray[np.uint64], size: NDArray[np.int64]) -> None:
        self.hashes.append(hashes[: max(0, _SAMPLE - self.events)])
        self.events += len(hashes)
        self.size_bytes += int(size.sum())

    def sample(self) -> NDArray[np.uint64]:
        return np.unique(np.concatenate(self.hashes))


class Devices:
    """Learns in a first pass over queue events which devices they are of; keeps those asked for.

    I/O to a stacked device (md, device-mapper) is queued a second time on what lies below it: both
    together would be twice the load.
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = {parse_device(text, "--device-filter") for text in wanted}
        self._seen: dict[int, _Seen] = {}
        self._remaps: set[tuple[int, int]] = set()

    def note(
        self,
        device: NDArray[np.int64],
        op: NDArray[np.uint8],
        place: NDArray[np.int64],
        size: NDArray[np.int64],
    ) -> None:
        """Take the next queue events."""
        hashes = place.astype(np.uint64) * _SECTOR_PRIME
        hashes = (hashes ^ (hashes >> np.uint64(29)) ^ size.astype(np.uint64)) * _SIZE_PRIME
        hashes ^= op.astype(np.uint64)
        for number in np.unique(device).tolist():
            some = device == number
            self._seen.setdefault(number, _Seen()).note(hashes[some], size[some])

    def remap(self, above: int, below: int) -> None:
        """Take a remap event: I/O that was queued on `above` goes on to `below`."""
        self._remaps.add((above, below))

    def check(self, where: Path) -> None:
        """Raise UsageError for stacked devices of which none was asked for, or for unknown ones."""
        if unknown := self._wanted - self._seen.keys():
            raise UsageError(
                "no queue event of this device",
                where="--device-filter",
                got=label(min(unknown)),
                accepted=self._listed(self._seen),
            )
        if self._wanted or len(self._seen) < 2:
            return
        for above, below in combinations(sorted(self._seen), 2):
            if self._stacked(above, below):
                raise UsageError(
                    "devices seem to be stacked: I/O to one is queued again on the other",
                    where=where,
                    got=self._listed((above, below)),
                    accepted="--device-filter MAJOR,MINOR of the device whose I/O counts; several "
                    "may be named",
                )

    def _stacked(self, one: int, other: int) -> bool:
        if {(one, other), (other, one)} & self._remaps:
            return True
        if (one >> MINOR_BITS == _MD_MAJOR) != (other >> MINOR_BITS == _MD_MAJOR):
            return True
        samples = [self._seen[device].sample() for device in (one, other)]
        alike = len(np.intersect1d(samples[0], samples[1], assume_unique=True))
        return alike >= _ALIKE and 2 * alike >= min(map(len, samples))

    def kept(self, device: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which events are of devices that were asked for; all if none was."""
        if not self._wanted:
            return np.ones(len(device), np.bool_)
        return np.isin(device, list(self._wanted))

    def notes(self) -> list[str]:
        """Return notes on rows left out."""
        return [
            f"device {label(device)} left out: {seen.events:,} queue events, "
            f"{seen.size_bytes:,} bytes"
            for device, seen in sorted(self._seen.items())
            if self._wanted and device not in self._wanted
        ]

    def _listed(self, devices: Sequence[int] | dict[int, _Seen]) -> str:
        return ", ".join(
            f"{label(device)} ({self._seen[device].events:,} queue events)"
            for device in sorted(devices)
        )


@dataclass(slots=True)
class Unknown:
    """Queue events with data that are no reads, writes or discards, by what they are."""

    _counts: dict[str, list[int]] = field(default_factory=dict)

    def note(self, kind: str, sizes_bytes: NDArray[np.int64]) -> None:
        """Take some of one kind."""
        count = self._counts.setdefault(kind, [0, 0])
        count[0] += len(sizes_bytes)
        count[1] += int(sizes_bytes.sum())

    def notes(self) -> list[str]:
        """Return notes on rows left out."""
        return [
            f"{count:,} queue events of kind {kind} left out: {size_bytes:,} bytes, neither read, "
            "written nor discarded"
            for kind, (count, size_bytes) in sorted(self._counts.items())
        ]


def nothing_queued(where: Path, others: int) -> TraceError:
    """Return the error of a trace of the block layer without any queue event."""
    return TraceError(
        "no reads or writes: it has no queue events (Q)",
        where=where,
        got=f"{others:,} events of other kinds, such as issue (D) and completion (C)",
        accepted="queue events of reads, writes or discards",
        hint="record them: blktrace without -a, or with -a queue",
    )
