"""Plug-in folders: what a file adds there works, and a broken one is one clear line."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from kvtrace import plugins
from kvtrace.errors import UsageError
from kvtrace.models import load_model
from kvtrace.models.catalogue import model_names
from tests.support.making import make

if TYPE_CHECKING:
    from pathlib import Path

Cli = "Callable[..., Outcome]"

MODEL = """
name = "of-ours"
source = "an example"
date = "2026-11-30"
dtype = "bf16"

[[attention]]
kind = "full"
layers = 2
kv_heads = 1
head_dim = 64
"""
FORM = '''"""A report of one word."""

SUFFIX = ".word"


def write(document, path):
    path.write_text(document.verdict)
'''
IMPORTER = '''"""Lists of keys, each a write of 4 KiB."""

import numpy as np

from kvtrace.formats.common.importing import Imported, header_of
from kvtrace.trace.writer import TraceWriter

OPTIONS = ()


def recognises(path, start):
    return start.startswith(b"keys:")


def convert(paths, out, options):
    keys = [int(line) for line in paths[0].read_text().splitlines()[1:]]
    rows = len(keys)
    with TraceWriter(out, header_of("keys", paths), force=options.force) as writer:
        writer.append({
            "timestamp": np.arange(rows, dtype=np.uint64), "op": np.ones(rows, np.uint8),
            "size": np.full(rows, 4096, np.uint64), "tier": np.full(rows, 2, np.uint8),
            "key": np.array(keys, np.uint64), "phase": np.ones(rows, np.uint8),
        })
        header = writer.close()
    return Imported(header, ())
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty plug-in folder that is in use."""
    root = tmp_path / "plugins"
    for kind in (*(kind.subfolder for kind in plugins.ADDABLE), plugins.MODELS):
        (root / kind).mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv(plugins.FOLDERS_VARIABLE, str(root))
    return root


def test_a_model_by_name(folder: Path, cli: Cli) -> None:
    """It is listed, loads by its name, and `record` takes it."""
    (folder / "models" / "of-ours.toml").write_text(MODEL)
    assert "of-ours" in model_names()
    assert load_model("of-ours").rank_bytes_per_token() == 2 * 2 * 64 * 2
    made = cli("record", folder / "t.parquet", "--model", "of-ours", "--duration", "2s", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["bytes"] > 0


@pytest.mark.slow
def test_a_form_of_report(folder: Path, tmp_path: Path, cli: Cli) -> None:
    """`--report NAME.word` is written by the file that has this suffix."""
    (folder / "report" / "word.py").write_text(FORM)
    make(tmp_path / "t.parquet", duration="2s")
    out = tmp_path / "r.word"
    words = ("--target", "null", "--mode", "max", "--min-window", "0s", "--report", out)
    done = cli("replay", tmp_path / "t.parquet", *words)
    assert done.code in (0, 5), done.err
    assert out.read_text() in ("VALID", "INVALID")


def test_an_importer(folder: Path, tmp_path: Path, cli: Cli) -> None:
    """Its file is recognised, and imported; the exporters don't have it."""
    (folder / "formats" / "keys.py").write_text(IMPORTER)
    (tmp_path / "log").write_text("keys:\n1\n2\n3\n")
    done = cli("import", tmp_path / "log", tmp_path / "t.parquet")
    assert done.code == 0, done.err
    assert "keys" in plugins.names(plugins.IMPORTER)
    assert "keys" not in plugins.names(plugins.EXPORTER)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_of_that_name\n\n\ndef create(context): ...\n", "ModuleNotFoundError"),
        ("def create(context:\n", "SyntaxError"),
        ("raise RuntimeError('of its own')\n", "of its own"),
        ('"""Nothing."""\n', "no function create()"),
    ],
)
def test_a_broken_one_is_one_line(folder: Path, cli: Cli, text: str, reason: str) -> None:
    """Used, it is refused with its file and reason; listed, it isn't available."""
    path = folder / "sources" / "broken.py"
    path.write_text(text)
    refused = cli("record", folder / "t.parquet", "--source", "broken")
    assert refused.code == 2
    assert "Traceback" not in refused.err
    assert str(path) in refused.err
    assert reason in refused.err
    listed = cli("list", "sources", "--json")
    assert listed.code == 0
    assert f'"available": "{path}' in listed.out


def test_a_taken_name_is_refused(folder: Path, cli: Cli) -> None:
    """Nothing of ours is replaced in silence."""
    (folder / "layouts" / "vllm.py").write_text("def create(geometry): ...\n")
    (folder / "models" / "llama3.1-8b.toml").write_text(MODEL)
    for words in (("--layout", "vllm"), ("--model", "tiny-1b")):
        refused = cli("record", folder / "t.parquet", *words)
        assert refused.code == 2
        assert "exists already" in refused.err


def test_folders_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A path that is no folder, or has no subfolder of a kind, is named."""
    for path, reason in ((tmp_path / "missing", "no such"), (tmp_path, "none of")):
        monkeypatch.setenv(plugins.FOLDERS_VARIABLE, str(path))
        with pytest.raises(UsageError, match=reason) as refused:
            plugins.names(plugins.SOURCE)
        assert str(path) in str(refused.value)


def test_an_entry_point_names_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution adds what its package's subfolders have."""
    (tmp_path / "acme" / "models").mkdir(parents=True)
    (tmp_path / "acme" / "__init__.py").write_text("raise RuntimeError('never imported')\n")
    (tmp_path / "acme" / "models" / "of-ours.toml").write_text(MODEL)
    about = tmp_path / "acme-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[kvtrace.plugins]\nacme = acme\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    plugins._checked.cache_clear()
    try:
        assert "of-ours" in model_names()
    finally:
        monkeypatch.undo()
        plugins._checked.cache_clear()


def test_a_target_that_is_always_there(folder: Path, cli: Cli) -> None:
    """A target without `unavailable()` is listed as available."""
    (folder / "targets" / "plain.py").write_text('"""A plain target."""\n\n\ndef make(spec): ...\n')
    listed = cli("list", "targets", "--json")
    assert listed.code == 0, listed.err
    tiers = ["gpu", "cpu", "nvme", "object"]
    entry = {"name": "plain", "available": "yes", "what": "A plain target.", "tiers": tiers}
    assert entry in json.loads(listed.out)["targets"]
