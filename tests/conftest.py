"""What all tests share. Loads nothing heavy: with xdist one process only hands out tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    """Set how properties are tried, where tests run, and forget how wide a terminal is."""
    os.environ.pop("COLUMNS", None)  # a worker of xdist has it from the one that began it
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    from hypothesis import settings

    # The first example may have to wait for a compiler.
    settings.register_profile("project", deadline=None, max_examples=examples(100))
    settings.load_profile("project")


@pytest.fixture(scope="session")
def small_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded trace with all tiers under pressure."""
    from tests.making import make

    path = tmp_path_factory.mktemp("trace") / "small.parquet"
    make(path)
    return path
