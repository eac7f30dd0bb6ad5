"""What all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.examples import examples
from tests.making import make

if TYPE_CHECKING:
    from pathlib import Path

# The first example may have to wait for a compiler.
settings.register_profile("project", deadline=None, max_examples=examples(100))
settings.load_profile("project")


@pytest.fixture(scope="session")
def small_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded trace with all tiers under pressure."""
    path = tmp_path_factory.mktemp("trace") / "small.parquet"
    make(path)
    return path
