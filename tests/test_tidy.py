"""Style as failing tests: sizes, docstrings, plug-ins, and what nothing in the project may name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from kvtrace import plugins
from tests.support import places

if TYPE_CHECKING:
    from pathlib import Path

ROOT = places.ROOT
SOURCES = sorted(p for folder in ("kvtrace", "replay") for p in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

# Longer than the limit, each with its reason.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS = {
    "kvtrace/cli/breakeven.py:breakeven_command": "a parameter per option",
    "kvtrace/cli/capture.py:capture_command": "a parameter per option",
    "kvtrace/cli/convert.py:export_command": "a parameter per option",
    "kvtrace/cli/convert.py:import_command": "a parameter per option",
    "kvtrace/cli/bench.py:bench_command": "a parameter per option",
    "kvtrace/cli/precondition.py:precondition_command": "a parameter per option",
    "kvtrace/cli/record.py:record_command": "a parameter per option that no field is",
    "kvtrace/cli/whatif.py:whatif_command": "a parameter per option, and the table of their keys",
    "kvtrace/cli/replay.py:replay_command": "a parameter per option that no field is",
}

# Catch everything, each with its reason.
BROAD = {
    "kvtrace/capture/subscriber.py": "msgpack raises its own errors and others' for a bad message",
    "kvtrace/capture/guard.py": "no fault of ours may reach an engine",
    "kvtrace/capture/lmcache.py": "hooks of each task: a guard's own call is a tenth of their time",
    "kvtrace/capture/writer.py": "an engine's objects may raise anything when they are looked at",
    "kvtrace/cli/main.py": "the outermost frame",
    "kvtrace/plugins.py": "a plug-in is anybody's code",
    "kvtrace/requests/tokens.py": "the tokenizers package raises plain Exception",
}


VAGUE = frozenset({"found", "there", "said", "told"})
VAGUE_KEPT = {
    "kvtrace/recording/pipeline.py": "`record(told=…)` is public",
    "replay/host/gpus.py": "a field of `Gpus`",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Facts:
    """Functions with lines, calls that print, broad catches, names, strings, docstring of a file.

    Syntax trees aren't kept: those of all files are some millions of objects.
    """

    functions: tuple[tuple[str, int], ...]
    prints: bool
    broad: bool
    vague: bool
    strings: tuple[str, ...]
    first: str


def facts(path: Path) -> Facts:
    """Return what the tests here ask of a file."""
    lengths, strings, prints, broad, vague = [], [], False, False, False
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            lengths.append((f"{name_of(path)}:{node.name}", lines))
        elif isinstance(node, ast.Call):
            prints |= _name(node.func) in ("print", "exit", "sys.exit")
        elif isinstance(node, ast.ExceptHandler):
            broad |= node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
        elif isinstance(node, ast.Name | ast.arg):
            vague |= (node.id if isinstance(node, ast.Name) else node.arg) in VAGUE
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Facts(tuple(lengths), prints, broad, vague, tuple(strings), first)


def _name(of: ast.expr) -> str:
    """Return a name, or one behind a module's."""
    if isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name):
        return f"{of.value.id}.{of.attr}"
    return of.id if isinstance(of, ast.Name) else ""


def test_files_are_short() -> None:
    """A file does one thing; one that is long has its reason here."""
    long = {name_of(p) for p in SOURCES if len(p.read_text().splitlines()) > MAX_FILE_LINES}
    assert long == set(LONG_FILES)


def test_functions_and_strings_and_names() -> None:
    """All that is asked of syntax trees, in one test: reading them takes seconds a process."""
    files = {name_of(path): facts(path) for path in SOURCES}
    functions = [function for file in files.values() for function in file.functions]
    check_lengths(functions)
    allowed = {"kvtrace/native/build.py"}  # run as a script
    silent = [name for name in files if "/cli/" not in name and name not in allowed]
    assert not [name for name in silent if files[name].prints]
    assert {name for name, file in files.items() if file.broad} == set(BROAD)
    assert {name for name, file in files.items() if file.vague} == set(VAGUE_KEPT)
    assert not [(name, file.first) for name, file in files.items() if FIRST_WORDS.match(file.first)]
    texts = [(name, " ".join(text.split())) for name in files for text in files[name].strings]
    assert not [(name, text) for name, text in texts if PHRASES.search(text)]


def check_lengths(functions: list[tuple[str, int]]) -> None:
    """Check that a function fits in the head, that most are far shorter, and each reason needed."""
    assert {name for name, lines in functions if lines > MAX_FUNCTION_LINES} == set(LONG_FUNCTIONS)
    lengths = sorted(lines for _, lines in functions)
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[len(lengths) * 9 // 10] <= 30


def test_no_clock_in_virtual_time() -> None:
    """No clock outside of the command line and the modules that are a clock."""
    clocks = {"kvtrace/capture/moment.py", "replay/clock.py"}
    for path in SOURCES:
        imports = re.search(r"^(import time|from time import)", path.read_text(), re.MULTILINE)
        inside = "cli" in path.parts or name_of(path) in clocks
        assert not imports or inside, name_of(path)


def test_no_global_randomness() -> None:
    """Randomness is passed in: no global generator, no `random`, no hash order."""
    pattern = re.compile(
        r"^import random|np\.random\.(?!default_rng|Generator|SeedSequence)|\buuid"
    )
    for path in SOURCES:
        assert not pattern.search(path.read_text()), name_of(path)


MOST_ENTRIES = {"kvtrace": 26, "replay": 22}


@pytest.mark.parametrize("package", MOST_ENTRIES)
def test_packages_stay_small_at_the_top(package: str) -> None:
    """Each entry of a package's top has its line in docs/architecture.md, and they stay few."""
    entries = {
        path.stem
        for path in (ROOT / package).iterdir()
        if not path.name.startswith("__") and path.name != "py.typed"
    }
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert len(entries) <= MOST_ENTRIES[package]
    assert not {
        entry for entry in entries if f"`{entry}`" not in page and f"`{entry}/`" not in page
    }


@pytest.mark.parametrize("package", MOST_ENTRIES)
def test_tests_lie_as_the_code_does(package: str) -> None:
    """Each folder of a package's tests is one of the package."""
    folders = {path.name for path in (ROOT / "tests" / package).iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} <= {path.name for path in (ROOT / package).iterdir()}


def test_no_test_imports_another() -> None:
    """What tests share lies in tests/support."""
    importing = re.compile(r"^\s*(?:from|import) [\w.]*(?:\btest_|conftest| test_)", re.MULTILINE)
    paths = (ROOT / "tests").rglob("*.py")
    assert not [path for path in paths if importing.search(path.read_text())]


# Phrases of translated prose: in docs, help texts, messages and docstrings.
PHRASES = re.compile(
    r"\b(?:nobody|somebody|whoever|in vain|to mind|that which|cool it)\b"
    r"|, too(?! (?:many|much|long|few|large))[.,;:)\s]"
    r"|\bso (?:many|much) (?:of|more|blocks|tokens|bytes|ops|nodes|ids|milliseconds)\b"
    r"|\bhad been there\b|\bfor its heat\b|\bthe numbers may be used\b|\bdoesn't know\b",
    re.IGNORECASE,
)
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
UNREAD = {"decisions.md": "what was decided keeps the words of its day"}
# A docstring names what it is about: it neither asks nor says that something says something.
FIRST_WORDS = re.compile(r"(?:Says?|Tells?|What(?!-if)|How|Where|Why|Which|Whoever)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_plain(page: Path) -> None:
    """No page has a phrase that reads like a translation."""
    if page.name not in UNREAD:
        text = " ".join(page.read_text().split())
        assert not [text[m.start() - 30 : m.end() + 20] for m in PHRASES.finditer(text)]


KINDS = (*plugins.ADDABLE, plugins.POLICY)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_each_plug_in_says_what_it_is(kind: plugins.Kind) -> None:
    """Every file of a plug-in folder loads and has a one-line summary."""
    names = plugins.names(kind)
    assert names
    for name in names:
        module = plugins.load(kind, name)
        assert plugins.summary(module).endswith("."), name


@pytest.mark.slow
def test_heavy_packages_stay_out() -> None:
    """Importing the toolkit and the engine pulls in neither torch nor object-store clients."""
    code = (
        "import sys, kvtrace, replay, kvtrace.cli.main\n"
        "print([m for m in ('torch', 'boto3', 'ray', 'altair') if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ended.stdout.strip() == "[]"
