"""`users: auto`: the search, and its queue against one worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.errors import UsageError
from kvtrace.recording.config import load_config
from kvtrace.recording.parts import Recording
from kvtrace.recording.pipeline import record
from kvtrace.recording.sizing import Trial, _Server, measure
from kvtrace.trace.schema import Qos
from tests.support.making import SMALL

if TYPE_CHECKING:
    from pathlib import Path

AUTO = SMALL | {
    "source.users": "auto",
    "tiers.gpu.capacity": "0",
    "tiers.cpu.capacity": "0",
    "tiers.nvme.capacity": "unlimited",
    "sizing.nvme.bandwidth": "200MB",
    "sizing.targets.interactive": "2s",
    "sizing.targets.responsive": "2s",
    "sizing.targets.batch": "10s",
}


def test_a_tier_serves_one_op_after_the_other() -> None:
    """1 GB/s, 5 ns latency: ops wait for those before them, in this batch and in the one before."""
    server = _Server(1e9, 5)
    first = server.serve(np.array([0, 0, 50]), np.array([10, 20, 10]))
    assert first.tolist() == [10 + 5, 30 + 5, 60 + 5]
    assert server.serve(np.array([55, 100]), np.array([10, 1])).tolist() == [70 + 5, 101 + 5]


def found(options: dict[str, Any], tmp_path: Path) -> tuple[int, list[Trial]]:
    trials: list[Trial] = []
    made = record(load_config(None, options), tmp_path / "t.parquet", dry_run=True,
                  told=trials.append)  # fmt: skip
    return made.header.config["source"]["users"], trials


def test_the_largest_number_within_the_targets_is_found(tmp_path: Path) -> None:
    """The found number meets the targets, one more doesn't; the trials say so."""
    users, trials = found(AUTO, tmp_path)
    by_users = {trial.users: trial.met for trial in trials}
    assert by_users[users]
    assert not by_users[users + 1]
    assert all(met == (tried <= users) for tried, met in by_users.items())


@pytest.mark.slow
def test_every_key_of_sizing_has_an_effect(tmp_path: Path) -> None:
    """A faster tier or a looser target serves more users, a limit is kept to."""
    users, _ = found(AUTO, tmp_path)
    assert found(AUTO | {"sizing.nvme.bandwidth": "2GB"}, tmp_path)[0] > users
    assert found(AUTO | {"sizing.nvme.latency": "8s"}, tmp_path)[0] < users
    assert found(AUTO | {"sizing.targets.batch": "3s"}, tmp_path)[0] < users
    assert found(AUTO | {"sizing.max_users": 2}, tmp_path)[0] == 2


def test_one_user_too_many_is_an_error(tmp_path: Path) -> None:
    """Targets that nobody meets are told with the figure, not recorded with no users."""
    targets = {f"sizing.targets.{word.label}": "1ms" for word in Qos}
    with pytest.raises(UsageError, match=r"one user is too many.*[\d,]+ ms > 1 ms"):
        found(AUTO | targets | {"duration": "300s"}, tmp_path)


def test_sizing_without_auto_is_refused() -> None:
    """A key without effect isn't taken."""
    with pytest.raises(UsageError, match="no effect without users: auto"):
        load_config(None, SMALL | {"sizing.max_users": 3})


def test_loads_are_those_of_reads_only(tmp_path: Path) -> None:
    """A node that never hits has nothing to wait for."""
    options = SMALL | {"source.multi_turn": False, "source.system_prompts.probability": 0}
    config = load_config(None, options)
    p95_ns = measure(Recording(config), config.sizing)
    assert set(p95_ns.values()) == {0.0}
