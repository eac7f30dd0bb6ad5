"""Devices and traces for safety tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.disks import Disks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    """Loop devices, partitions, mounts; gone at the end."""
    with Disks(tmp_path) as made:
        yield made


@pytest.fixture
def direct_path(tmp_path: Path) -> Path:
    """A folder in which files take O_DIRECT; skips where there is none."""
    probe = tmp_path / "probe"
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("no direct I/O where pytest keeps its files; set --basetemp")
    probe.unlink()
    return tmp_path
