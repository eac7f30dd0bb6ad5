"""Build of the C libraries: plain shared libraries, built by setuptools.

Each package has one library, of all C files in its folders. A library has no CPython API, so it is
built without `Python.h`, carries no ABI tag in its name, and one wheel per platform serves every
Python 3. This file is loaded by path while the project is being built: it imports nothing of the
project. Run as a script it builds the libraries in place, with `--sanitize`
for tests under sanitizers.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# setuptools brings no types of its own.
from setuptools.command.bdist_wheel import bdist_wheel  # type: ignore[import-untyped]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from setuptools import Extension  # type: ignore[import-untyped]

LIBRARIES = {"kvtrace": "kvtrace.native.kvcore", "replay": "replay.native.kvloop"}
"""The library of each package, as setuptools names an extension."""
HEADERS = Path("kvtrace") / "native"
COMPILER_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden")
LINKER_FLAGS = ("-shared", "-pthread")
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
"""Flags of libraries that stop at an access outside of an array, or undefined arithmetic."""
digest = runpy.run_path(str(Path(__file__).with_name("digest.py")))["digest"]
NO_COMPILER = (
    "kvtrace's core is C and no compiler was found: install gcc "
    "(apt-get install gcc libc6-dev) and run this again, or install a wheel of kvtrace"
)


def sources(root: Path, package: str) -> list[str]:
    """Return the C files of a package's library, in a fixed order."""
    return sorted(map(str, (root / package).rglob("*.c")))


class BuildLibrary(build_ext):  # type: ignore[misc]
    """Builds each package's library, `kvtrace.native.kvcore` as `kvtrace/native/kvcore.so`."""

    def finalize_options(self) -> None:
        """Compile always: an old object must not stand in for a compiler that is missing."""
        super().finalize_options()
        self.force = True

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path of the library, without the tag of a Python version."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Return none: there is no `PyInit_` function to export."""
        return list(ext.export_symbols)

    def run(self) -> None:
        """Leave libraries that were built just now, or none: not in the sources, nor in build/."""
        for ext in self.extensions:
            self._forget(ext)
        if not any(map(shutil.which, (os.environ.get("CC", "cc").split()[0], "gcc"))):
            raise SystemExit(NO_COMPILER)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Compile all C files of the package, with no earlier library in the place to build it."""
        self._forget(ext)
        ext.sources = sources(Path(), ext.name.split(".")[0])
        ext.include_dirs = [str(HEADERS)]
        ext.define_macros = [("KV_SOURCES", f'"{digest(Path())}"')]
        super().build_extension(ext)

    def _forget(self, ext: Extension) -> None:
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)


class PlatformWheel(bdist_wheel):  # type: ignore[misc]
    """Tags the wheel `py3-none-<platform>`: the libraries serve every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag with the platform only."""
        _python, _abi, platform = super().get_tag()
        return "py3", "none", platform


def build_library(
    root: Path, package: str, library: Path, flags: tuple[str, ...] = COMPILER_FLAGS
) -> None:
    """Compile a package's library; it isn't there before it is whole."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit(NO_COMPILER)
    draft = library.with_suffix(".new")  # a library that is in use must not change under it
    where = ("-I", str(root / HEADERS), f'-DKV_SOURCES="{digest(root)}"')
    files = sources(root, package)
    subprocess.run([compiler, *flags, *where, *files, *LINKER_FLAGS, "-o", str(draft)], check=True)
    draft.replace(library)


def build(root: Path, *more_flags: str) -> None:
    """Compile each package's library in place; say their paths."""
    for package, name in LIBRARIES.items():
        library = (root / Path(*name.split("."))).with_suffix(".so")
        build_library(root, package, library, (*COMPILER_FLAGS, *more_flags))
        sys.stdout.write(f"{library}\n")


if __name__ == "__main__":
    build(Path(__file__).resolve().parents[2], *(SANITIZERS if "--sanitize" in sys.argv else ()))
