"""Names are data: never options, patterns, markup, formulas, links or commands to a terminal."""

from __future__ import annotations

import csv
import json
import os
import re
from typing import TYPE_CHECKING, Any

import openpyxl
import pytest

from kvtrace.errors import KvtraceError
from kvtrace.show import csvcells
from kvtrace.show.printable import printable, utf8
from kvtrace.trace.header import Header
from kvtrace.trace.reader import open_trace
from replay.report import write
from replay.result.stored import load
from tests.support.command import apart, kvtrace
from tests.support.commands import REPLAY, ROWS, inputs
from tests.support.digests import drafts
from tests.support.making import write_rows

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (
    "t[1]", "t*", "v[]", "t?", "{t}", "100%d", "%s", "a b  c", "-t", "--force", "~", "~root",
    "t\nu", "t\tu", "[red]", "[bold]x", ":smile:", "\x1b[2J", "\x07", "\u202egnp",
    "\u2066x", "'t'", '"t"', "$(t)", ";t", "key=1", "ü", "名", "x" * 200,
    os.fsdecode(b"t\xff\xfe"),
)  # fmt: skip
EVIL = "<script>alert(1)</script>[red][/y]\x1b[2J\u202e\n=1+1"


STEERING = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def shown(text: str) -> None:
    """Fail if a text has characters that a terminal acts on, or that nobody sees."""
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text
    )


QUICK = ("t[1]", "[red]")
MARKED = [
    pytest.param(name, id=ascii(name), marks=() if name in QUICK else pytest.mark.slow)
    for name in NAMES
]


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKED)
def test_a_file_may_have_any_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands read and write the file of that name, and no other one."""
    monkeypatch.chdir(tmp_path)
    for other in ("t1", "tt", "v", "x", "t"):
        write_rows(tmp_path / f"{other}.parquet", ROWS[:3])
    trace = f"./{name}.parquet" if name.startswith("-") else f"{name}.parquet"
    source = tmp_path / f"{name}.parquet"
    if not source.exists():
        write_rows(source, ROWS)
    with open_trace(source) as opened:
        assert opened.lazy().collect().height == opened.rows
    for words in (("info", trace), ("head", trace), ("check", trace)):
        ended = kvtrace(*words)
        assert ended.code in (0, 3), ended.err
        shown(ended.out)
    out, report = trace.replace(".parquet", "2.parquet"), trace.replace(".parquet", ".json")
    ended = kvtrace("slice", trace, out, "--rows", "0:3")
    assert ended.code == 0, ended.err
    shown(ended.out)
    csv_ = trace.replace(".parquet", "2.csv")
    assert kvtrace("export", out, csv_, "--to", "mlperf-csv").code == 0
    assert kvtrace("import", csv_, trace.replace(".parquet", "3.parquet")).code == 0
    reports = [report, report.replace(".json", ".html"), report.replace(".json", ".xlsx")]
    words = tuple(word for path in reports for word in ("--report", path))
    ended = kvtrace("replay", trace, *REPLAY, *words)
    assert ended.code in (0, 5), ended.err
    shown(ended.out + ended.err)
    assert kvtrace("report", report).code == 0
    compared = trace.replace(".parquet", ".html")
    assert kvtrace("compare", report, report, "--report", compared, "--force").code == 0
    ended = kvtrace("export", trace, trace.replace(".parquet", ".log"), "--to", "fio")
    assert ended.code in (0, 2), ended.err
    assert ended.code == 0 or "fio's logs can't hold this name" in ended.error
    assert (tmp_path / f"{name}2.csv").exists()
    assert not drafts(tmp_path)


def test_errors_are_one_printable_line(tmp_path: Path) -> None:
    """Whatever a name or a value has in it, the error is one line of text."""
    for name in NAMES:
        ended = kvtrace("info", tmp_path / f"{name}.parquet")
        assert ended.code == 3
        shown(ended.error)
    error = KvtraceError(f"bad {EVIL}", where=EVIL, got=EVIL, hint=EVIL)
    assert "\n" not in str(error)
    shown(str(error))
    for words in (("record", "--\x1b[2J"), ("\x1b[2J[/y]",), ("list", "\x1b[2J[/y]")):
        ended = kvtrace(*words)
        assert ended.code == 2
        shown(ended.err.replace("\n", ""))


def test_text_is_escaped() -> None:
    """Controls, direction marks, surrogates and line ends are escapes; letters stay."""
    assert printable("a\x1b[2Jb\r\n") == "a\\x1b[2Jb\\r\\n"
    assert printable("a\nb", keep_lines=True) == "a\nb"
    assert printable("\u202e\u2066\u200b") == "\\u202e\\u2066\\u200b"
    assert printable("ü 名 😀") == "ü 名 😀"
    assert printable(os.fsdecode(b"\xff")) == utf8(os.fsdecode(b"\xff")) == "\\xff"
    assert utf8("a\nb") == "a\nb"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A trace whose header has hostile strings wherever a header takes any."""
    header = json.loads(Header().to_json())
    header["source"] = {"name": EVIL, "parameters": {}, "sha256": []}
    header["model"] = {"name": EVIL, "dtype": EVIL, "bytes_per_token": 128}
    header["layout"] = {"name": EVIL, "block_tokens": 16, "objects_per_block": 1}
    header["ranks"] = EVIL
    header["history"] = [{"tool": EVIL}]
    header["config"] = {EVIL: EVIL}
    made = Header.model_validate(header | {"tensor_parallel": 1})
    return write_rows(tmp_path / "evil.parquet", ROWS, made)


@pytest.mark.slow
def test_strings_of_a_header_are_text(tmp_path: Path, evil: Path) -> None:
    """On a terminal, in HTML, CSV and workbooks they are shown, and do nothing."""
    ended = kvtrace("info", evil)
    assert ended.code == 0, ended.err
    shown(ended.out)
    assert "[red][/y]\\x1b[2J\\u202e\\n=1+1" in ended.out.replace("\n", "")
    report = tmp_path / "r.json"
    forms = [report, *(tmp_path / f"r.{form}" for form in ("html", "xlsx", "csv"))]
    words = [word for path in forms for word in ("--report", path)]
    ended = kvtrace("replay", evil, *REPLAY, *words)
    assert ended.code in (0, 5), ended.err
    shown(ended.out)
    assert "<script>alert" not in (tmp_path / "r.html").read_text()


def _evil_strings(value: Any, name: str = "") -> Any:
    """Return a report whose free strings are hostile; words and digests stay."""
    if isinstance(value, dict):
        return {key: _evil_strings(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_evil_strings(item, name) for item in value]
    free = ("figure", "remedy", "code", "title", "path", "model", "kernel", "cpu_model", "engine",
            "engine_note", "page_kind", "command", "file_system", "mount_options", "governor",
            "machine", "python", "name", "why")  # fmt: skip
    return EVIL if isinstance(value, str) and name in free else value


@pytest.mark.slow
def test_strings_of_a_report_are_text(tmp_path: Path) -> None:
    """A report that somebody else has written is shown as what it says, in every form."""
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(_evil_strings(json.loads((inputs() / "r.json").read_text()))))
    document = load(path)
    for words in (("report", path), ("compare", path, inputs() / "r.json", "--label", EVIL)):
        ended = kvtrace(*words)
        assert ended.code in (0, 2), ended.err
        shown(ended.out + ended.err)
    for form in ("html", "xlsx", "csv"):
        write(document, tmp_path / f"evil.{form}")
    assert "<script>alert" not in (tmp_path / "evil.html").read_text()
    book = openpyxl.load_workbook(tmp_path / "evil.xlsx")
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
    assert not [cell for cell in cells if cell.data_type == "f" or cell.hyperlink]
    assert [cell for cell in cells if "alert(1)" in str(cell.value)]
    with (tmp_path / "evil.csv").open() as file:
        assert not [text for row in csv.reader(file) for text in row if text[:1] in "=+@" and text]


def test_cells_are_no_formulas() -> None:
    """Text that a spreadsheet would compute has an apostrophe before it; numbers are numbers."""
    row = {"a": "=1+1", "b": "+x", "c": "-x", "d": "@x", "e": "\tx", "f": -1, "g": "x=1", "h": None}
    assert csvcells.plain(row) == {
        "a": "'=1+1", "b": "'+x", "c": "'-x", "d": "'@x", "e": "'\tx", "f": -1, "g": "x=1",
        "h": None,
    }  # fmt: skip


@pytest.mark.slow
def test_a_target_may_have_any_name(tmp_path: Path) -> None:
    """A file and a folder whose names aren't UTF-8 are targets, and reports say so escaped."""
    name = os.fsdecode(b"k\xff\x1b\n[red]")
    common = (*REPLAY[2:], "--report", tmp_path / "r.json", "--report", tmp_path / "r.html")
    for option in ("--dir", "--device"):
        size = ("--size", "64MiB") if option == "--device" else ()
        target = tmp_path / f"{name}{option}"
        words = (option, target, *size, *common, "--force")
        ended = kvtrace("replay", inputs() / "t.parquet", *words)
        if "O_DIRECT" in ended.err or "direct I/O" in ended.err:
            pytest.skip("no direct I/O where pytest keeps its files; set --basetemp")
        assert ended.code in (0, 5), ended.err
        shown(ended.out + ended.err)


@pytest.mark.slow
def test_bench_takes_names_like_options(tmp_path: Path) -> None:
    """A folder and a trace whose names begin with a dash reach the commands that a bench starts."""
    write_rows(tmp_path / "-t.parquet", ROWS)
    words = ("bench", "--folder=-b", "--trace=-t.parquet", "--trials", "2", *REPLAY)
    ended = apart(*words, cwd=tmp_path)
    assert ended.code in (0, 5), ended.err
    assert (tmp_path / "-b" / "bench.json").exists()
    assert kvtrace("bench", "--check", tmp_path / "-b").code in (0, 3)


@pytest.mark.slow
def test_an_ascii_terminal(tmp_path: Path) -> None:
    """What ASCII can't say is escaped; the exit code stays."""
    environment = os.environ | {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    path = write_rows(tmp_path / "ü×.parquet", ROWS)
    ended = apart("info", path, env=environment)
    assert ended.code == 0, ended.err
    assert ended.out.isascii()
    ended = apart("info", tmp_path / "nö.parquet", env=environment)
    assert ended.code == 3
    assert ended.err.isascii()
