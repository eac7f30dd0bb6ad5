"""What tests of whole runs share: a recorded waterfall, the command on targets of a script."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import S_NS
from replay.targets.support.simulated import SimulatedTarget, stall_target
from replay.watch import Silent
from tests.support.making import make
from tests.support.runs import simulated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest

    from replay.targets import Target, TargetSpec
    from tests.support.command import Outcome

QUICK = ("--arena", "16MiB", "--io-size", "1MiB", "--settle", "0s", "--min-window", "0s")
_MODEL = """
name = "mini"
source = "synthetic, for tests: 4 KiB per block of 32 tokens"
date = "2026-11-24"
dtype = "bf16"
expected_bytes_per_token = 128
expected_bytes_per_sequence = 0

[[attention]]
kind = "full"
layers = 1
kv_heads = 1
head_dim = 32
"""
_CHAT = {"context_tokens": [256, 512], "generated_tokens": [32, 64], "think_s": [0.2, 0.5]}


def record_waterfall(folder: Path) -> Path:
    """Record some thousand rows of 4 KiB objects that go down three tiers and come up again."""
    model, path = folder / "mini.toml", folder / "waterfall.parquet"
    model.write_text(_MODEL)
    make(
        path,
        model=str(model),
        block_tokens=32,
        promotion="on-hit",
        source__users=8,
        source__templates={"chat": _CHAT},
        duration="6s",
        tiers__gpu__capacity="64KiB",
        tiers__cpu__capacity="96KiB",
        tiers__nvme__capacity="480KiB",
    )
    return path


@dataclass(frozen=True, slots=True)
class Load:
    """How much I/O a trace has on one tier, and over which time."""

    ios: int
    span_ns: int

    def speed(self, target_service_ns: int, load_ratio: float) -> float:
        """Return the speed at which a device that does one I/O after the other has that load."""
        return load_ratio * self.span_ns / (self.ios * target_service_ns)


def load_of(trace: Path, tier: Tier) -> Load:
    """Return the load of one tier; objects are not larger than one I/O."""
    with open_trace(trace) as opened:
        rows = opened.lazy().select("timestamp", "op", "tier").collect()
    moves = rows.filter(
        (rows["tier"] == tier.label)
        & ((rows["op"] == Op.READ.label) | (rows["op"] == Op.WRITE.label))
    )
    return Load(len(moves), int(np.ptp(moves["timestamp"].to_numpy())))


def serial_device(tier: Tier, service_ns: int, *, virtual: bool) -> SimulatedTarget:
    """Return a device that does one I/O after the other, each in `service_ns`."""
    made: SimulatedTarget = simulated(stall_target(service_ns, channels=1), tier, virtual=virtual)
    return made


class Midway(Silent):
    """Does something once: when `after` ops of the measured run are done; 0: as it begins."""

    progress = nullcontext()

    def __init__(self, action: Callable[[], object], after: int = 0) -> None:
        self.action, self.after = action, after
        self.running = self.happened = False

    def stage(self, name: str, total: int | None) -> None:
        """Take note of the run's beginning."""
        del total
        self.running = name == "replaying"
        self.advance(0)

    def advance(self, done: int) -> None:
        """Act if it is time."""
        if self.running and not self.happened and done >= self.after:
            self.happened = True
            self.action()


@dataclass(frozen=True, slots=True)
class Command:
    """`kvtrace replay` with targets that have no option of their own."""

    cli: Callable[..., Outcome]
    monkeypatch: pytest.MonkeyPatch
    folder: Path

    def __call__(
        self,
        trace: Path,
        targets: Sequence[Target | TargetSpec],
        *words: object,
        watcher: Silent | None = None,
    ) -> tuple[Outcome, dict[str, Any]]:
        """Run it with `--full`; return its outcome and its report as JSON."""
        made = tuple(targets)
        self.monkeypatch.setattr("kvtrace.cli.replay_options.target_specs", lambda *_: made)
        if watcher is not None:
            self.monkeypatch.setattr("kvtrace.cli.running.Shown", lambda: watcher)
        report = self.folder / "report.json"
        outcome = self.cli("replay", trace, *QUICK, "--full", "--report", report, "--force", *words)
        return outcome, json.loads(report.read_text())


def codes(document: dict[str, Any]) -> set[str]:
    """Return the reasons of a report."""
    return {reason["code"] for reason in document["reasons"]}


def row_of(text: str, name: str) -> list[str]:
    """Return the cells of the first row of a report that begins with `name`."""
    rows = (re.match(rf" *{name} +(.*)", line) for line in text.splitlines())
    return next(row[1].split() for row in rows if row is not None)


def duration_ns(cell: str) -> float:
    """Return what a printed duration says."""
    text = cell.rstrip("*")
    for unit, factor in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000), ("s", S_NS)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise AssertionError(f"no duration: {cell}")
