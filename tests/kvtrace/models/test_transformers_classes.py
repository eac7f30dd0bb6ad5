"""Every configuration class of transformers is read as its model caches, or refused.

What the models cache was measured by running them on shapes alone: `tests/oracles/`.
"""

from __future__ import annotations

import ast
import csv
import json
import logging
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import KvtraceError
from kvtrace.models.config_json import read
from kvtrace.models.geometry import validated
from tests.support import places

if TYPE_CHECKING:
    from kvtrace.models import Model

pytestmark = pytest.mark.slow
"""It makes a thousand configurations; real ones are read by test_config_json.py."""
TABLE = Path(__file__).parent / "transformers_caches.csv"
INDEXER_BYTES = {128: 132}
"""Engines keep an indexer's key in fp8 with one fp32 scale (vLLM 0.32, SGLang 0.5)."""
OTHERWISE = {"deepseek_v4"}
"""transformers keeps K and V of each row, engines the row alone: see test_config_json.py."""


@dataclass
class Kept:
    """What a model keeps, in bf16: bytes per token, per token of each window, per sequence."""

    token: int = 0
    windows: dict[int, int] = field(default_factory=dict)
    state: int = 0


def layers(text: str) -> int:
    """Return how many layers a range such as `0-2,4-6,9-27/9` names."""
    count = 0
    for piece in text.split(","):
        ends, _, step = piece.partition("/")
        first, _, last = ends.partition("-")
        count += (int(last or first) - int(first)) // int(step or 1) + 1
    return count


def kept(groups: str, positions: int, *, spare: int) -> Kept:
    """Return what the measured groups come to, by the rules that engines follow.

    A window of all positions is full; of a convolution's measured inputs `spare` aren't kept.
    """
    found = Kept()
    for group in groups.split("; "):
        match = re.match(r"\[([^\]]+)\] (.*)", group)
        if match is None:
            continue
        count, text = layers(match[1]), match[2]
        heads = re.search(r"(\d+) heads k(\d+) v(\d+)(?: w(\d+))?", text)
        if heads and not text.startswith("cross"):
            each = count * int(heads[1]) * (int(heads[2]) + int(heads[3])) * 2
            window = int(heads[4] or 0)
            if window and window < positions:
                found.windows[window] = found.windows.get(window, 0) + each
            else:
                found.token += each
        for indexer in re.findall(r"indexer_keys Tx(\d+)", text):
            found.token += count * INDEXER_BYTES.get(int(indexer), int(indexer))
        for width, kernel in re.findall(r"conv_states (\d+)x(\d+)", text):
            found.state += count * int(width) * (int(kernel) - spare) * 2
        for shape, bits in re.findall(r"recurrent_states ([\dx]+)(?::float(\d+))?", text):
            values = count
            for extent in shape.split("x"):
                values *= int(extent)
            found.state += values * int(bits or 16) // 8
    return found


def read_as(model: Model) -> Kept:
    cache = model.cache("bf16")
    found = Kept(token=int(model.rank_bytes_per_token(1, "bf16")))
    for group in model.attention:
        tokens, row = group.windowed(cache, 1)
        if tokens:
            whole = int(row.total) * group.layers
            found.windows[tokens] = found.windows.get(tokens, 0) + whole
        found.state += int(group.state(cache, 1).total) * group.layers
    return found


@pytest.fixture(scope="module")
def classes() -> dict[str, dict[str, Any]]:
    """The default configuration of each class, as its `config.json` would have it."""
    transformers = pytest.importorskip("transformers")
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    with TABLE.open() as file:
        if transformers.__version__ not in file.readline():
            pytest.skip("another version of transformers than was measured")
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    made = {}
    for name in auto.CONFIG_MAPPING:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                made[name] = json.loads(auto.CONFIG_MAPPING[name]().to_json_string(use_diff=False))
            except Exception:
                continue
    assert len(made) > 800
    return made


def rows() -> dict[str, dict[str, str]]:
    with TABLE.open(newline="") as file:
        next(file)
        return {row["model_type"]: row for row in csv.DictReader(file)}


def as_measured(config: dict[str, Any], notes: str) -> dict[str, Any]:
    """Return the configuration with what had to be set for its model to run."""
    match = re.search(r"set: (\{.*?\})(?:;|$)", notes)
    changes = ast.literal_eval(match[1]) if match else {}
    config = config | {"dtype": "bfloat16"}
    for key, value in changes.items():
        config[key] = (config.get(key) or {}) | value if isinstance(value, dict) else value
    return config


def test_each_class_is_right_or_refused(classes: dict[str, dict[str, Any]]) -> None:
    """What is read comes to what the class's own model caches; the rest is refused by name."""
    measured, wrong, right, refused, unmeasured = rows(), {}, set(), set(), set()
    for name, default in classes.items():
        row = measured[name]
        config = as_measured(default, row["notes"])
        try:
            got = read_as(validated(read(config, name), name))
        except KvtraceError:
            refused.add(name)
            continue
        if not row["status"].startswith("measured"):
            unmeasured.add(name)
            continue
        text = config.get("text_config") or config
        positions = text.get("max_position_embeddings") or 1 << 40
        expected = kept(row["groups"], positions, spare=int(name != "recurrent_gemma"))
        if got == expected:
            right.add(name)
        elif name not in OTHERWISE:
            wrong[name] = (got, expected)
    assert not wrong
    assert unmeasured <= {"voxtral_realtime", "voxtral_realtime_text"}
    assert len(right) >= 215
    assert len(right) + len(refused) + len(unmeasured) + len(OTHERWISE) == len(classes)
    assert f"{len(right)} right, {len(refused)} refused, {len(unmeasured)} not measured" == COUNTS


COUNTS = "226 right, 591 refused, 2 not measured"
"""Of transformers 5.24's classes: said in docs/models.md."""


def test_the_docs_have_the_counts() -> None:
    """docs/models.md says how many classes are right and how many are refused."""
    assert COUNTS in (places.ROOT / "docs" / "models.md").read_text("utf-8")
