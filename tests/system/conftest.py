"""Devices and traces for safety tests."""

from __future__ import annotations

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
