"""A node made smaller for a device: what shrinks, what stays, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import kvtrace
from kvtrace.errors import UsageError
from kvtrace.models import load_model
from kvtrace.placement.extents import RESERVED_BYTES
from kvtrace.recording.config import load_config
from kvtrace.recording.fitting import Shrunk, possible, shrunk
from kvtrace.recording.pipeline import record
from kvtrace.trace.schema import Tier
from kvtrace.units import GIB, MIB, UNLIMITED
from kvtrace.whatif.workload import Configured
from tests.support.examples import rest_slow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kvtrace.recording.pipeline import Recorded
    from tests.support.command import Outcome

NODE: dict[str, Any] = {
    "model": "tiny-1b",
    "block_tokens": 16,
    "source.users": 160,
    "source.templates": {"chat": {"context_tokens": [256, 1024], "generated_tokens": [50, 200],
                                  "think_s": [1, 5], "weight": 1}},
    "source.system_prompts.count": 40,
    "tiers.gpu.capacity": 1 * GIB,
    "tiers.cpu.capacity": 4 * GIB,
    "tiers.nvme.capacity": 6 * GIB,
    "duration": "20s",
}  # fmt: skip


def made(tmp_path: Path, **more: Any) -> Recorded:
    """Return a dry run of the node with other keys, which have `__` for dots."""
    keys = {name.replace("__", "."): value for name, value in more.items()}
    return record(load_config(None, NODE | keys), tmp_path / "t.parquet", dry_run=True)


def hits(recorded: Recorded) -> dict[str, float]:
    """Return the hit ratio of each tier, and read:write of nvme."""
    cells = [cell for cell in recorded.header.totals.cells if cell.tier == "nvme"]
    moved = {op: sum(c.bytes for c in cells if c.op == op) for op in ("read", "write")}
    ratios: dict[str, float] = recorded.header.statistics["hit_ratio"]
    return {**ratios, "read:write": moved["read"] / moved["write"]}


def test_half_of_a_node_hits_as_often_as_the_whole(tmp_path: Path) -> None:
    """Users, shared prompts and tiers are halved; hit ratios differ by points, bytes by half."""
    whole, half = made(tmp_path), made(tmp_path, scale=0.5)
    for name, ratio in hits(whole).items():
        assert hits(half)[name] == pytest.approx(ratio, abs=0.04 if name != "read:write" else 0.25)
    assert half.header.config["source"]["users"] == 80
    assert half.header.config["source"]["system_prompts"]["count"] == 20
    assert half.header.tiers[0].capacity_bytes == GIB // 2
    assert half.header.totals.bytes == pytest.approx(whole.header.totals.bytes / 2, rel=0.1)
    assert half.header.statistics["shrunk"]["load_ratio"] == 0.5
    assert "shrunk" not in whole.header.statistics


@pytest.mark.slow
def test_thinner_layers_change_no_hit(tmp_path: Path) -> None:
    """With capacities to match, half of the layers do the same ops on objects half as long."""
    layers = load_model("tiny-1b").layers
    whole = made(tmp_path)
    config = load_config(None, NODE)
    thin = record(shrunk(config, Shrunk(1.0, 1.0, layers // 2, layers)), tmp_path / "t.parquet",
                  dry_run=True)  # fmt: skip
    assert thin.header.statistics["hit_ratio"] == whole.header.statistics["hit_ratio"]
    assert thin.header.totals.rows == whole.header.totals.rows
    assert thin.header.totals.bytes == whole.header.totals.bytes // 2
    assert any("thinned to" in note for note in thin.header.model["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fit_bytes", "nvme"),
    rest_slow([(2 * GIB, 6 * GIB), (100 * MIB, UNLIMITED), (8 * GIB, 6 * GIB),
               (200 * MIB, 6 * GIB), (40 * MIB, 6 * GIB), (2 * GIB, UNLIMITED)], quick=2),
)  # fmt: skip
def test_what_was_fitted_needs_no_more_than_the_device(
    tmp_path: Path, fit_bytes: int, nvme: int
) -> None:
    """And it isn't much smaller than it could be."""
    found = made(tmp_path, fit=fit_bytes, tiers__nvme__capacity=nvme)
    assert found.needs is not None
    needed = found.needs[Tier.NVME].size_bytes + RESERVED_BYTES
    shrunk_by = found.header.statistics["shrunk"]
    whole = (shrunk_by["load_ratio"], shrunk_by["layers"]) == (1, shrunk_by["of_layers"])
    assert needed <= fit_bytes
    assert whole or needed > 0.45 * fit_bytes
    full = made(tmp_path, tiers__nvme__capacity=nvme)
    assert shrunk_by["whole"]["hit_ratio"] == full.header.statistics["hit_ratio"]
    assert shrunk_by["whole"]["read_write_ratio"] == pytest.approx(hits(full)["read:write"])


def test_a_device_that_is_too_small_for_anything_is_refused(tmp_path: Path) -> None:
    """With what it would have to be at least."""
    with pytest.raises(UsageError, match=r"too small for the least.*at least about"):
        made(tmp_path, fit=2 * MIB)


@pytest.mark.slow
def test_a_recording_without_tier_nvme_is_no_trace_for_a_drive(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """What gpu and cpu hold is refused; what is only written is told."""
    with pytest.raises(UsageError, match="does nothing on tier nvme"):
        made(tmp_path, fit=GIB, tiers__cpu__capacity=100 * GIB)
    words = ("--model", "tiny-1b", "--block-tokens", "16", "--users", "40", "--duration", "5s",
             "--gpu-mem", "0", "--cpu-mem", "100GiB", "--write-policy", "write-through",
             "--fit", "100GiB")  # fmt: skip
    ended = cli("record", tmp_path / "t.parquet", *words)
    assert ended.code == 0, ended.err
    assert "tier nvme is written and never read" in ended.out
    assert "fits unchanged" in " ".join(ended.out.split())


def test_a_load_of_arrivals_and_other_limits_shrink_too() -> None:
    """A rate, requests, a warm-up of requests, a batch; a duration and prefill stay."""
    config = load_config(None, {
        "source.rate": "10/s", "requests": 1000, "warmup": "50", "decode_batch": 8,
        "prefill_rate": "1000/s", "source.rag": {"documents": 100}, "duration": "10s",
    })  # fmt: skip
    small = shrunk(config, Shrunk(0.25, 1.0, 1, 1))
    assert (small.source.rate, small.requests, small.warmup) == (2.5, 250, "12")
    assert (small.decode_batch, small.prefill_rate) == (2, 1000)
    assert small.source.rag is not None
    assert (small.source.rag.documents, small.duration) == (25, config.duration)


def test_users_are_whole_numbers() -> None:
    """Tiers follow what the number of users comes to, not what was asked for."""
    config = load_config(None, {"source.users": 10})
    assert possible(config, 0.26) == 0.3
    assert possible(config, 0.001) == 0.1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"fit": "1GiB", "scale": 0.5}, "exclude each other"),
        ({"fit": "1GiB", "nodes": 2}, "of one node"),
        ({"scale": 0.5, "nodes": 2}, "of one node"),
        ({"scale": 1.5}, "less than or equal to 1"),
        ({"fit": 0}, "greater than 0"),
        ({"fit": "1GiB", "tiers.nvme.capacity": 0}, "a node without it"),
        ({"layers": 1000}, "more than the model has"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    """Each with what it is about."""
    with pytest.raises(UsageError, match=message):
        record(load_config(None, NODE | keys), tmp_path / "t.parquet")


def test_what_if_tries_the_whole_node() -> None:
    """It refuses a fit instead of passing over it."""
    with pytest.raises(UsageError, match="what-if"):
        Configured(lambda tried: load_config(None, NODE | {"fit": "1GiB"} | tried)).run({})


@pytest.mark.slow
def test_the_command_says_by_how_much(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Trials on stderr, the result in the summary; the trace fits."""
    ended = cli("record", tmp_path / "t.parquet", "--preset", "mlperf-storage-8b", "--fit", "4GiB",
                "--duration", "20s")  # fmt: skip
    assert ended.code == 0, ended.err
    assert "requests, needs" in ended.err
    assert "smaller node: " in ended.out
    assert "the whole node: hit ratio nvme 0.7" in ended.out
    assert "1 of 32 layers" in ended.out
    with kvtrace.open(tmp_path / "t.parquet") as trace:
        assert trace.header.statistics["shrunk"]["of_layers"] == 32
