"""How the libraries get into an installation, and what happens where they can't."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvtrace.errors import TargetError
from kvtrace.native.core import CORE
from kvtrace.native.digest import digest
from kvtrace.native.library import Library
from replay.engine import native
from replay.native import LOOP
from tests.support.places import ROOT

LIBRARIES = ("kvtrace/native/kvcore.so", "replay/native/kvloop.so")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the project's C sources, build commands and settings, and nothing built."""
    for package in ("kvtrace", "replay"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def setuptools_command(
    project: Path, *words: str, compiler: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one setuptools command in the project."""
    more = {} if compiler is None else {"CC": compiler, "PATH": "/nonexistent"}
    command = [sys.executable, "-W", "ignore", "-c", "import setuptools; setuptools.setup()"]
    return subprocess.run(
        [*command, *words],
        cwd=project,
        env=dict(os.environ) | more,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.slow
def test_builds_without_python_and_never_keeps_an_old_library(project: Path) -> None:
    """The build yields plain libraries; without a compiler it says so and leaves none."""
    made = setuptools_command(project, "build_ext", "--inplace")
    assert made.returncode == 0, made.stderr
    assert "warning" not in made.stderr
    for name in LIBRARIES:
        loaded = ctypes.CDLL(str(project / name))
        assert not hasattr(loaded, f"PyInit_{Path(name).stem}")
    assert setuptools_command(project, "bdist_wheel").returncode == 0
    assert ["py3-none-linux" in path.name for path in (project / "dist").iterdir()] == [True]
    failed = setuptools_command(project, "build_ext", "--inplace", compiler="/nonexistent/cc")
    assert failed.returncode == 1
    assert "no compiler was found: install gcc" in failed.stderr
    assert not any((project / name).exists() for name in LIBRARIES)


def test_a_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the library both engines say in one line what to do."""
    monkeypatch.setattr(LOOP, "path", tmp_path / "kvloop.so")
    monkeypatch.setattr(LOOP, "load", LOOP._load)
    native.library.load.cache_clear()
    try:
        for engine in (native.uring, native.threads):
            assert "missing" in str(engine.available())
            assert "install gcc" in str(engine.available())
    finally:
        native.library.load.cache_clear()


def test_a_broken_library_is_a_reason(tmp_path: Path) -> None:
    """A library that can't be loaded is told as such, not as missing."""
    (tmp_path / "kvcore.so").write_bytes(b"not a library")
    with pytest.raises(TargetError, match="can't be loaded"):
        Library(tmp_path / "kvcore.so", "core").load()


def test_a_library_of_other_sources_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An old library would do with newer Python what neither means."""
    (tmp_path / "kvtrace").mkdir()
    (tmp_path / "kvtrace" / "changed.c").write_text("int changed;\n")
    monkeypatch.setattr("kvtrace.native.library.ROOT", tmp_path)
    with pytest.raises(TargetError, match=r"built of other sources.*make install"):
        Library(CORE.path, "core").load()


def test_each_change_of_a_source_is_another_digest(tmp_path: Path) -> None:
    """Its text, its name, a new file."""
    folder = tmp_path / "kvtrace"
    folder.mkdir()
    seen = {digest(tmp_path)}
    for name, text in (("a.c", "1"), ("a.c", "2"), ("b.h", "2")):
        (folder / name).write_text(text)
        seen.add(digest(tmp_path))
    (folder / "b.h").rename(folder / "c.h")
    assert len(seen | {digest(tmp_path)}) == 5
