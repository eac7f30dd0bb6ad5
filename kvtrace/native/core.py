"""The library of `kvtrace`'s own C files."""

from __future__ import annotations

from pathlib import Path

from kvtrace.native.library import Library

CORE = Library(Path(__file__).with_name("kvcore.so"), "core")
function = CORE.function
