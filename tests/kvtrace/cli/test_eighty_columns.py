"""What commands print at 80 columns: nothing is cut, no number is broken, help has its choices."""

from __future__ import annotations

import io
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from kvtrace.cli.main import _COMMANDS as COMMANDS
from kvtrace.show.tables import fitting, wrapped
from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase
from kvtrace.trace.writer import TraceWriter
from kvtrace.units import format_rate
from replay.report import terminal
from replay.result import stored
from tests.support import recordings
from tests.support.command import Ended, kvtrace
from tests.support.making import make
from tests.support.synthetic import bimodal, with_requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replay.result.document import ResultDocument

LONG = "a-name-as-long-as-people-make-them-with-all-that-is-in-it-and-then-some-more-of-it-too"
NUMBER = re.compile(r"\d[\d,.]*\d|\d")
UNIT = re.compile(r"(?:[nµm]?s|[KMGT]i?B(?:/s)?|[kMG]|TB/s)\b")
QUICK = ("--target", "null", "--mode", "max", "--min-window", "0s", "--arena", "16MiB")
SAME: dict[str, tuple[str, ...]] = {
    "info": (f"{LONG}.parquet", "--drive", "1TB"),
    "check": (f"{LONG}.parquet",),
    "head": (f"{LONG}.parquet",),
    "diff": (f"{LONG}.parquet", f"{LONG}.parquet"),
    "model": ("kimi-k3", "--tp", "8"),
    "list": (),
    "report": (f"{LONG}.json",),
    "compare": (f"{LONG}.json", f"{LONG}-b.json", "r.json"),
    "whatif": (
        "t.parquet", "--gpu-mem", "1MiB,64MiB", "--cpu-mem", "0,1024GiB", "--eviction",
        "lru,s3-fifo", "--write-policy", "waterfall,write-through", "--nvme-capacity",
        "900000GiB,2TiB", "--curve",
    ),
    "breakeven": ("busy.parquet", "--gpu", "h100", "--drive-bandwidth", "1GB/s"),
    "slice": (f"{LONG}.parquet", "{out}.parquet", "--rows", "0:1000"),
    "merge": ("{out}.parquet", "t.parquet", f"{LONG}.parquet"),
    "scale": ("t.parquet", "{out}.parquet", "--time", "0.001"),
    "anonymise": ("t.parquet", "{out}.parquet", "--key-file", "key"),
    "export": ("t.parquet", "{out}.log", "--to", "fio"),
    "import": ("t.oracle", "{out}.parquet", "--tier", "nvme"),
}  # fmt: skip
"""Commands that print the same whenever they run; `out` is another name each time."""
ONCE: dict[str, tuple[str, ...]] = {
    "record": ("{out}.parquet", "--model", "tiny-1b", "--users", "3", "--requests", "20"),
    "replay": (f"{LONG}.parquet", *QUICK, "--limit", "2000"),
    "bench": ("--trace", "t.parquet", "--trials", "2", "--folder", "{out}", *QUICK),
    "precondition": ("--device", "{out}.dat", "--size", "64MiB"),
    "recover": ("none", "{out}.parquet"),
    "capture": ("--status", "recording"),
    "discover": (),
    "doctor": (),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trace of large figures and a long name, and with results."""
    path = tmp_path_factory.mktemp("columns")
    _write_large(path / f"{LONG}.parquet")
    make(path / "t.parquet", requests=15)
    make(path / "busy.parquet", tiers__gpu__capacity="24MiB", tiers__cpu__capacity="24MiB")
    (path / "key").write_bytes(bytes(32))
    many = recordings.rows(*(recordings.write(at, at, at + 9_000) for at in range(4000)))
    many["size"] = 1 << 39
    recordings.write_part(path / "recording", [many])
    document = _with_classes(with_requests(stored.load(bimodal(path / "ops.parquet"))))
    large = _enlarged(document.model_dump(mode="json"))
    for name in (f"{LONG}.json", f"{LONG}-b.json"):
        (path / name).write_text(type(document)(**large).model_dump_json())
    (path / "r.json").write_text(document.model_dump_json())
    assert kvtrace("export", path / "t.parquet", path / "t.oracle", "--to", "oracle").code == 0
    return path


def _with_classes(document: ResultDocument) -> ResultDocument:
    """Return a result with requests of all classes, whose targets are missed."""
    assert document.requests is not None
    [one] = document.requests.by_qos
    levels = {
        name: one.end_to_end_level.model_copy(update={"target_p95_ns": ms * 1_000_000})
        for name, ms in (("interactive", 50), ("responsive", 100), ("batch", 1000))
    }
    classes = [
        one.model_copy(update={"qos": name, "end_to_end_level": level, "waited_level": level})
        for name, level in levels.items()
    ]
    requests = document.requests.model_copy(update={"by_qos": classes})
    return document.model_copy(update={"requests": requests})


def _write_large(path: Path) -> None:
    count = 30_000
    key = np.repeat(np.arange(count // 3), 3).astype("u8") + np.uint64(1 << 63)
    rng = np.random.default_rng(1)
    with TraceWriter(path, Header(), []) as writer:
        writer.append(
            {
                "timestamp": np.arange(count) * 777_777_777_777,
                "op": np.tile([Op.WRITE, Op.READ, Op.DELETE], count // 3).astype("u1"),
                "size": np.repeat(rng.integers(1 << 20, 1 << 39, count // 3), 3).astype("u8"),
                "tier": np.repeat(rng.integers(0, 4, count // 3), 3).astype("u1"),
                "key": key,
                "phase": np.tile([Phase.EVICT, Phase.DECODE, Phase.EVICT], count // 3).astype("u1"),
            }
        )


def _enlarged(value: Any) -> Any:
    """Return a result whose times are of weeks, and whose counts are of 121 millions and more."""
    if isinstance(value, dict):
        return {key: _larger(key, _enlarged(inner)) for key, inner in value.items()}
    return [_enlarged(each) for each in value] if isinstance(value, list) else value


def _larger(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if key in ("p50", "p90", "p95", "p99", "p999", "p9999", "max", "mean"):
        return value * 10_000_000
    if key in ("count", "ops", "bytes", "window_ops", "window_bytes", "rows", "failed"):
        return value * 12_150
    return value * 1e6 if key.endswith("_per_s") else value


def run(
    monkeypatch: pytest.MonkeyPatch, folder: Path, columns: int, name: str, words: tuple[str, ...]
) -> Ended:
    """Run a command in a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(folder)
    return kvtrace(name, *(word.format(out=f"out-{name}-{'x' * (columns % 7)}") for word in words))


def broken(text: str) -> list[str]:
    """Return the ends and beginnings of lines between which a number or its unit is broken."""
    lines = text.splitlines()
    pairs = [(one.rstrip(), two.strip()) for one, two in pairwise(lines)]
    return [
        f"{one!r} {two!r}"
        for one, two in pairs
        if re.search(r"\d$", one) and (UNIT.match(two) or (len(one) >= 79 and two[:1].isdigit()))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_no_figure_is_lost_at_80_columns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """All numbers that 300 columns show are there at 80, whole and with their units."""
    narrow = run(monkeypatch, folder, 80, name, SAME[name])
    wide = run(monkeypatch, folder, 300, name, SAME[name])
    assert narrow.code == wide.code in (0, 3), narrow.err
    assert narrow.out.strip()
    check(narrow.out)
    missing = Counter(NUMBER.findall(wide.out)) - Counter(NUMBER.findall(narrow.out))
    assert not missing, missing


@pytest.mark.slow
@pytest.mark.parametrize("name", ONCE)
def test_nothing_is_cut_at_80_columns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of commands whose figures differ from run to run, or that only refuse here."""
    ended = run(monkeypatch, folder, 80, name, ONCE[name])
    assert ended.code in (0, 2, 3, 4, 5), ended.err
    check(ended.out)


def check(text: str) -> None:
    """Nothing is cut, too long or broken, and no line feed of ours is shown as text."""
    assert "…" not in text
    assert r"\n" not in text
    assert not [line for line in text.splitlines() if len(line) > 80]
    assert not broken(text)


def test_every_command_is_read() -> None:
    """One that is added is read here too."""
    assert set(SAME) | set(ONCE) == set(COMMANDS)


def test_large_figures_are_short(folder: Path) -> None:
    """A result of weeks and of hundreds of millions: `121.5 M`, hours, and no figure is cut."""
    document = stored.load(folder / f"{LONG}.json")
    narrow, wide = printed(document, 80), printed(document, 300)
    check(narrow)
    assert "121.5 M" in narrow
    for level in ("interactive", "responsive", "batch"):
        assert re.search(rf"^{level} +50\.0% within \S+ m?s: MISSED", narrow, re.MULTILINE), narrow
    assert re.search(r"^waited .*\dh", narrow, re.MULTILINE)
    missing = Counter(NUMBER.findall(wide)) - Counter(NUMBER.findall(narrow))
    assert not missing


def printed(document: Any, width: int) -> str:
    """Return what the terminal shows."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for part in terminal.render(document):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def helps(columns: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Yield each command's help."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in ("", *COMMANDS):
        ended = kvtrace(*([name] if name else []), "--help")
        assert ended.code == 0, ended.err
        yield name, ended.out


def test_help_has_two_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be given, and what it does: nothing is cut, and each option is there whole."""
    for name, text in helps(80, monkeypatch):
        check(text)
        parts = [part for part in text.split("\n\n") if part[:1] not in (" ", "U")]
        options = [line for part in parts for line in part.splitlines() if line[:3] == "  -"]
        assert options, name
        for line in options:
            head = re.split(r" {2,}", line.strip())[0]
            assert re.fullmatch(
                r"-[-\w]+(?:, --[-\w]+)*(?: / --[-\w]+)?(?: [\w|:.,=\[\]-]+)?", head
            ), line
        for line in text.splitlines():
            if line.startswith(" " * 5):
                assert line.startswith(" " * 27), line
    wide = dict(helps(200, monkeypatch))
    assert all(len(line) <= 100 for text in wide.values() for line in text.splitlines())


@pytest.mark.parametrize(
    ("name", "option", "shown"),
    [
        ("replay", "--mode", "open|closed|max"),
        ("replay", "--cpu", "memory|none"),
        ("replay", "--verify", "none|stamps|sample|full"),
        ("replay", "--engine", "auto|uring|threads|python"),
        ("replay", "--speed", "X"),
        ("replay", "--queue-depth", "N"),
        ("record", "--write-policy", "waterfall|write-through"),
        ("record", "--eviction", "fifo|lru|s3-fifo|sieve"),
        ("record", "--users", "N|auto"),
        ("record", "--arrival", "constant|poisson|gamma|diurnal"),
        ("export", "--to", "fio|lmcache|mlperf-csv|mooncake|oracle|perfetto|sai3|warp"),
        ("bench", "--trials", "N"),
        ("bench", "--set", "KEY=VALUE"),
        ("precondition", "--engine", "auto|uring|threads|python"),
        ("replay", "--allow-destroy", "ID"),
        ("export", "--device", "PATH"),
        ("slice", "--rows", "FIRST:END"),
    ],
)
def test_choices_are_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, option: str, shown: str
) -> None:
    """From where they are accepted; what takes any value says of which kind."""
    monkeypatch.setenv("COLUMNS", "80")
    text = kvtrace(name, "--help").out
    assert re.search(rf"^  {option} {re.escape(shown)}(?:  |$)", text, re.MULTILINE), text


@pytest.mark.parametrize(
    ("name", "option", "default"),
    [
        ("slice", "--seed N", "0, at least 0"),
        ("slice", "--to TIME", "the end"),
        ("precondition", "--run-id N", "random"),
        ("replay", "--metrics-hold TIME", "0s"),
        ("export", "--io-size SIZE", "4MiB"),
        ("info", "--space / --no-space", "yes"),
        ("model", "--dtype NAME", "the model's"),
    ],
)
def test_defaults_are_shown_in_one_way(
    monkeypatch: pytest.MonkeyPatch, name: str, option: str, default: str
) -> None:
    """In brackets after the text, a default of 0 too."""
    monkeypatch.setenv("COLUMNS", "200")
    text = kvtrace(name, "--help").out
    after = text.partition(f"  {option} ")[2].partition("\n  -")[0]
    assert f"[default: {default}]" in " ".join(after.split()), after


def test_tables_that_dont_fit_become_text() -> None:
    """Rows keep their names and figures; one that fits stays a table."""
    heads, rows = ["tier", "GB read", "written"], [["nvme", "1,234.5", "9"], ["cpu", "2", "3"]]
    assert shown(fitting(heads, rows, names=1, width=80), 80) == (
        "tier  GB read  written\nnvme  1,234.5        9\ncpu         2        3\n"
    )
    narrow = shown(fitting(heads, rows, names=1, width=20, title="moved"), 20)
    assert narrow.splitlines() == [
        "moved", "nvme", "    GB read 1,234.5,", "    written 9", "cpu", "    GB read 2,",
        "    written 3",
    ]  # fmt: skip


def shown(renderable: Any, width: int) -> str:
    """Return what a console of so many columns prints."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_numbers_keep_their_units() -> None:
    """When help is wrapped, and in rates of any size."""
    assert wrapped("it takes 30 ms or more", 12) == ["it takes", "30 ms or", "more"]
    rates = [format_rate(value) for value in (1.5e9, 9.9e12, 1e13, 4.694e15)]
    assert rates == ["1.500 GB/s", "9900.000 GB/s", "10.0 TB/s", "4,694.0 TB/s"]
