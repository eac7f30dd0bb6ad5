"""fio's logs of I/O, and jobs that run them: what of its format and its versions matters here."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from kvtrace.errors import UsageError

FIRST_LINES = {2: b"fio version 2 iolog", 3: b"fio version 3 iolog"}
PIECE_BYTES_MAX = 1 << 30
"""Longer ops are split: fio reads lengths into 32 bits, and a system call moves 2 GiB at most."""
NAME_CHARS_MAX = 256
CLOSE_AFTER_US = 1_000_000
"""The log closes its files this long after the last op: fio goes on reaping until then."""
PERCENTILES = "50:90:95:99:99.9:99.99"
BUFFERS_BYTES_MAX = 1 << 30
"""fio holds a buffer of the longest op for each op in flight."""

Version = tuple[int, int]
_OLDEST: Version = (3, 31)
_TRIMS: Version = (3, 34)
_ASYNC_ONLY: tuple[Version, Version] = ((3, 36), (3, 40))


def parse_version(text: str) -> Version:
    """Return the version in `3.33`, `fio-3.33` or `fio-3.36-5-gabc`. Raises UsageError."""
    match = re.fullmatch(r"(?:fio-)?(\d+)\.(\d+)(?:[.-].*)?", text.strip())
    if match is None:
        raise UsageError("not a version", where="--fio-version", got=text, accepted="e.g. 3.33")
    version = int(match[1]), int(match[2])
    if version < _OLDEST:
        raise UsageError(
            "fio reads no logs with timestamps before 3.31",
            where="--fio-version",
            got=text.strip(),
            accepted="3.31 or newer",
            hint="install a newer fio",
        )
    return version


def installed_version() -> Version | None:
    """Return the version of the fio that is found here, if there is one."""
    path = shutil.which("fio")
    if path is None:
        return None
    ended = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return parse_version(ended.stdout)


def runs_trims(version: Version | None) -> bool:
    """Return whether this fio runs the trims of a log; an unknown version is taken to."""
    return version is None or version >= _TRIMS


def engine_of(version: Version | None, *, no_stall: bool) -> str:
    """Return the I/O engine with which this fio replays logs rightly.

    Timed, an engine that runs ops side by side reaps nothing before 3.36 while it waits for the
    next op's time; psync is reported to wait wrongly from 3.36 to 3.40. With an unknown version it
    is psync, which counts all ops with any.
    """
    if no_stall:
        return "libaio"
    if version is None or version < _ASYNC_ONLY[0]:
        return "psync"
    return "libaio"


@dataclass(frozen=True, slots=True)
class Job:
    """What a job file says. Paths are as fio finds them from where it is run."""

    log: str
    target: str
    engine: str
    depth: int
    records: int
    writes: bool
    no_stall: bool

    def text(self) -> str:
        """Return the job file.

        `rw` and `filename` are there for fio's guard against mounted devices: a log alone
        bypasses it. `thinktime` makes fio wait once, after the last op, for all that are in flight:
        without it those of an asynchronous engine aren't counted.
        """
        lines = [
            "; made by kvtrace; run it where these paths lead to the log and the target",
            "[replay]",
            f"read_iolog={escaped(self.log)}",
            f"filename={escaped(self.target)}",
            f"rw={'randrw' if self.writes else 'randread'}",
            "direct=1",
            f"ioengine={self.engine}",
            f"iodepth={self.depth}",
            "serialize_overlap=1",
            "refill_buffers=1",
            f"percentile_list={PERCENTILES}",
        ]
        if self.depth > 1:
            lines += [
                "thinktime=1",
                f"thinktime_blocks={self.records}",
                "thinktime_blocks_type=issue",
            ]
        if self.no_stall:
            lines.append("replay_no_stall=1")
        return "\n".join(lines) + "\n"


def fill_text(target: str, begin_bytes: int, end_bytes: int, *, device: bool) -> str:
    """Return a job that writes all that a log may read, once, in order."""
    piece = 1 << 20
    end = -(-end_bytes // piece) * piece
    begin = begin_bytes // piece * piece
    lines = [
        "; made by kvtrace; writes all that the log's reads may meet: run it once before",
        "[fill]",
        f"filename={escaped(target)}",
        "rw=write",
        f"bs={piece}",
        f"offset={begin}",
        *([] if device else [f"filesize={end}"]),
        f"size={end - begin}",
        f"io_size={end - begin}",
        "direct=1",
        "ioengine=libaio",
        "iodepth=8",
        "refill_buffers=1",
        "end_fsync=1",
    ]
    return "\n".join(lines) + "\n"


def escaped(path: str) -> str:
    """Return a path as a job file has it: a colon would end it."""
    return path.replace(":", "\\:")


def check_name(name: str, where: str) -> str:
    """Return a file's name if a log can hold it. Raises UsageError."""
    bad = any(c.isspace() or not c.isprintable() for c in name)
    if not name or bad or len(name.encode()) > NAME_CHARS_MAX:
        raise UsageError(
            "fio's logs can't hold this name",
            where=where,
            got=repr(name),
            accepted=f"up to {NAME_CHARS_MAX} characters, no spaces",
        )
    return name
