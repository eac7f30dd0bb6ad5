"""How the library gets into an installation, and what happens where it can't."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvtrace.errors import TargetError
from replay.engine import native
from replay.engine.native import library

NATIVE = Path(native.__file__).parent
PROJECT = """
[project]
name = "sample"
version = "1"
[tool.setuptools]
packages = ["replay", "replay.engine", "replay.engine.native"]
[tool.setuptools.cmdclass]
build_ext = "replay.engine.native.build.BuildLibrary"
bdist_wheel = "replay.engine.native.build.PlatformWheel"
[[tool.setuptools.ext-modules]]
name = "replay.engine.native.kvloop"
optional = true
sources = [{sources}]
extra-compile-args = ["-std=gnu11", "-O0"]
extra-link-args = ["-pthread"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with the library's sources and build commands, and nothing else."""
    folder = tmp_path / "replay" / "engine" / "native"
    folder.mkdir(parents=True)
    sources = sorted(NATIVE.glob("*.c"))
    for path in [*sources, *NATIVE.glob("*.h"), NATIVE / "build.py"]:
        shutil.copy(path, folder)
    listed = ", ".join(f'"replay/engine/native/{path.name}"' for path in sources)
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(sources=listed))
    return tmp_path


def setuptools_command(project: Path, *words: str, compiler: str | None = None) -> None:
    """Run one setuptools command in the project."""
    environment = dict(os.environ) | ({} if compiler is None else {"CC": compiler})
    command = [sys.executable, "-W", "ignore", "-c", "import setuptools; setuptools.setup()"]
    subprocess.run([*command, *words], cwd=project, env=environment, check=True)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.slow
def test_builds_without_python_and_never_keeps_an_old_library(project: Path) -> None:
    """The build yields a plain library; without a compiler it succeeds and leaves none."""
    built = project / "replay" / "engine" / "native" / "kvloop.so"
    setuptools_command(project, "build_ext", "--inplace")
    loaded = ctypes.CDLL(str(built))
    assert loaded.kv_abi_version() == library.ABI_VERSION
    assert not hasattr(loaded, "PyInit_kvloop")
    setuptools_command(project, "bdist_wheel")
    assert [path.name[:20] for path in (project / "dist").iterdir()] == ["sample-1-py3-none-li"]
    setuptools_command(project, "build_ext", "--inplace", compiler="/nonexistent/cc")
    assert not list(project.rglob("kvloop.so"))


def test_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the library both engines say in one line what to install."""
    monkeypatch.setattr(library, "LIBRARY_PATH", tmp_path / "kvloop.so")
    library.load.cache_clear()
    try:
        for engine in (native.uring, native.threads):
            assert engine.available() == library.NOT_BUILT
        with pytest.raises(TargetError, match="install gcc"):
            library.load()
    finally:
        library.load.cache_clear()


def test_broken_library_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that can't be loaded is told as such, not as missing."""
    broken = tmp_path / "kvloop.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "LIBRARY_PATH", broken)
    library.load.cache_clear()
    try:
        assert "can't be loaded" in str(native.threads.available())
    finally:
        library.load.cache_clear()
