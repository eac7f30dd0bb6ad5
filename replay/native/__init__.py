"""The library of `replay`'s own C files: the loop, and the planner's hot parts."""

from __future__ import annotations

from pathlib import Path

from kvtrace.native.library import Library

LOOP = Library(Path(__file__).with_name("kvloop.so"), "loop")
function = LOOP.function
