"""Build of the compiled loop: a plain shared library, built by setuptools.

The library has no CPython API, so it is built without `Python.h`, carries no ABI tag in its name,
and one wheel per platform serves every Python 3. Without a C compiler the installation succeeds
without the library. This file is loaded by path while the project is being built: it imports
nothing of the project. Run as a script it builds the library in place.
"""

from __future__ import annotations

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

LIBRARY = "kvloop.so"
COMPILER_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden")
LINKER_FLAGS = ("-shared", "-pthread")


class BuildLibrary(build_ext):  # type: ignore[misc]
    """Builds `replay.engine.native.kvloop` as `replay/engine/native/kvloop.so`."""

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
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Compile all C files of the folder, with no earlier library in the place to build it."""
        self._forget(ext)
        ext.sources = sorted(map(str, Path(ext.sources[0]).parent.glob("*.c")))
        super().build_extension(ext)

    def _forget(self, ext: Extension) -> None:
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)


class PlatformWheel(bdist_wheel):  # type: ignore[misc]
    """Tags the wheel `py3-none-<platform>`: the library serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag with the platform only."""
        _python, _abi, platform = super().get_tag()
        return "py3", "none", platform


def build_in_place() -> Path:
    """Compile the library next to its sources and return its path."""
    folder = Path(__file__).resolve().parent
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("no C compiler found: install gcc (apt-get install gcc libc6-dev)")
    library = folder / LIBRARY
    library.unlink(missing_ok=True)
    sources = sorted(str(source) for source in folder.glob("*.c"))
    command = [compiler, *COMPILER_FLAGS, *sources, *LINKER_FLAGS, "-o", str(library)]
    subprocess.run(command, check=True)
    return library


if __name__ == "__main__":
    sys.stdout.write(f"{build_in_place()}\n")
