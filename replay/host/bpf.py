"""Latencies in the block layer: the program that counts them in the kernel, and what it printed.

A request counts from being handed to the driver (block_rq_issue) to its completion
(block_rq_complete), in a histogram with 8 buckets per power of two, per device, operation and size
class, all kept in the kernel.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

NOTE = (
    "times of the block layer, from handing a request to the driver to its completion: all "
    "requests of the device from all processes, as merged or split by the kernel; percentiles are "
    "up to an eighth too long"
)
ATTACHED = "attached"
"""Line that the program prints once all probes are attached."""
_PARTS_BITS = 3
_NO_BYTES_CLASS = 255
_SECTOR_BITS = 9
_MINOR_BITS = 20
_OPS = {"R": "read", "W": "write", "D": "discard", "F": "flush"}


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """One device's requests of one operation and size class.

    `size_class_bytes`: lengths are at least this, and less than twice this; 0: without bytes.
    `bucket_us`: lower edges of the filled buckets, `bucket_count`: their counts. Percentiles are
    upper edges.
    """

    device: str
    op: str
    size_class_bytes: int
    count: int
    mean_us: float
    p50_us: float
    p99_us: float
    max_us: float
    bucket_us: NDArray[np.float64]
    bucket_count: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BlockLatency:
    """What the block layer took, from `start_s` to `end_s` since the run's clock zero."""

    start_s: float
    end_s: float
    groups: tuple[BlockGroup, ...]
    note: str = NOTE


def kernel_number(major: int, minor: int) -> int:
    """Return a device's number as the kernel's tracepoints have it."""
    return major << _MINOR_BITS | minor


def _log2(value: str, result: str) -> str:
    """Return lines that add floor(log2(`value`)) to `result` and use `value` up: no loops here."""
    steps = [
        f"  if ({value} >= {1 << bits}) {{ {value} = {value} >> {bits}; "
        f"{result} = {result} + {bits}; }}\n"
        for bits in (32, 16, 8, 4, 2, 1)
    ]
    return "".join(steps)


def program(devices: tuple[int, ...]) -> str:
    """Return the program that watches devices with these numbers of the kernel's."""
    which = " || ".join(f"args->dev == {number}" for number in devices)
    place = "args->dev, args->sector"
    group = "args->dev, args->rwbs, $size"
    parts = _PARTS_BITS
    # Requests have no name here. Several at one place (reads may overlap) complete, for all one can
    # tell, in their order: counts and sums are right whichever it was.
    return (
        f"tracepoint:block:block_rq_issue /{which}/ {{\n"
        f"  $at = @begun[{place}];\n"
        f"  @issued[{place}, $at] = nsecs;\n"
        f"  @begun[{place}] = $at + 1;\n"
        "}\n"
        f"tracepoint:block:block_rq_complete /@begun[{place}]/ {{\n"
        f"  $at = @ended[{place}];\n"
        f"  $ns = nsecs - @issued[{place}, $at];\n"
        f"  delete(@issued[{place}, $at]);\n"
        f"  @ended[{place}] = $at + 1;\n"
        f"  if (@begun[{place}] == $at + 1) {{\n"
        f"    delete(@begun[{place}]); delete(@ended[{place}]);\n"
        "  }\n"
        f"  $left = $ns; $power = (uint64)0;\n{_log2('$left', '$power')}"
        f"  $bucket = $power << {parts};\n"
        f"  if ($power >= {parts}) "
        f"{{ $bucket = $bucket + (($ns >> ($power - {parts})) & {(1 << parts) - 1}); }}\n"
        f"  $left = (uint64)args->nr_sector; $size = (uint64)0;\n"
        f"  if ($left == 0) {{ $size = (uint64){_NO_BYTES_CLASS}; }}\n{_log2('$left', '$size')}"
        f"  @count[{group}, $bucket] = count();\n"
        f"  @sum[{group}] = sum($ns);\n"
        f"  @max[{group}] = max($ns);\n"
        "}\n"
        # Probes are put in place in their order, so that this one's first run means that all are.
        f'interval:ms:100 /!@attached/ {{ printf("{ATTACHED}\\n"); @attached = 1; }}\n'
    )


def _maps(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    for line in text.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            if entry.get("type") in ("map", "stats"):
                for name, values in entry["data"].items():
                    if isinstance(values, dict):
                        yield name.lstrip("@"), values


def is_attached(text: str) -> bool:
    """Return whether the output says that the program is in place."""
    lines = (json.loads(line) for line in text.splitlines() if line.startswith("{") and "}" in line)
    return any(line.get("type") == "printf" and line["data"].strip() == ATTACHED for line in lines)


def _lower_edge_ns(bucket: int) -> int:
    power, part = bucket >> _PARTS_BITS, bucket & (1 << _PARTS_BITS) - 1
    if power < _PARTS_BITS:
        return 1 << power
    return (1 << power) + (part << power - _PARTS_BITS)


def _upper_edge_ns(bucket: int) -> int:
    power = bucket >> _PARTS_BITS
    return _lower_edge_ns(bucket) + (1 << max(0, power - _PARTS_BITS))


def _percentile_us(buckets: list[tuple[int, int]], ratio: float, max_ns: int) -> float:
    """Return the upper edge of the bucket that the percentile is in, at most the maximum."""
    counts = np.cumsum([count for _, count in buckets])
    at = int(np.searchsorted(counts, ratio * counts[-1]))
    return min(_upper_edge_ns(buckets[at][0]), max_ns) / 1000


def _op(letters: str, size_class: int) -> str:
    """Return what kind of request it is. Source: blk_fill_rwbs of Linux: a leading F is a flush."""
    if size_class == _NO_BYTES_CLASS:
        return "flush"
    letter = letters[1] if letters.startswith("F") and len(letters) > 1 else letters[:1]
    return _OPS.get(letter, "other")


_Key = tuple[str, str, int]


def parse(text: str, names: Mapping[int, str]) -> tuple[BlockGroup, ...]:
    """Return what the program's maps say; `names`: what each watched device is called.

    Raises ValueError or KeyError for what the program doesn't print.
    """
    maps = dict(_maps(text))
    buckets: dict[_Key, dict[int, int]] = {}
    sums: dict[_Key, int] = {}
    longest: dict[_Key, int] = {}
    for joined, count in maps.get("count", {}).items():
        group, _, bucket = joined.rpartition(",")
        mine = buckets.setdefault(_key(group, names), {})
        mine[int(bucket)] = mine.get(int(bucket), 0) + count
    for joined, value in maps.get("sum", {}).items():
        sums[_key(joined, names)] = sums.get(_key(joined, names), 0) + value
    for joined, value in maps.get("max", {}).items():
        longest[_key(joined, names)] = max(longest.get(_key(joined, names), 0), value)
    return tuple(_group(key, buckets[key], sums[key], longest[key]) for key in sorted(buckets))


def _key(joined: str, names: Mapping[int, str]) -> _Key:
    number, letters, size = joined.split(",")
    return names[int(number)], _op(letters, int(size)), int(size)


def _group(key: _Key, counts: dict[int, int], sum_ns: int, max_ns: int) -> BlockGroup:
    buckets = sorted(counts.items())
    total = sum(counts.values())
    return BlockGroup(
        device=key[0],
        op=key[1],
        size_class_bytes=0 if key[2] == _NO_BYTES_CLASS else 1 << key[2] + _SECTOR_BITS,
        count=total,
        mean_us=sum_ns / total / 1000,
        p50_us=_percentile_us(buckets, 0.50, max_ns),
        p99_us=_percentile_us(buckets, 0.99, max_ns),
        max_us=max_ns / 1000,
        bucket_us=np.array([_lower_edge_ns(bucket) / 1000 for bucket, _ in buckets]),
        bucket_count=np.array([count for _, count in buckets], np.int64),
    )
