"""The rules of MLPerf Storage v3.0 for a KV-cache run, and which of them a bench keeps.

Source: Rules.md of the benchmark's repository (v3.0, June 2026), 6.3 "KVCache Benchmark", table
KVCache-1 and 6.3.2 (closed division).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.fields import Section
from kvtrace.trace.schema import Tier
from kvtrace.units import GIB, S_NS, format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RULES = "MLPerf Storage v3.0, rules 6.3 (KV cache, closed division)"
DURATION_S, TRIALS, SEED, DELAY_NS = 300, 3, 42, 90 * S_NS


@dataclass(frozen=True, slots=True)
class Option:
    """One of the sanctioned workloads: a row of table KVCache-1, and the preset that is it."""

    number: int
    name: str
    preset: str
    model: str
    users: int
    cpu_bytes: int
    allocations: int


OPTIONS = (
    Option(1, "Max Storage Stress", "mlperf-storage-8b", "llama3.1-8b", 200, 0, 16),
    Option(2, "Storage Throughput", "mlperf-storage-8b-cpu4", "llama3.1-8b", 100, 4 * GIB, 16),
    Option(3, "Large Model (70B)", "mlperf-storage-70b", "llama3.1-70b", 70, 0, 4),
)


_NAMES = {"llama3.1-70b": "llama3.1-70b-instruct"}
"""What the rules call a model whose cache is the same."""


class Rule(Section):
    """One rule: what is asked, what was done. `option` None: it is of all."""

    option: int | None
    rule: str
    asked: str
    done: str
    kept: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a bench did that isn't of one option."""

    delay_ns: int
    preconditioned: bool
    settings: Sequence[str] = ()
    """Keys of the recordings that aren't as their presets have them."""


def of_sequence(done: Conditions) -> Iterator[Rule]:
    """Yield the rules on the whole sequence."""
    yield Rule(
        option=None, rule="program", asked="kv-cache.py, run by mlpstorage", done="kvtrace",
        kept=False, why="another program measures: parity with its figures, not a submission",
    )  # fmt: skip
    yield Rule(
        option=None, rule="delay between options", asked="90 s", done=f"{done.delay_ns / S_NS:g} s",
        kept=done.delay_ns == DELAY_NS,
    )  # fmt: skip
    yield Rule(
        option=None, rule="preconditioned drive", asked="yes",
        done="before option 1" if done.preconditioned else "not by this command",
        kept=done.preconditioned,
        why="" if done.preconditioned else "what was done to the drive before isn't known here: "
        "--precondition",
    )  # fmt: skip
    others = [key for key in done.settings if key != "seed"]  # a rule of its own
    yield Rule(
        option=None, rule="settings of one's own", asked="none", done=", ".join(others) or "none",
        kept=not others,
        why="a device is finite, and a limit of tier nvme needed; the benchmark permits no --config"
        if others else "",
    )  # fmt: skip
    yield Rule(
        option=None, rule="clients", asked="1 or more", done="1", kept=True,
        why="each client of the benchmark is a process with all users; here one replay",
    )  # fmt: skip


def of_option(option: Option, config: dict[str, Any], seconds: Sequence[float]) -> Iterator[Rule]:
    """Yield the rules on one option: `config` of the trace's header, seconds of each trial."""
    model = str(config.get("model"))
    asked_and_done = (
        ("model", _NAMES.get(option.model, option.model), _NAMES.get(model, model)),
        ("users", str(option.users), str(config.get("source", {}).get("users"))),
        ("gpu memory", "0 B", _capacity(config, Tier.GPU)),
        ("cpu memory", format_bytes(option.cpu_bytes), _capacity(config, Tier.CPU)),
        ("generation", "none", str(config.get("generation"))),
        ("seed", str(SEED), str(config.get("seed"))),
        ("trials", str(TRIALS), str(len(seconds))),
    )
    for rule, asked, done in asked_and_done:
        yield Rule(option=option.number, rule=rule, asked=asked, done=done, kept=asked == done)
    yield _duration(option, seconds)
    yield Rule(
        option=option.number, rule="concurrent allocations", asked=str(option.allocations),
        done="no limit of its own", kept=False,
        why="it bounds the writes that kv-cache.py holds in memory; a replay holds none, and "
        "--queue-depth bounds all I/Os",
    )  # fmt: skip


def _capacity(config: dict[str, Any], tier: Tier) -> str:
    return format_bytes(config.get("tiers", {}).get(tier.label, {}).get("capacity") or 0)


def _range(shortest: float, longest: float) -> str:
    """Return seconds, or from how many to how many."""
    ends = dict.fromkeys((f"{shortest:.0f}", f"{longest:.0f}"))
    return f"{' to '.join(ends)} s"


def _duration(option: Option, seconds: Sequence[float]) -> Rule:
    shortest, longest = min(seconds, default=0.0), max(seconds, default=0.0)
    return Rule(
        option=option.number, rule="duration", asked=f"{DURATION_S} s",
        done=_range(shortest, longest), kept=shortest >= DURATION_S,
        why="" if shortest >= DURATION_S else "a trial replays the trace once, however long it "
        "takes, so that all do the same work: more requests take longer (--set requests=N)",
    )  # fmt: skip
