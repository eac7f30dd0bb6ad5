"""No write leaves a lane's range, whatever was planned: a model and extreme values."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.engine import native
from replay.engine.python import PythonEngine
from tests.support import bounds_model
from tests.support.examples import examples

if TYPE_CHECKING:
    from replay.ops.contract import Engine

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
