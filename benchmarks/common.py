"""What the benchmarks share: payload, sizes, percentiles, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from replay.engine import native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
NS_PER_S = 1_000_000_000


def payload(size_bytes: int) -> tuple[NDArray[np.uint8], native.PageKind]:
    """Return random bytes on huge pages where there are any, and the pages' kind."""
    arena, kind = native.allocate(size_bytes)
    rng = np.random.default_rng(1)
    for begin in range(0, size_bytes, 64 * MIB):
        part = arena[begin : begin + 64 * MIB]
        part[:] = np.frombuffer(rng.bytes(part.size), np.uint8)
    return arena, kind


def size_name(size_bytes: int) -> str:
    """Return a size as people write it, such as 4M."""
    for unit, suffix in ((GIB, "G"), (MIB, "M"), (KIB, "K")):
        if size_bytes % unit == 0:
            return f"{size_bytes // unit}{suffix}"
    return str(size_bytes)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 4M."""
    units = {"K": KIB, "M": MIB, "G": GIB}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, the first left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))
