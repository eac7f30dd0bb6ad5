"""A digest of the C sources; of the standard library only, since the build loads it by path."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("kvtrace", "replay")


def digest(root: Path) -> str:
    """Return the digest of all C files in the packages that lie in `root`."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.[ch]"))
    parts = hashlib.sha256()
    for path in paths:
        parts.update(path.relative_to(root).as_posix().encode() + b"\0")
        parts.update(path.read_bytes())
    return parts.hexdigest()[:16]
