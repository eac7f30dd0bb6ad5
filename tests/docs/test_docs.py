"""The documentation holds: pages are reachable, commands exist, figures and examples are true."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shlex
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml

from kvtrace.cli.main import app
from kvtrace.options.described import describe, describe_all
from kvtrace.recording.config import RecordConfig
from replay import ReplayOptions
from replay import engine as engines
from replay.result.schema import schema
from tests.golden import bless
from tests.support import places

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

ROOT = places.ROOT
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md"]
PLOT = DOCS / "plots" / "coordinated_omission.py"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(kvtrace [^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMANDS: Any = typer.main.get_command(app)


def name_of(path: Path) -> str:
    return path.name


def navigated(entries: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    for entry in entries:
        for title_or_more in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(title_or_more, str):
                yield title_or_more
            else:
                yield from navigated(title_or_more)


def test_every_page_is_in_the_navigation() -> None:
    """Each page is there once, and each entry has a page: the site's builder checks neither."""
    config = yaml.safe_load((DOCS / "mkdocs.yml").read_text())
    assert sorted(navigated(config["nav"])) == [page.name for page in PAGES]


def test_the_readme_is_short() -> None:
    """At most 120 lines; everything else is on pages."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_to_files(path: Path) -> None:
    """What a page links to or shows is there: pages, images, other files."""
    outside = FENCE.sub("", path.read_text())
    for target in LINK.findall(outside):
        assert "://" in target or (path.parent / target).exists(), target


def test_tests_that_pages_name_exist() -> None:
    """By their path below tests/ or tests/system/, and by the function."""
    folders = (ROOT / "tests", ROOT / "tests" / "system")
    for page in PAGES:
        text = FENCE.sub("", page.read_text())
        for path, function in re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)(?:::(\w+))?", text):
            files = [folder / path for folder in folders if (folder / path).exists()]
            assert files, (page.name, path)
            assert f"def {function}" in files[0].read_text(), (page.name, path, function)


def lines_of(block: str) -> Iterator[str]:
    """Yield the commands of a block: continued lines joined, joined commands apart."""
    for line in block.replace("\\\n", " ").splitlines():
        yield from re.split(r"&&|\|\||[|;&](?=\s|$)", line)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each `kvtrace` command in blocks and in the text."""
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh"):
            for line in lines_of(block):
                if line.strip().startswith("kvtrace ") and not line.startswith("kvtrace: "):
                    yield shlex.split(line, comments=True)
    for code in INLINE.findall(FENCE.sub("", text)):
        yield shlex.split(code)


def options_of(name: str) -> set[str]:
    """Return the options of a command; `bench` takes those of `replay`, too."""
    command = COMMANDS.get_command(typer.Context(COMMANDS), name)
    own = {option for parameter in command.params for option in (*parameter.opts,
           *parameter.secondary_opts)}  # fmt: skip
    return own | {"--help", "-h"} | (options_of("replay") if name == "bench" else set())


@pytest.mark.slow
@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_commands_exist(path: Path) -> None:
    """Every command of the docs is one of ours, and so are its options."""
    for words in commands(path.read_text()):
        name, rest = words[1], words[2:]
        if name.startswith("-"):
            continue
        assert name in COMMANDS.list_commands(typer.Context(COMMANDS)), " ".join(words)
        used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert used <= options_of(name), (" ".join(words), used - options_of(name))


@cache
def first_arguments(folder: str, function: str) -> frozenset[str]:
    """Return the strings that `function` is called with first, anywhere in `folder`."""
    calls = (
        node
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function and node.args
    )
    values = (call.args[0] for call in calls)
    return frozenset(
        str(value.value)
        for value in values
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    )


def fields(schema: Any) -> Iterator[str]:
    """Yield the names of all fields in a JSON schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from fields(value)


def test_the_options_page_is_the_programs() -> None:
    """docs/options.md is what `make bless` makes of the fields; each option of help is in it."""
    page = bless.OPTIONS_PAGE.read_text(encoding="utf-8")
    assert page == bless.options_text()
    for option in [*describe_all(RecordConfig), *describe(ReplayOptions)]:
        assert f"`{option.flag}" in page
        assert option.help in page


@pytest.mark.slow
def test_the_faq_names_what_there_is() -> None:
    """Codes and keys in the FAQ exist; every reason and warning that a run can have is in it."""
    text = (DOCS / "faq.md").read_text()
    said = {part for code in re.findall(r"`([a-z_.]+)`", text) for part in code.split(".")}
    reasons = first_arguments("replay", "Reason")
    doctor = first_arguments("replay/host", "_judged") | first_arguments("replay/host", "Finding")
    known = reasons | doctor | set(fields(schema()))
    assert len(reasons) > 15
    assert len(doctor) > 10
    assert {code for code in said if "_" in code} <= known
    assert reasons <= said


def test_the_tests_that_safety_names_are_there() -> None:
    """Each attempt of docs/safety.md names a test file and functions that exist."""
    text = (DOCS / "safety.md").read_text()
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    everything = "\n".join(sources.values())
    files = set(re.findall(r"(test_\w+\.py)", text))
    names = set(re.findall(r"::(test_\w+)", text))
    assert len(names) > 60
    assert files <= set(sources)
    assert {name for name in names if f"def {name}(" not in everything} == set()


@pytest.fixture
def plot(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plot's script as a module, known by its name: its dataclasses look that up."""
    spec = importlib.util.spec_from_file_location(PLOT.stem, PLOT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, PLOT.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(not engines.availability()[1].available, reason="no compiled loop here")
def test_the_plot_is_of_what_the_page_says(plot: ModuleType, tmp_path: Path) -> None:
    """Run again, the script gives the drawing, the table and the counts of docs/concepts.md."""
    measured, page = plot.measure(), (DOCS / "concepts.md").read_text()
    assert plot.svg(measured) == plot.SVG.read_text(encoding="utf-8")
    assert plot.table(measured) in page
    slow = {name: int((row.latency_ns > 10_000_000).sum()) for name, row in measured.items()}
    assert f"In the open loop {slow['open']} reads took over 10 ms" in page
    assert f"In the closed loop {slow['closed']} read did" in page
    assert slow["closed"] == slow["single"] == 1
    single = plot.run(plot.write_trace(tmp_path / "t.parquet"), mode="open", queue_depth=1)
    assert single.document().response_ns == measured["open"].percentiles


@pytest.mark.slow
def test_the_example_of_the_reference_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script at the top of docs/api.md records, reads and replays."""
    code = next(block for kind, block in FENCE.findall((DOCS / "api.md").read_text()) if kind)
    (tmp_path / "example.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py")
    assert capsys.readouterr().out.split()[0] in ("VALID", "INVALID")


def test_the_table_of_gpus_is_the_one_that_is_used() -> None:
    """docs/breakeven.md has the GPUs and figures of the package's own table."""
    from kvtrace.breakeven.gpus import gpus

    part = (DOCS / "breakeven.md").read_text().partition("<!-- gpus -->\n")[2]
    rows = part.partition("<!-- end of gpus -->")[0].splitlines()
    shown = [
        f"| `{gpu.name}` | {gpu.bf16_per_s / 1e12:,g} | "
        f"{'' if gpu.fp8_per_s is None else f'{gpu.fp8_per_s / 1e12:,g} '}| "
        f"{gpu.source}{f'; {gpu.also}' if gpu.also else ''} |"
        for gpu in gpus().values()
    ]
    assert rows == shown
