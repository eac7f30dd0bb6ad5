"""elbencho's ops log (--opslog): a line of JSON before and one after each op."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.files.outputs import check_writable
from kvtrace.formats.common import incoming
from kvtrace.formats.common.names import Names, Parts, texts
from kvtrace.formats.common.order import Reordered, Spool
from kvtrace.formats.elbencho.lines import ASYNC, OPS, OTHER, WITHOUT_BYTES, WORDS, read_lines
from kvtrace.formats.elbencho.ops import Follower, LostEndError
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kvtrace.formats.common.importing import Imported, ImportOptions
    from kvtrace.formats.elbencho.lines import Lines
    from kvtrace.formats.elbencho.ops import Ops
    from kvtrace.trace.reader import Columns

OPTIONS = ("tier",)
_OP = np.array(list(OPS.values()), np.uint8)
_IS_ASYNC = np.array([word in ASYNC for word in OPS])
_ABOUT_BUCKETS = ("Acl", "Tagging", "Versioning", "LockConfiguration")
_OTHER = "ops that move no object (open, mkdirat and others) left out"
_EMPTY = "reads and writes of no bytes left out"
_UNFINISHED = "ops that never finished left out"
_UNTIMED = (
    "asynchronous reads and writes of which the log has the start only: no submit, no complete"
)


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts with a line of the log."""
    line = start.partition(b"\n")[0]
    return line.startswith(b"{") and b'"worker_rank"' in line and b'"op_name"' in line


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of the ops on one tier (--tier; by default nvme).

    Reads, writes, deletes and stats are taken. Of a read or write the log has a descriptor's number
    only: it stands for the file that its worker has open, if that is one. Of asynchronous ops it
    has the start only: when they were handed over and completed isn't known. Ops of other names are
    counted, with their bytes.
    """
    (path,) = paths
    check_writable(out, force=options.force)
    tier = Tier.NVME if options.tier is None else options.tier
    with Names(out, force=options.force) as known:
        reader = _Reader(path, known, tier)
        with Spool(reader.batches(), out.parent) as spool:
            rows = Reordered("timestamp", spool, since=("timestamp", "submit", "complete"))
            columns = ("offset", "submit", "complete", "error")
            log = incoming.Log("elbencho", paths, columns, epoch_ns=rows.first)
            header, notes = incoming.write(log, rows, out, force=options.force)
    remarks = [*incoming.counted(reader.told), *reader.lost.notes()]
    return incoming.imported(header, [*remarks, *notes], known, out)


class _Reader:
    """Turns the log into rows; `told`: what was left out."""

    def __init__(self, path: Path, names: Names, tier: Tier) -> None:
        self._path, self._names, self._tier = path, names, tier
        self.told = dict.fromkeys((_OTHER, _EMPTY, _UNFINISHED, _UNTIMED), 0)
        self.lost = incoming.Lost()

    def batches(self) -> Iterator[Columns]:
        """Yield the rows, each when its op is over."""
        follower = Follower()
        for lines in read_lines(self._path):
            try:
                ops = follower.take(lines)
            except LostEndError as error:
                raise self._lost_end(lines, error.at) from error
            self._lose(lines)
            columns = self._columns(lines, ops)
            if len(columns["timestamp"]):
                yield columns
        self.told[_OTHER] = follower.left_out
        self.told[_UNFINISHED] = follower.unfinished

    def _lose(self, lines: Lines) -> None:
        """Count, by name, the ops with a length that no one here knows; each has one start."""
        rows = np.flatnonzero((lines.word == OTHER) & (lines.length > 0) & ~lines.is_finished)
        if not len(rows):
            return
        names = texts(Parts(lines.ops.data, lines.ops.begin[rows], lines.ops.end[rows])).to_pylist()
        for row, name in zip(rows.tolist(), names, strict=True):
            if name not in WITHOUT_BYTES and not name.endswith(_ABOUT_BUCKETS):
                self.lost.note(name, incoming.NOT_UNDERSTOOD, int(lines.length[row]))

    def _lost_end(self, lines: Lines, at: int) -> TraceError:
        return TraceError(
            "an op's end without its start",
            where=f"{self._path}:{lines.first + at}",
            got=f"{WORDS[lines.word[at]]} of worker {lines.rank[at]}",
            accepted="a whole log; runs with several workers need --opsloglock",
        )

    def _columns(self, lines: Lines, ops: Ops) -> Columns:
        empty = (_OP[lines.word[ops.line]] <= Op.WRITE) & (lines.length[ops.line] == 0)
        self.told[_EMPTY] += int(empty.sum())
        line, submit = ops.line[~empty], ops.begun_ns[~empty]
        failed, untimed = lines.is_error[line], _IS_ASYNC[lines.word[line]]
        self.told[_UNTIMED] += int(untimed.sum())
        op = _OP[lines.word[line]]
        op = np.where(failed & (op == Op.DELETE), Op.LOOKUP, op).astype(np.uint8)
        moves = op <= Op.WRITE
        names = Parts(ops.names.data, ops.names.begin[~empty], ops.names.end[~empty])
        key, tier = self._names.of(names, self._tier)
        return {
            "timestamp": submit,
            "op": op,
            "size": np.where(moves, lines.length[line], 0),
            "tier": tier,
            "key": key,
            "phase": incoming.phases(op),
            "offset": np.where(moves, lines.offset[line], 0),
            "submit": _known(submit, ~untimed),
            "complete": _known(lines.ns[line], ~untimed),
            "error": np.where(failed, incoming.EIO, 0),
        }


def _known(times: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return times, those that aren't known masked."""
    return times if known.all() else np.ma.masked_array(times, mask=~known)
