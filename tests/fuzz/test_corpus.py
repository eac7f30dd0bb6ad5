"""Inputs that were once read wrongly, and a few seconds of the fuzzer."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.fuzz import worker
from tests.fuzz.seeds import make_seeds
from tests.fuzz.targets import Target, targets

CORPUS = Path(__file__).parent / "corpus"
CASES = sorted(path.parent for path in CORPUS.glob("*/case.json"))
QUICK_INPUTS = 150
SLOW_TARGETS = ("replay", "whatif", "compare", "source", "report", "head", "diff")
"""What takes more than some ms per input."""


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    """All targets with their seeds."""
    folder = tmp_path_factory.mktemp("seeds") / "all"
    make_seeds(folder)
    return targets(folder)


def judged(target: Target, content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the target ends otherwise than it should, given `content`."""
    (folder / "tmp").mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    worker.prepare(folder / "in", target, content)
    found = worker.run_one(target, folder / "in", folder / "tmp")
    assert found is None, f"{target.name}: {found}"


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_what_was_found_stays_mended(
    case: Path, seeds: list[Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kept input ends with an exit code, one line and nothing left behind."""
    name = json.loads((case / "case.json").read_text())["target"]
    target = next(each for each in seeds if each.name == name)
    content = next(path for path in case.iterdir() if path.name != "case.json").read_bytes()
    judged(target, content, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_few_seconds_of_fuzzing(
    seeds: list[Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same inputs each time; `make fuzz` tries others, in processes with limits."""
    quick = [each for each in seeds if not any(word in each.name for word in SLOW_TARGETS)]
    for number in range(QUICK_INPUTS):
        rng = worker.rng_of(0, number)
        target = worker.chosen(quick, rng, "")
        seed = next(iter(target.seeds.values()))
        judged(target, target.mutate(seed, rng), tmp_path, monkeypatch)
