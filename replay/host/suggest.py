"""Commands for this machine, complete enough to be pasted."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.units import GIB
from replay.host.disks import why_not_disk, why_not_file_system

if TYPE_CHECKING:
    from replay.host.disks import Disk, FileSystem
    from replay.host.gpus import Gpus
    from replay.host.machine import Machine

LEAST_BYTES = 6 * GIB
"""A smaller place isn't suggested."""
_NVME_BYTES_MAX = 256 * GIB
_SIZE_RATIO = 1.25
"""Size of a target ÷ capacity of its tier: slack, alignment, and what populating adds."""
_GPU_BYTES, _GPU_RATIO = 8 * GIB, 0.4
"""KV memory per GPU: where there is none, and the part that weights leave over."""
_CPU_RATIO = 0.25
_WIDTH = 78


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Two commands, each as it is typed, and what to know of them; empty if there is nothing."""

    record: str
    replay: str
    note: str


def suggest(
    machine: Machine, gpus: Gpus, disks: tuple[Disk, ...], file_systems: tuple[FileSystem, ...]
) -> Suggestion | None:
    """Return what to run here; None if no place is large enough.

    A whole device is better than a file, and of each kind the largest is taken.
    """
    free = [disk for disk in disks if why_not_disk(disk) is None and disk.size_bytes >= LEAST_BYTES]
    drive = max(free, key=lambda disk: (not disk.virtual, disk.size_bytes), default=None)
    if drive is not None:
        words = ["--device", drive.path, "--allow-destroy", shlex.quote(drive.allow_destroy)]
        note = f"destroys everything on {drive.path} ({drive.model})"
        return _commands(machine, gpus, drive.size_bytes, words, note)
    roomy = [
        file_system
        for file_system in file_systems
        if why_not_file_system(file_system, LEAST_BYTES) is None
    ]
    best = max(roomy, key=lambda file_system: file_system.usable_bytes, default=None)
    if best is None:
        return None
    path = f"{best.point.rstrip('/')}/kvtrace.dat"
    note = f"makes {path}; remove it afterwards"
    return _commands(machine, gpus, best.usable_bytes, ["--device", shlex.quote(path)], note)


def _commands(
    machine: Machine, gpus: Gpus, space_bytes: int, target: list[str], note: str
) -> Suggestion:
    held_gib = max(1, int(min(_NVME_BYTES_MAX, space_bytes / 1.5) // GIB))
    size_gib = -int(-held_gib * _SIZE_RATIO // 1)
    least = min((gpu.memory_bytes for gpu in gpus.found), default=0)
    gpu_gib = max(1, int(least * _GPU_RATIO if least else _GPU_BYTES) // GIB)
    cpu_gib = max(1, int(machine.memory_bytes * _CPU_RATIO) // GIB)
    record = [
        "kvtrace record kv.parquet",
        "--model llama3.1-8b",
        f"--num-gpus {max(1, len(gpus.found))}",
        f"--gpu-mem {gpu_gib}GiB",
        f"--cpu-mem {cpu_gib}GiB",
        f"--nvme-capacity {held_gib}GiB",
        "--users auto",
        "--duration 2min",
    ]
    named = [" ".join(target[at : at + 2]) for at in range(0, len(target), 2)]
    replay = [
        "kvtrace replay kv.parquet",
        *named,
        f"--size {size_gib}GiB",
        "--report kv.html",
        "--out kv-result.parquet",
    ]
    return Suggestion(folded(record), folded(replay), note)


def folded(parts: list[str], width: int = _WIDTH) -> str:
    """Return one command in lines of at most `width`, as far as its parts allow."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) + 2 <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(f"    {part}")
    return " \\\n".join(lines)
