"""What the tests of break-even share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.making import make

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def busy_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace whose requests load from all tiers, most of them from nvme too."""
    path = tmp_path_factory.mktemp("busy") / "busy.parquet"
    make(path, source__users=14, duration="40s", tiers__gpu__capacity="96MiB",
         tiers__cpu__capacity="256MiB", tiers__nvme__capacity="8GiB", seed=4)  # fmt: skip
    return path
