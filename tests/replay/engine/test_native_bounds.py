"""No write leaves a lane's range, whatever was planned: a model, extreme values, sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.native import build
from replay.engine import native
from replay.engine.python import PythonEngine
from tests.support import bounds_model, places
from tests.support.examples import examples

if TYPE_CHECKING:
    from replay.ops.contract import Engine

ROOT = places.ROOT
ENGINES = [native.uring, native.threads, PythonEngine()]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=examples(20), deadline=None)
def test_no_write_leaves_a_lanes_range(engine: Engine, seed: int) -> None:
    """Offsets and lengths of 0 to 2^64 - 1 on files, memory and scripts: ERANGE, or inside."""
    if isinstance(engine, native.NativeEngine) and (reason := engine.available()) is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder:
        case = bounds_model.make_case(np.random.default_rng(seed), Path(folder), engine)
        try:
            bounds_model.run_case(case, engine)
        finally:
            bounds_model.close(case)


def _runtime(name: str) -> str | None:
    """Return where the compiler's library of a sanitizer is."""
    if shutil.which("gcc") is None:
        return None
    asked = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    found = asked.stdout.strip()
    return found if Path(found).is_file() else None


@pytest.mark.slow
@pytest.mark.skipif(_runtime("libasan.so") is None, reason="no compiler with AddressSanitizer")
def test_the_loop_is_clean_under_sanitizers(tmp_path: Path) -> None:
    """The same cases with a library that stops at an access outside, or an overflow."""
    built = tmp_path / "kvloop.so"
    build.build_library(ROOT, "replay", built, (*build.COMPILER_FLAGS, *build.SANITIZERS))
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.bounds_model", "60", str(built)],
        cwd=ROOT,
        env=os.environ
        | {"LD_PRELOAD": str(_runtime("libasan.so")), "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
