"""The rules of order checked the slow way, on a result's table: shares nothing with the product."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

_TIERS = ("gpu", "cpu", "nvme", "object")
_BLOCK_BYTES = 4096
_Row = dict[str, Any]


def violations(table: pl.DataFrame) -> list[tuple[int, int]]:
    """Return pairs of rows (earlier, later) of which the later began before the earlier was done.

    Every pair that a rule names is looked at; rows that weren't executed are left out.
    """
    rows = [row for row in table.iter_rows(named=True) if row["submit"] is not None]
    waits = [*_on_one_tier(rows), *_across_tiers(rows), *_at_one_place(rows)]
    return [(i, j) for i, j in waits if rows[j]["submit"] < rows[i]["complete"]]


def _on_one_tier(rows: list[_Row]) -> list[tuple[int, int]]:
    """Of one key on one tier only reads overlap."""
    seen: dict[tuple[str, int], list[int]] = defaultdict(list)
    waits = []
    for j, row in enumerate(rows):
        if row["op"] == "lookup":
            continue
        mine = seen[row["tier"], row["key"]]
        waits += [(i, j) for i in mine if {rows[i]["op"], row["op"]} != {"read"}]
        mine.append(j)
    return waits


def _across_tiers(rows: list[_Row]) -> list[tuple[int, int]]:
    """A write waits for the last read that transfers its key, a delete for the write below it."""
    transfer: dict[int, int] = {}
    demoted: dict[tuple[int, str], int] = {}
    waits = []
    for j, row in enumerate(rows):
        key, op = row["key"], row["op"]
        if op == "write" and key in transfer:
            waits.append((transfer[key], j))
        if op == "delete":
            below = _TIERS[_TIERS.index(row["tier"]) + 1 :]
            found = [demoted[key, tier] for tier in below if (key, tier) in demoted]
            waits += [(max(found), j)] if found else []
        if op == "read" and row["phase"] in ("evict", "promote"):
            transfer[key] = j
        if op == "write" and row["phase"] == "evict":
            demoted[key, row["tier"]] = j
    return waits


def _at_one_place(rows: list[_Row]) -> list[tuple[int, int]]:
    """On one block of a target only reads overlap; looks at an op's first extent."""
    seen: dict[tuple[str, int], list[int]] = defaultdict(list)
    waits = []
    for j, row in enumerate(rows):
        if row["op"] not in ("read", "write"):
            continue
        last = -(-(row["offset"] + row["run"]) // _BLOCK_BYTES)
        for block in range(row["offset"] // _BLOCK_BYTES, last):
            mine = seen[row["tier"], block]
            waits += [(i, j) for i in mine if {rows[i]["op"], row["op"]} != {"read"}]
            mine.append(j)
    return waits
