"""`kvtrace bench`: trials, the folder that they leave, and what its verification finds."""

from __future__ import annotations

import importlib.util
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from replay.compare.document import ComparisonDocument
from replay.compare.folder import CHECKSUMS, verify, write_checksums
from tests.support.browser import opened, undrawn
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

pytestmark = pytest.mark.slow
NULL = ("--target", "null", "--mode", "max", "--accept", "short_window", "--accept",
        "host_lateness")  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three trials, made once."""
    place = tmp_path_factory.mktemp("bench")
    trace = write_trace(place / "t.parquet", simple_rows(8))
    monkeypatch = pytest.MonkeyPatch()
    try:
        words = ("bench", "--trace", trace, "--folder", place / "b", "--trials", 3,
                 "--min-window", "0s", *NULL)  # fmt: skip
        monkeypatch.setattr("sys.argv", ["kvtrace", *map(str, words)])
        from kvtrace.cli.main import main

        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
    finally:
        monkeypatch.undo()
    return place / "b"


@pytest.fixture
def copy(bench: Path, tmp_path: Path) -> Path:
    """A copy that may be tampered with."""
    return shutil.copytree(bench, tmp_path / "copy")


def problems(folder: Path) -> list[str]:
    """Return what verification finds."""
    return [found.problem for found in verify(folder) if found.problem is not None]


def test_the_folder_has_everything(bench: Path) -> None:
    """Trace, results, trials together, system, commands, checksums: and it verifies."""
    names = {str(path.relative_to(bench)) for path in bench.rglob("*") if path.is_file()}
    forms = ("results/trial-{}.json", "results/trial-{}.html", "results/trial-{}.xlsx",
             "results/trial-{}.txt", "mlperf/trial-{}.mlperf.json")  # fmt: skip
    trials = {form.format(f"{n:02d}") for n in (1, 2, 3) for form in forms}
    assert names == trials | {
        "trace/trace.parquet", "bench.json", "bench.html", "bench.xlsx", "system.json",
        "commands.log", "checksums.sha256",
    }  # fmt: skip
    found = ComparisonDocument.model_validate_json((bench / "bench.json").read_bytes())
    assert len(found.sides[0].trials) == 3
    throughput = next(figure for figure in found.figures if figure.name == "throughput")
    assert throughput.sides[0] is not None
    assert throughput.sides[0].count == 3
    assert throughput.sides[0].ci95 is not None
    log = (bench / "commands.log").read_text().splitlines()
    assert [line.split()[2] for line in log[1:4]] == ["replay"] * 3
    assert problems(bench) == []


def test_a_trial_that_will_be_invalid_again_ends_the_bench(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """One trial of five was run; reason and remedy are said, and the folder's name is free."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(8))
    folder = tmp_path / "b"
    for number in (1, 2):
        ended = cli("bench", "--trace", trace, "--folder", folder, "--target", "null", "--mode",
                    "max")  # fmt: skip
        kept = tmp_path / f"b.stopped-{number}"
        assert ended.code == 5
        assert "stopped after trial 1" in ended.err
        assert "short_window" in ended.err
        assert "--run-time with --loop" in ended.err
        assert f"results so far: {kept}" in ended.err
        assert [path.name for path in (kept / "results").glob("*.json")] == ["trial-01.json"]
        assert not folder.exists()


def test_what_is_wrong_is_found_before_anything_is_recorded(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """A target that is refused, one that is too small: no folder, nothing recorded."""
    other = tmp_path / "other"
    other.write_bytes(b"data" * 4096)
    small = ["--set", "source.users=2", "--set", "duration=20s"]
    ended = cli("bench", "agentic-coding", *small, "--folder", tmp_path / "b", "--device", other)
    assert ended.code == 4
    assert "recording" not in ended.err
    trace = write_trace(tmp_path / "t.parquet", simple_rows(8, size=64 << 20))
    ended = cli("bench", "--trace", trace, "--folder", tmp_path / "b", "--device",
                tmp_path / "new", "--size", "16MiB")  # fmt: skip
    assert ended.code == 4
    assert "smaller than the trace needs" in ended.err
    assert not (tmp_path / "b").exists()
    assert other.read_bytes() == b"data" * 4096


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("results/trial-02.json", b"x", "trial-02.json has other contents"),
        ("trace/trace.parquet", None, "trace.parquet is gone"),
        ("results/more.json", b"{}", "more.json was added"),
        ("system.json", None, "system.json is"),
    ],
)
def test_a_changed_folder_is_found_out(
    copy: Path,
    cli: Callable[..., Outcome],
    name: str,
    change: bytes | None,
    problem: str,
) -> None:
    """Changed, removed, added: exit 3, and the file by name."""
    path = copy / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes((path.read_bytes() if path.exists() else b"") + change)
    found = cli("bench", "--check", copy)
    assert found.code == 3
    assert problem in found.out


@pytest.mark.parametrize("gone", [False, True])
def test_what_mlperfs_tools_read_is_what_the_trials_say(copy: Path, gone: bool) -> None:
    """Whoever edits it and the checksums is found out by the results."""
    path = copy / "mlperf/trial-02.mlperf.json"
    found = json.loads(path.read_text())
    found["summary"]["cache_stats"]["tier_storage_read_bandwidth_gbps"] = 99.0
    path.write_text(json.dumps(found))
    if gone:
        path.unlink()
    (copy / CHECKSUMS).unlink()
    write_checksums(copy)
    expected = "is missing" if gone else "says something else than trial-02.json"
    assert problems(copy) == [f"trial-02.mlperf.json {expected}"]


def test_figures_that_the_trials_do_not_say_are_found_out(copy: Path) -> None:
    """Whoever edits bench.json and the checksums is found out by the results."""
    found = json.loads((copy / "bench.json").read_text())
    found["figures"][0]["sides"][0]["mean"] *= 2
    (copy / "bench.json").write_text(json.dumps(found))
    (copy / CHECKSUMS).unlink()
    write_checksums(copy)
    assert len(problems(copy)) == 1
    assert found["figures"][0]["name"] in problems(copy)[0]


def test_a_folder_of_an_older_version_still_verifies(copy: Path) -> None:
    """Version 1 has no sentences, facts or trials' values, and other intervals."""
    found = json.loads((copy / "bench.json").read_text())
    found["schema_version"] = 1
    for name in ("headline", "facts"):
        del found[name]
    for side in found["sides"]:
        for trial in side["trials"]:
            del trial["reason_details"]
    for figure in found["figures"]:
        for spread in figure["sides"]:
            del spread["values"], spread["few_samples"]
            spread["ci95"] = [0.0, 1.0]
    (copy / "bench.json").write_text(json.dumps(found))
    (copy / CHECKSUMS).unlink()
    write_checksums(copy)
    assert problems(copy) == []


def test_another_trace_and_an_invalid_trial_are_found_out(copy: Path) -> None:
    """Results must be of the trace that is handed in, and VALID."""
    write_trace(copy / "trace/trace.parquet", simple_rows(9))
    result = copy / "results/trial-01.json"
    document = json.loads(result.read_text()) | {"verdict": "INVALID"}
    reason = {"code": "short_window", "figure": "it lasted 3 s", "remedy": "lengthen it"}
    document["reasons"] = [reason | {"accepted": False}]
    result.write_text(json.dumps(document))
    (copy / CHECKSUMS).unlink()
    write_checksums(copy)
    said = "; ".join(problems(copy))
    assert "is of another trace" in said
    assert "trial-01.json is INVALID; short_window: it lasted 3 s → lengthen it" in said


def test_wrong_use_makes_nothing(cli: Callable[..., Outcome], tmp_path: Path, bench: Path) -> None:
    """Each is refused with exit 2 or 4 and one line, before a folder is made."""
    trace, new = bench / "trace/trace.parquet", tmp_path / "new"
    ours, null = ("bench", "--trace", trace, "--folder", new), ("--target", "null")
    for words, code, message in (
        (("bench", "--folder", new), 2, "name a preset"),
        (("bench", "mlperf-storage-8b", "--trace", trace, "--folder", new), 2, "not both"),
        (("bench", "--trace", trace), 2, "--folder: is needed"),
        (("bench", "mlperf", "--folder", new, "--target", "null"), 2, "mlperf-storage-8b"),
        ((*ours, "--target", "null", "--report", "x.json"), 2, "--report: is set by the bench"),
        ((*ours, "--target", "null", "--out", "x.parquet"), 2, "--out: is set by the bench"),
        ((*ours, "--target", "null", "--set", "seed=1"), 2, "--set: sets options of a preset"),
        ((*ours, "--queue-depth"), 2, "options of the replay: Option '--queue-depth'"),
        ((*ours, "--target", "null", "--precondition"), 2, "--precondition: needs --device"),
        (("bench", "--trace", tmp_path / "none", "--folder", new, *null), 3, "none"),
        (("bench", "--trace", trace, "--folder", bench, *null), 2, "holds an input"),
        (("bench", "mlperf-storage-8b", "--folder", bench, "--target", "null"), 4, "isn't empty"),
        (("bench", "--check", tmp_path), 3, "has no checksums.sha256"),
    ):
        found = cli(*words)
        assert found.code == code, (words, found.err)
        assert message in found.error
        assert not new.exists()


def test_a_missing_package_is_said_before_anything_is_made(
    cli: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bench: Path,
) -> None:
    """Exit 4, with what to install: no trace is recorded for trials that can't be reported."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "xlsxwriter" else real(name)
    )
    words = ("--trace", bench / "trace/trace.parquet", "--folder", tmp_path / "new")
    found = cli("bench", *words, "--target", "null")
    assert found.code == 4
    assert "pip install kvtrace[report]" in found.error
    assert not (tmp_path / "new").exists()


def test_an_unknown_option_is_named(cli: Callable[..., Outcome]) -> None:
    """Options that neither the bench nor a replay has are no replay's."""
    found = cli("bench", "--folder", "x", "--devise", "y")
    assert found.code == 2
    assert "--devise" in found.err


def test_the_page_of_the_trials(bench: Path) -> None:
    """Sentence, facts and charts; the console is silent, a phone needs no scrolling sideways."""
    page = (bench / "bench.html").read_text()
    for word in ("Reads of tier nvme:", "queue depth", "What was measured", "dgen-py"):
        assert word in page
    with opened(bench / "bench.html", phone=True) as driver:
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
