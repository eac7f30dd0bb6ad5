"""Results: every figure recomputed from the ops, files read back, damaged ones refused."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import replay
from kvtrace.cli.parsing import REPORT_HELP
from kvtrace.errors import TraceError, UsageError
from kvtrace.trace.schema import Tier
from replay import report as forms
from replay.result import stored
from replay.result.document import SCHEMA_VERSION, ResultDocument
from tests.support.making import make
from tests.support.recomputed import check_result
from tests.support.recomputed_requests import check_health, check_mlperf, check_requests
from tests.support.synthetic import constant, errors
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

_CHAT = {"context_tokens": [256, 512], "generated_tokens": [32, 64], "think_s": [0.1, 0.2]}
QUICK = ("--arena", "16MiB", "--settle", "0s", "--min-window", "0s")


@pytest.fixture
def ran(cli: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Path]:
    """Gives a function that records, replays on two tiers, and returns the result trace."""

    def run(*words: object) -> Path:
        trace, out = tmp_path / "t.parquet", tmp_path / "r.parquet"
        make(trace, duration="2s", source__users=12, source__templates={"chat": _CHAT},
             tiers__gpu__capacity=0, tiers__cpu__capacity="32MiB")  # fmt: skip
        targets = ("--cpu", "memory", "--device", tmp_path / "target", "--tiers", "cpu,nvme")
        found = cli("replay", trace, *targets, *QUICK, *words, "--out", out,
                    "--report", tmp_path / "r.json",
                    "--report", tmp_path / "r.mlperf.json")  # fmt: skip
        assert found.code in (0, 5), found.err
        return out

    return run


def ops_of(path: Path) -> pl.DataFrame:
    """Return a result trace's rows."""
    return pl.read_parquet(path).with_columns(pl.col("size").cast(pl.Int64))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["open", "closed", "max"])
def test_every_figure_is_that_of_the_ops(
    ran: Callable[..., Path], direct_path: Path, mode: str
) -> None:
    """Totals, lanes, groups, slices, distributions: an independent query finds the same."""
    out = ran("--mode", mode, "--speed", "4")
    found = json.loads(out.with_name("r.json").read_text())
    assert {lane["tier"] for lane in found["lanes"]} == {"cpu", "nvme"}
    ops = ops_of(out)
    if mode == "max":
        ops = ops.drop("due")
    check_result(found, ops)
    check_requests(found, ops)
    check_health(found, ops)
    theirs = json.loads(out.with_name("r.mlperf.json").read_text())
    check_mlperf(theirs, found, ops)


@pytest.mark.slow
def test_a_result_trace_carries_its_result_and_gives_it_again(
    ran: Callable[..., Path], direct_path: Path
) -> None:
    """Read from either file it is the same; computed again from the ops so are its figures."""
    out = ran("--speed", "4")
    whole = stored.load(out)
    assert whole == stored.load(out.with_name("r.json"))
    again = stored.load(out, from_ops=True)
    assert (again.kind, again.verdict) == ("ops", "UNJUDGED")
    for name in ("ops", "bytes", "window_s", "groups", "service_ns", "response_ns", "requests",
                 "storage_throughput_tokens_per_sec"):  # fmt: skip
        assert getattr(again, name) == getattr(whole, name), name
    found, ops = again.model_dump(mode="json"), ops_of(out)
    check_result(found, ops)
    check_requests(found, ops)
    check_health(found, ops)


@pytest.mark.parametrize("command", ["replay", "report"])
def test_help_names_all_forms(cli: Callable[..., Outcome], command: str) -> None:
    """What a report can be written to is said, and nothing else."""
    assert set(re.findall(r"\.[a-z.]+[a-z]\b", REPORT_HELP)) == set(forms.suffixes())
    text = " ".join(cli(command, "--help").out.replace("│", " ").split())
    assert "or .mlperf.json for the tools of MLPerf" in text


@pytest.fixture
def report(ran: Callable[..., Path], direct_path: Path) -> Path:
    """A JSON report."""
    return ran("--speed", "8").with_name("r.json")


def changed(path: Path, **fields: Any) -> Path:
    """Return a copy of a report with other fields."""
    copy = path.with_name(f"changed{len(list(path.parent.glob('changed*')))}.json")
    copy.write_text(json.dumps(json.loads(path.read_text()) | fields), "utf-8")
    return copy


@pytest.mark.slow
def test_bad_results_are_refused_with_what_to_do(report: Path, tmp_path: Path) -> None:
    """Cut off, of a newer or an older schema, with a key too many, another file, no outcomes."""
    cut = tmp_path / "cut.json"
    cut.write_bytes(report.read_bytes()[:1000])
    other = tmp_path / "other.json"
    other.write_text("[]")
    trace = tmp_path / "t.parquet"
    cut_trace = tmp_path / "cut.parquet"
    cut_trace.write_bytes(report.with_name("r.parquet").read_bytes()[:5000])
    cases = [
        (cut, "truncated.*copy it again"),
        (changed(report, schema_version=SCHEMA_VERSION + 1), "unknown schema.*update kvtrace"),
        (changed(report, schema_version=1), "unknown schema.*replay again"),
        (other, "not a result"),
        (tmp_path / "none.json", "can't read"),
        (trace, "has no column submit.*--out"),
        (cut_trace, "cut.parquet"),
    ]
    for path, message in cases:
        with pytest.raises(TraceError, match=message):
            stored.load(path)
    with pytest.raises(TraceError, match=r"not a complete result: wrong.*rewrite the report"):
        stored.load(changed(report, wrong=1))
    with pytest.raises(UsageError, match="has no ops"):
        stored.load(report, from_ops=True)


@pytest.mark.slow
def test_a_result_of_the_version_before_is_read(report: Path) -> None:
    """What it hasn't measured is unknown; its figure in tokens is of requests' own."""
    now = json.loads(report.read_text())
    old = {name: value for name, value in now.items() if name not in ("requests", "storage_health")}
    old |= {"schema_version": 2, "storage_throughput_tokens_per_sec": 1.0}
    old["trace"] = {name: value for name, value in now["trace"].items() if name != "whole"}
    for group in old["groups"]:
        del group["service_per_mib_distribution_ns"]
    path = report.with_name("old.json")
    path.write_text(json.dumps(old))
    found = stored.load(path)
    assert found.schema_version == SCHEMA_VERSION
    assert (found.requests, found.storage_health) == (None, None)
    theirs = now["storage_throughput_tokens_per_sec"]
    assert theirs == pytest.approx(found.storage_throughput_tokens_per_sec)
    part = report.with_name("part.json")
    part.write_text(json.dumps(old | {"trace": old["trace"] | {"rows_replayed": 1}}))
    assert stored.load(part).storage_throughput_tokens_per_sec is None


@pytest.mark.slow
def test_report_writes_what_is_asked_for(
    report: Path, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Prints the same as the run did; refuses to overwrite; --json prints the document."""
    again = tmp_path / "again.json"
    found = cli("report", report, "--report", again)
    assert found.code == 0
    assert found.out.splitlines()[0].split()[0] in ("VALID", "INVALID")
    assert all(len(line) <= 80 for line in found.out.splitlines())
    assert again.read_text() == report.read_text()
    assert cli("report", report, "--report", again).code == 4
    assert cli("report", report, "--report", again, "--force").code == 0
    assert cli("report", report, "--report", report, "--force").code == 2
    assert cli("report", report, "--report", tmp_path / "r.doc").code == 2
    printed = cli("report", report, "--json").out
    assert ResultDocument.model_validate_json(printed) == stored.load(report)


@pytest.mark.slow
def test_several_results_are_shown_under_their_names(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """In the order they are named, each as by itself; as JSON, a list; none if one is broken."""
    paths = [constant(tmp_path / "one.parquet"), errors(tmp_path / "other.parquet")]
    alone = [cli("report", path).out for path in paths]
    found = cli("report", *paths)
    assert found.code == 0, found.err
    _, *parts = re.split(r"^── (.*)\n", found.out, flags=re.MULTILINE)
    assert parts[::2] == [str(path) for path in paths]
    assert [part.strip("\n") for part in parts[1::2]] == [text.strip("\n") for text in alone]
    listed = json.loads(cli("report", *paths, "--json").out)
    assert [each["verdict"] for each in listed] == ["UNJUDGED", "INVALID"]
    broken = cli("report", *paths, tmp_path / "none.json")
    assert (broken.code, broken.out) == (3, "")


def test_a_report_file_is_of_one_result(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Several are refused with what to do; nothing is written."""
    path, page = constant(tmp_path / "one.parquet"), tmp_path / "r.csv"
    found = cli("report", path, path, "--report", page)
    assert found.code == 2
    assert "--report: is of one result: got 2 results; name one of them" in found.error
    assert f"side by side: kvtrace compare {path} {path}" in found.error
    assert not page.exists()


def test_the_api_gives_the_document(tmp_path: Path) -> None:
    """A notebook has it by one call."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows())
    result = replay.run(trace, [replay.TargetSpec("null", (Tier.NVME,))])
    assert result.document().ops == result.ops > 0


def test_a_form_whose_package_is_missing_is_refused_before_the_run(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit 4, with what to install; nothing has run, and nothing is there."""
    trace, page = write_trace(tmp_path / "t.parquet", simple_rows()), tmp_path / "r.html"
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "altair" else real(name)
    )
    found = cli("replay", trace, "--target", "null", "--report", page)
    assert found.code == 4
    assert "pip install kvtrace[report]" in found.error
    assert not page.exists()
