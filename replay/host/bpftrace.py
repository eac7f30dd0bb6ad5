"""Runs bpftrace beside a run, where that is allowed; else says why not. Never ends a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kvtrace.units import MS_NS, S_NS
from replay import clock
from replay.device import sysfs as device
from replay.host.bpf import BlockLatency, is_attached, kernel_number, parse, program

if TYPE_CHECKING:
    from replay.watch import Stop

ATTACH_NS, STOP_S = 30 * S_NS, 30
_LOOK_NS = 20 * MS_NS
_MAP_KEYS = "16384"
TRACING = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


def why_not() -> str | None:
    """Return why bpftrace can't be run here, or None if it can."""
    if os.geteuid() != 0:
        return "needs root: run the replay with sudo"
    if shutil.which("bpftrace") is None:
        return "bpftrace isn't installed: apt-get install bpftrace"
    if not any((place / "events/block/block_rq_issue").exists() for place in TRACING):
        return (
            "the kernel's block tracepoints aren't there: "
            "mount -t tracefs tracefs /sys/kernel/tracing"
        )
    return None


def watched(devices: tuple[Path | None, ...]) -> dict[int, str]:
    """Return number and name of each disk whose requests these devices' I/O becomes.

    `devices`: sysfs directories. A device that is built on others has no requests of its own.
    """
    parents: dict[int, str] = {}
    for sysfs in devices:
        for disk in () if sysfs is None else device.lowest_disks(sysfs):
            major, _, minor = (device.read_text(disk / "dev") or "0:0").partition(":")
            parents[kernel_number(int(major), int(minor))] = disk.name
    return parents


@dataclass(slots=True)
class Tracer:
    """A bpftrace that is in place."""

    names: dict[int, str]
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    attached_ns: int

    def finish(self, start_ns: int) -> BlockLatency | str:
        """End it; return what it has counted, or why there is nothing."""
        self.process.terminate()  # SIGINT is ignored by what nohup or a script has started
        stopped_ns = clock.now_ns()
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.close()
            return f"bpftrace didn't end within {STOP_S} s"
        text = _text(self.output)
        self.close()
        if code != 0:
            return f"bpftrace ended with exit code {code}"
        try:
            groups = parse(text, self.names)
        except (ValueError, KeyError) as error:
            return f"bpftrace printed something else than expected: {error}"
        return BlockLatency(
            (self.attached_ns - start_ns) / S_NS, (stopped_ns - start_ns) / S_NS, groups
        )

    def close(self) -> None:
        """Leave nothing running. May be called twice."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.output.close()


def attach(devices: tuple[Path | None, ...], stop: Stop) -> Tracer | str:
    """Return a tracer of these devices' requests, in place; or why there is none."""
    names = watched(devices)
    if not names:
        return "no target has a block device below it"
    reason = why_not()
    if reason is not None:
        return reason
    output = tempfile.TemporaryFile()  # noqa: SIM115 (the tracer closes it)
    # It ends with this process (-p), and is in no terminal's group: Ctrl-C must not end it first.
    command = ["bpftrace", "-p", str(os.getpid()), "-f", "json", "-e", program(tuple(names))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ | {"BPFTRACE_MAP_KEYS_MAX": _MAP_KEYS},
        process_group=0,
    )
    tracer = Tracer(names, process, output, 0)
    reason = _wait_attached(tracer, stop)
    if reason is not None:
        tracer.close()
        return reason
    tracer.attached_ns = clock.now_ns()
    return tracer


def _wait_attached(tracer: Tracer, stop: Stop) -> str | None:
    """Return None when the program is in place, or why it won't be."""
    deadline_ns = clock.now_ns() + ATTACH_NS
    while clock.now_ns() < deadline_ns:
        if stop.requested:
            return "stopped"
        ended = tracer.process.poll() is not None
        text = _text(tracer.output)
        try:
            if is_attached(text):
                return None
        except json.JSONDecodeError:
            pass  # the line isn't whole yet
        if ended:
            last = [line for line in text.splitlines() if line.strip()][-1:]
            return f"bpftrace ended at once: {last[0] if last else 'it said nothing'}"
        clock.sleep_ns(_LOOK_NS)
    return f"bpftrace wasn't in place within {ATTACH_NS // S_NS} s"


def _text(output: IO[bytes]) -> str:
    return os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0).decode(errors="replace")
