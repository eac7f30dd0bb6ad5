"""elbencho's ops log (--opslog): a line of JSON before and one after each op."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.foreign import incoming
from kvtrace.foreign.elbencho import OPS, WORDS, read_lines
from kvtrace.foreign.elbencho_ops import Follower, LostEndError
from kvtrace.foreign.names import Names, Parts
from kvtrace.foreign.order import Reordered, Spool
from kvtrace.outputs import check_writable
from kvtrace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kvtrace.foreign.elbencho import Lines
    from kvtrace.foreign.elbencho_ops import Ops
    from kvtrace.importers import Imported, ImportOptions
    from kvtrace.reader import Columns

OPTIONS = ("tier",)
_OP = np.array(list(OPS.values()), np.uint8)
_OTHER = "ops that move no object (open, mkdirat and others) left out"
_EMPTY = "reads and writes of no bytes left out"
_UNFINISHED = "ops that never finished left out"


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file starts with a line of the log."""
    line = start.partition(b"\n")[0]
    return line.startswith(b"{") and b'"worker_rank"' in line and b'"op_name"' in line


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of the ops on one tier (--tier; by default nvme).

    Reads, writes, deletes and stats are taken. Of a read or write the log has a descriptor's number
    only: it stands for the file that its worker has open, if that is one.
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
    return incoming.imported(header, [*incoming.counted(reader.told), *notes], known, out)


class _Reader:
    """Turns the log into rows; `told`: what was left out."""

    def __init__(self, path: Path, names: Names, tier: Tier) -> None:
        self._path, self._names, self._tier = path, names, tier
        self.told = dict.fromkeys((_OTHER, _EMPTY, _UNFINISHED), 0)

    def batches(self) -> Iterator[Columns]:
        """Yield the rows, each when its op is over."""
        follower = Follower()
        for lines in read_lines(self._path):
            try:
                ops = follower.take(lines)
            except LostEndError as error:
                raise self._lost(lines, error.at) from error
            columns = self._columns(lines, ops)
            if len(columns["timestamp"]):
                yield columns
        self.told[_OTHER] = follower.left_out
        self.told[_UNFINISHED] = follower.unfinished

    def _lost(self, lines: Lines, at: int) -> TraceError:
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
        failed = lines.is_error[line]
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
            "submit": submit,
            "complete": lines.ns[line],
            "error": np.where(failed, incoming.EIO, 0),
        }
