"""NUMA nodes: their CPUs and memory, from sysfs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvtrace.units import KIB
from replay.device.sysfs import read_text

_NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True, slots=True)
class Node:
    """One node."""

    number: int
    cpus: tuple[int, ...]
    memory_bytes: int


def parse_cpus(text: str) -> tuple[int, ...]:
    """Return the CPUs of a list such as `0-3,8`."""
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first:
            cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


def nodes(place: Path = _NODES) -> tuple[Node, ...]:
    """Return the machine's nodes in order; none where the kernel doesn't say."""
    numbers = []
    for path in place.glob("node[0-9]*"):
        lines = (read_text(path / "meminfo") or "").splitlines()
        total = next((line.split()[-2] for line in lines if "MemTotal" in line), "0")
        number = int(path.name.removeprefix("node"))
        cpus = parse_cpus(read_text(path / "cpulist") or "")
        numbers.append(Node(number, cpus, int(total) * KIB))
    return tuple(sorted(numbers, key=lambda node: node.number))


def node_of_cpus(place: Path = _NODES) -> dict[int, int]:
    """Return the node of each CPU."""
    return {cpu: node.number for node in nodes(place) for cpu in node.cpus}
