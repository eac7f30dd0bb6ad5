"""Configurations: presets, origins, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from kvtrace.errors import UsageError
from kvtrace.recording.config import load_config, preset_names, preset_summary, resolve
from kvtrace.recording.config_text import as_yaml
from kvtrace.recording.parts import Recording
from kvtrace.recording.pipeline import record
from tests.support.places import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

PRESETS = [
    "8xh200-70b-tp8",
    "agentic-coding",
    "agentx",
    "disaggregated-decode",
    "disaggregated-prefill",
    "long-context",
    "mlperf-storage-70b",
    "mlperf-storage-8b",
    "mlperf-storage-8b-cpu4",
    "vdb-aisaq-1m-512",
    "vdb-diskann-10m-1536",
]
GIB = 1 << 30
NEEDED = {"agentx": {"source.input": [str(SAMPLES / "weka/trace_0001.json")], "warmup": 20}}
"""What a preset can't have itself: its input, and a warm-up that the sample's conversation has."""


def test_the_presets_are_there() -> None:
    """The promised presets are shipped, and each says in a sentence what it is."""
    assert preset_names() == PRESETS
    assert all(preset_summary(name).endswith(".") for name in PRESETS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_records(tmp_path: Path, name: str) -> None:
    """Each preset makes a trace; here its first requests."""
    if name in NEEDED and not SAMPLES.exists():
        pytest.skip("shared/samples isn't here")
    options = {"requests": 6} | NEEDED.get(name, {})
    config = load_config(None, options, preset=name)
    Recording(config)
    made = record(config, tmp_path / "t.parquet", dry_run=True)
    assert made.stats.requests == 6
    assert made.header.totals.rows > 0


def test_submission_presets_are_the_benchmarks_tests() -> None:
    """Users, duration and tiers are those of the three tests of the MLPerf Storage benchmark."""
    found = {}
    for name in PRESETS:
        if name.startswith("mlperf-storage"):
            config = load_config(None, {}, preset=name)
            assert (config.layout, config.duration) == ("request", 300 * 10**9)
            tiers = config.tiers
            found[name] = (
                config.model,
                config.source.users,
                tiers.gpu.capacity // GIB,
                tiers.cpu.capacity // GIB,
            )
    assert found == {
        "mlperf-storage-8b": ("llama3.1-8b", 200, 0, 0),
        "mlperf-storage-8b-cpu4": ("llama3.1-8b", 100, 0, 4),
        "mlperf-storage-70b": ("llama3.1-70b", 70, 0, 0),
    }


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    """Option > --set > file > preset > default, and each value says where it is from."""
    path = tmp_path / "c.yaml"
    path.write_text("source: {users: 7}\nseed: 3\nmodel: tiny-1b\n")
    found = resolve(path, {"seed": 5}, ["model=qwen3-8b"], "mlperf-storage-8b")
    shown = dict(line.strip().split(": ", 1) for line in as_yaml(found).splitlines() if "#" in line)
    assert shown["users"] == f"7  # {path}"
    assert shown["seed"] == "5  # option"
    assert shown["model"] == "qwen3-8b  # --set"
    assert shown["layout"] == "request  # preset mlperf-storage-8b"
    assert shown["dtype"] == "null  # default"


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    """The printed configuration, given as a file, comes to the same."""
    found = resolve(None, {"source.rag": {}}, ["source.templates.mine.think_s=[1, 2]"][:0],
                    "agentic-coding")  # fmt: skip
    path = tmp_path / "c.yaml"
    path.write_text(as_yaml(found))
    assert load_config(path, {}) == found.config
    assert yaml.safe_load(path.read_text())["source"]["users"] == 24


IDLE = {
    "arrival": {"source.arrival": "gamma"},
    "gamma_shape": {"source.gamma_shape": 2.0, "source.rate": 1},
    "diurnal_amplitude": {"source.diurnal_amplitude": 0.1, "source.rate": 1},
    "diurnal_period": {"source.diurnal_period": "1h", "source.rate": 1},
    "end_probability": {"source.end_probability": 0.5, "source.multi_turn": False},
    "max_turns": {"source.max_turns": 5, "source.multi_turn": False},
    "prefix_caching": {
        "source.prefix_caching": False,
        "source.system_prompts.probability": 0,
    },
    "zipf_exponent": {"source.rag": {"popularity": "uniform", "zipf_exponent": 2.0}},
}


@pytest.mark.parametrize("key", IDLE)
def test_a_key_that_is_idle_beside_others_is_refused(key: str) -> None:
    """What was set to no effect is told, not ignored."""
    with pytest.raises(UsageError, match=f"{key} has no effect with"):
        load_config(None, IDLE[key])


def test_refusals_name_the_layer(tmp_path: Path) -> None:
    """A bad value of a file is told with the file, an unknown preset with the nearest one."""
    path = tmp_path / "c.yaml"
    path.write_text("source: {users: -1}\n")
    with pytest.raises(UsageError, match=r"c\.yaml: source\.users"):
        load_config(path, {})
    with pytest.raises(UsageError, match="did you mean long-context"):
        load_config(None, {}, preset="long-contxt")
    assert load_config(None, {}, ["warmup=20"]).warmup == "20"
    with pytest.raises(UsageError, match="warmup"):
        load_config(None, {"warmup": "soon"})


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    """JSON and YAML can escape half of a character, which file names can't hold."""
    file = tmp_path / "c.yaml"
    file.write_text('{"model": "\\ud800", "source": {"users": 3}}')
    with pytest.raises(UsageError, match="this system's file names"):
        record(load_config(file, {}), tmp_path / "t.parquet", dry_run=True)
