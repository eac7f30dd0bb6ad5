"""One command for each kind of output, with the inputs that it needs."""

from __future__ import annotations

import atexit
import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.command import apart, kvtrace
from tests.support.making import write_rows

if TYPE_CHECKING:
    from collections.abc import Callable

REPLAY = ("--target", "null", "--arena", "16MiB", "--settle", "0s", "--min-window", "0s",
          "--mode", "max")  # fmt: skip
RECORD = ("--users", "1", "--requests", "4")
ROWS = [
    (at * 1000, op, 4096, Tier.NVME, 1 + at // 3, phase)
    for at, (op, phase) in enumerate(
        [(Op.WRITE, Phase.EVICT), (Op.READ, Phase.DECODE), (Op.DELETE, Phase.EVICT)] * 20
    )
]


@dataclass(frozen=True)
class Making:
    """A command that makes `out`: its words, given the folder of its inputs and `out`."""

    name: str
    words: Callable[[Path, Path], tuple[object, ...]]
    codes: tuple[int, ...] = (0,)


def _making(out: str, *words: object, codes: tuple[int, ...] = (0,)) -> Making:
    """Return a command; `OUT` stands for the output, `IN/…` for an input."""

    def filled(inputs: Path, path: Path) -> tuple[object, ...]:
        return tuple(
            path if word == "OUT" else inputs / word[3:] if word.startswith("IN/") else word
            for word in map(str, words)
        )

    return Making(out, filled, codes)


MAKINGS = {
    "record": _making("t.parquet", "record", "OUT", *RECORD),
    "record directory": _making("t", "record", "OUT", *RECORD),
    "record CSV": _making("t.csv.zst", "record", "OUT", *RECORD),
    "import": _making("t.parquet", "import", "IN/t.csv", "OUT"),
    "export": _making("t.csv", "export", "IN/t.parquet", "OUT", "--to", "mlperf-csv"),
    "export fio": _making("t.log", "export", "IN/t.parquet", "OUT", "--to", "fio"),
    "slice": _making("t.parquet", "slice", "IN/t.parquet", "OUT", "--rows", "0:9"),
    "merge": _making("t.parquet", "merge", "OUT", "IN/t.parquet"),
    "scale": _making("t.parquet", "scale", "IN/t.parquet", "OUT", "--time", "2"),
    "anonymise": _making(
        "t.parquet", "anonymise", "IN/t.parquet", "OUT", "--key-file", "IN/secret"
    ),
    "replay trace": _making("r.parquet", "replay", "IN/t.parquet", *REPLAY, "--out", "OUT"),
    "replay report": _making("r.json", "replay", "IN/t.parquet", *REPLAY, "--report", "OUT"),
    "report HTML": _making("r.html", "report", "IN/r.json", "--report", "OUT"),
    "report workbook": _making("r.xlsx", "report", "IN/r.json", "--report", "OUT"),
    "compare": _making("c.json", "compare", "IN/r.json", "IN/r.json", "--report", "OUT"),
    "recover": _making("t.parquet", "recover", "IN/r.parquet.parts", "OUT"),
    "what-if": _making("w.csv", "whatif", *RECORD, "--csv", "OUT"),
    "what-if page": _making("w.html", "whatif", *RECORD, "--report", "OUT"),
    "what-if workbook": _making("w.xlsx", "whatif", *RECORD, "--report", "OUT"),
    "break-even": _making(
        "b.csv", "breakeven", "--model", "tiny-1b", "--gpu", "h100", "--csv", "OUT"
    ),
    "break-even page": _making(
        "b.html", "breakeven", "--model", "tiny-1b", "--gpu", "h100", "--report", "OUT"
    ),
    "precondition": _making(
        "p.json", "precondition", "--device", "IN/disk", "--size", "8MiB", "--arena", "4MiB",
        "--passes", "1", "--report", "OUT",
    ),
}  # fmt: skip


@cache
def inputs() -> Path:
    """Return a folder with an input of each kind, made once, where no test's patches reach."""
    folder = Path(mkdtemp(prefix="kvtrace-tests-"))
    atexit.register(shutil.rmtree, folder)
    trace = write_rows(folder / "t.parquet", ROWS)
    (folder / "secret").write_bytes(b"0123456789abcdef")
    made = apart("export", trace, folder / "t.csv", "--to", "mlperf-csv", "--with-deletes")
    assert made.code == 0, made.err
    outputs = ("--report", folder / "r.json", "--out", folder / "r.parquet")
    made = apart("replay", trace, *REPLAY, *outputs)
    assert made.code in (0, 5), made.err
    parts = folder / "r.parquet.parts"
    parts.mkdir()
    (parts / "part-000000.parquet").write_bytes((folder / "r.parquet").read_bytes())
    return folder


def make(name: str, out: Path, *more: object) -> int:
    """Run a command of MAKINGS in this process; return its exit code."""
    making = MAKINGS[name]
    (inputs() / "disk").unlink(missing_ok=True)
    ended = kvtrace(*making.words(inputs(), out), *more)
    make.error = ended.err  # type: ignore[attr-defined]
    return 0 if ended.code == 5 and "replay" in name else ended.code


def whole(path: Path) -> bool:
    """Return whether an output can be read."""
    if path.name.endswith(".map.parquet"):
        return int(pq.read_table(path).num_rows) > 0
    if path.is_dir() or path.suffix == ".parquet":
        with open_trace(path) as trace:
            return trace.rows > 0
    if path.suffix == ".json":
        return bool(json.loads(path.read_text()))
    return path.stat().st_size > 0
