"""`kvtrace bench mlperf-storage`: three options, the rules' score, what of the rules is kept."""

from __future__ import annotations

import json
import shutil
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.recording.config import load_config
from kvtrace.units import GIB, S_NS
from replay.compare.folder import CHECKSUMS, write_checksums
from replay.compare.mlperf import folder, rules
from replay.compare.mlperf.score import score_of
from tests.support.command import kvtrace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Ended, Outcome

TRIALS = 2
NULL = ("--target", "null", "--mode", "max", "--min-window", "0s", "--accept", "host_lateness",
        "--accept", "short_window")  # fmt: skip
BOUNDS = ("tiers.nvme.capacity=2GiB", "requests=40", "source.users=6",
          "source.max_context_tokens=2048")  # fmt: skip
SETS = [word for text in BOUNDS for word in ("--set", text)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A folder of three options of two trials each, and what was printed; made once."""
    place = tmp_path_factory.mktemp("suite") / "s"
    ended = kvtrace(
        "bench", "mlperf-storage", "--folder", place, "--trials", TRIALS, "--option-delay", "1s",
        *SETS, *NULL,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return place, ended


@pytest.fixture(scope="module")
def suite(made: tuple[Path, Ended]) -> Path:
    """The folder."""
    return made[0]


@pytest.mark.slow
def test_the_score_is_recomputed_from_the_trials_by_its_definitions(suite: Path) -> None:
    """Means of rates and the highest P95 over the trials (rules 6.3.4)."""
    document = json.loads((suite / "score.json").read_bytes())
    assert [each["option"] for each in document["options"]] == [1, 2, 3]
    for option in document["options"]:
        trials = [
            json.loads(path.read_bytes())["summary"]
            for path in (suite / f"option-{option['option']}" / "mlperf").iterdir()
        ]
        assert len(trials) == TRIALS
        stats = [trial["cache_stats"] for trial in trials]
        score = option["score"]
        read, write = ("tier_storage_read_bandwidth_gbps", "tier_storage_write_bandwidth_gbps")
        assert score["read_bandwidth_gib_per_s"] == fmean(each[read] for each in stats)
        assert score["write_bandwidth_gib_per_s"] == fmean(each[write] for each in stats)
        for name, key in (
            ("device_read_p95_ms", "storage_read_device_p95_ms"),
            ("device_write_p95_ms", "storage_write_device_p95_ms"),
        ):
            known = [each[key] for each in stats if each.get(key) is not None]
            assert score[name] == (max(known) if len(known) == TRIALS else None)
        assert {each["name"] for each in option["ours"]} >= {"nvme read rate"}


@pytest.mark.slow
def test_the_options_are_those_of_the_rules(suite: Path) -> None:
    """Each is a bench of its own with the rules' seed; the log has all commands."""
    for number, preset in enumerate(("8b", "8b-cpu4", "70b"), 1):
        log = (suite / f"option-{number}" / "commands.log").read_text()
        assert f"--preset mlperf-storage-{preset} " in log
        assert "--set seed=42" in log
    log = (suite / "commands.log").read_text().splitlines()
    assert [line.split()[2] for line in log] == ["bench"] * 3


@pytest.mark.slow
def test_check_verifies_each_option_and_the_score(
    suite: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    """Whole: exit 0. Another score, or a trial of an option changed: named, exit 3."""
    ended = cli("bench", "--check", suite)
    assert (ended.code, "NO" in ended.out) == (0, False)
    assert "score.json says what the options' benches say" in ended.out
    copy = shutil.copytree(suite, tmp_path / "copy")
    document = json.loads((copy / "score.json").read_bytes())
    document["options"][1]["score"]["read_bandwidth_gib_per_s"] = 99.0
    (copy / "score.json").write_text(json.dumps(document))
    (copy / CHECKSUMS).unlink()
    write_checksums(copy)
    ended = cli("bench", "--check", copy)
    assert ended.code == 3
    assert "NO  score.json says what the options' benches say: option 2" in ended.out
    (copy / "option-3" / "bench.json").unlink()
    ended = cli("bench", "--check", copy)
    assert ended.code == 3
    assert "NO  option-3: " in ended.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("option-2/mlperf/trial-01.mlperf.json", "{}", "option-2: mlperf/ says"),
        ("option-2/mlperf/trial-01.mlperf.json", "[]", "not a result of the benchmark"),
        ("option-2/mlperf/trial-01.mlperf.json", "x", "option-2: mlperf/ says"),
        ("option-2/mlperf/trial-01.mlperf.json", '{"summary": 1}', "an object with a summary"),
        ("option-3/bench.json", "{}", "option-3: bench.json says what the trials say: not in the"),
        ("option-1/results/trial-02.json", "{}", "option-1: the trials are alike"),
        ("option-1/checksums.sha256", "\xff", "option-1: no file was changed"),
        ("score.json", "{}", "not in the form that kvtrace writes: 4 validation errors"),
    ],
)
def test_check_names_files_that_are_of_another_kind(
    suite: Path, tmp_path: Path, cli: Callable[..., Outcome], name: str, text: str, problem: str
) -> None:
    """Each is a line that says so and exit 3, whatever a file holds."""
    copy = shutil.copytree(suite, tmp_path / "copy")
    (copy / name).write_bytes(text.encode("latin-1"))
    ended = cli("bench", "--check", copy)
    assert ended.code == 3, ended.err
    assert problem in next(x for x in ended.out.splitlines() if x.startswith("NO") and problem in x)


@pytest.mark.slow
def test_it_prints_a_table_and_the_rules_that_are_not_kept(made: tuple[Path, Ended]) -> None:
    """80 columns; the program itself is another one."""
    _, ended = made
    assert max(map(len, ended.out.splitlines())) <= 80
    text = " ".join(ended.out.split())
    assert "Parity with its figures, not a submission." in text
    assert "program: kv-cache.py, run by mlpstorage asked, kvtrace here" in text
    assert "users (option 1, 2, 3): 200, 100, 70 asked, 6 here" in text
    assert "delay between options: 90 s asked, 1 s here" in text
    assert (
        "settings of one's own: none asked, tiers.nvme.capacity, requests, source.users, " in text
    )
    assert "waiting 1 s before the next option" in ended.err


def test_a_score_lacks_what_a_trial_lacks() -> None:
    """A figure of some trials only is none of the option."""

    def trial(p95: float | None) -> dict[str, Any]:
        stats = {"tier_storage_read_bandwidth_gbps": 2.0, "storage_read_device_p95_ms": p95}
        return {"summary": {"cache_stats": stats, "storage_throughput_tokens_per_sec": p95}}

    whole = score_of([trial(3.0), trial(5.0)])
    assert (whole.read_bandwidth_gib_per_s, whole.device_read_p95_ms) == (2.0, 5.0)
    assert whole.storage_tokens_per_s == 4.0
    assert score_of([trial(3.0), trial(None)]).device_read_p95_ms is None
    assert score_of([]).read_bandwidth_gib_per_s is None


@pytest.mark.parametrize("option", rules.OPTIONS, ids=lambda option: option.name)
def test_presets_are_the_rules_workloads(option: rules.Option) -> None:
    """With the seed of the rules, all that a recording decides is kept."""
    config = load_config(None, {"seed": 42}, preset=option.preset)
    found = rules.of_option(option, config.model_dump(mode="json"), [300.0] * 3)
    assert [rule.rule for rule in found if not rule.kept] == ["concurrent allocations"]
    assert config.duration == 300 * S_NS


def test_what_differs_from_the_rules_is_named() -> None:
    """Each changed setting is a rule that isn't kept, with what was asked and done."""
    changed = {"seed": 1, "source.users": 7, "model": "tiny-1b", "generation": "fast",
               "tiers.gpu.capacity": GIB, "tiers.cpu.capacity": GIB}  # fmt: skip
    config = load_config(None, changed, preset="mlperf-storage-8b")
    found = rules.of_option(rules.OPTIONS[0], config.model_dump(mode="json"), [10.0])
    broken = {rule.rule: (rule.asked, rule.done) for rule in found if not rule.kept}
    assert broken == {
        "model": ("llama3.1-8b", "tiny-1b"), "users": ("200", "7"), "seed": ("42", "1"),
        "gpu memory": ("0 B", "1.00 GiB"), "cpu memory": ("0 B", "1.00 GiB"),
        "generation": ("none", "fast"), "trials": ("3", "1"), "duration": ("300 s", "10 s"),
        "concurrent allocations": ("16", "no limit of its own"),
    }  # fmt: skip
    of_all = list(rules.of_sequence(rules.Conditions(90 * S_NS, preconditioned=True)))
    assert [rule.rule for rule in of_all if not rule.kept] == ["program"]


REFUSED = {
    "endless": ((), "--set tiers.nvme.capacity"),
    "nothing read": (
        ("--set", "tiers.nvme.capacity=2GiB", "--set", "requests=3", "--set", "source.users=1",
         "--set", "source.max_context_tokens=1024"),
        "option 2 (mlperf-storage-8b-cpu4): would never read from tier nvme",
    ),
    "delay": ((*SETS, "--option-delay", "soon"), "not a duration"),
    "nothing to precondition": ((*SETS, "--precondition"), "--precondition: needs --device"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_end_it_later_is_refused_at_once(
    tmp_path: Path, cli: Callable[..., Outcome], words: tuple[str, ...], message: str
) -> None:
    """Exit 2 and no folder."""
    ended = cli("bench", "mlperf-storage", "--folder", tmp_path / "s", *words, *NULL)
    assert ended.code == 2
    assert message in ended.error
    assert not list(tmp_path.iterdir())


def test_a_device_too_small_for_a_later_option_is_refused_before_the_first(
    tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    """Option 3 of these bounds needs the most: exit 4 with its figures, no folder and no file."""
    place = tmp_path / "s"
    bounds = ("tiers.nvme.capacity=64GiB", "tiers.cpu.capacity=256MiB", "requests=40",
              "source.users=6", "source.max_context_tokens=512")  # fmt: skip
    sets = [word for text in bounds for word in ("--set", text)]
    device = ("--device", tmp_path / "kv.dat", "--mode", "max")
    needed = []
    for size in ("128MiB", "1200MiB"):
        words = (*sets, *device, "--size", size)
        ended = cli("bench", "mlperf-storage", "--folder", place, *words)
        assert ended.code == 4, ended.error
        assert "the target is smaller than the trace needs" in ended.error
        needed.append(ended.error.partition("at least ")[2].partition(":")[0])
        assert not list(tmp_path.iterdir())
    assert needed[0] != needed[1], "the first is option 1's need, the second a later one's"


def test_settings_of_ones_own_are_a_rule(tmp_path: Path) -> None:
    """Whatever is set is named: nothing is, where only the rules' own seed is."""
    for settings, done in (((), "none"), (("seed",), "none"), (("seed", "a.b", "c"), "a.b, c")):
        conditions = rules.Conditions(0, preconditioned=True, settings=settings)
        [rule] = [r for r in rules.of_sequence(conditions) if r.rule == "settings of one's own"]
        assert (rule.done, rule.kept) == (done, done == "none")
        assert bool(rule.why) == (not rule.kept)


def test_the_rules_name_of_a_model_is_asked_for() -> None:
    """Option 3 asks for llama3.1-70b-instruct; the preset's model has the same cache."""
    config = load_config(None, {"seed": 42}, preset=rules.OPTIONS[2].preset)
    [rule] = [
        rule for rule in rules.of_option(rules.OPTIONS[2], config.model_dump(mode="json"), [300.0])
        if rule.rule == "model"
    ]  # fmt: skip
    assert (rule.asked, rule.kept) == ("llama3.1-70b-instruct", True)


def test_a_delay_is_of_the_sequence_only(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """One preset has no options to wait between."""
    ended = cli("bench", "mlperf-storage-8b", "--folder", tmp_path / "b", "--option-delay", "1s",
                *NULL)  # fmt: skip
    assert ended.code == 2
    assert "--option-delay" in ended.error
    assert folder.is_suite(tmp_path) is False
