"""Metrics for Prometheus: what is served, from when until when, and the file beside it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import replay
from kvtrace.cli import metrics as cli_metrics
from kvtrace.cli.metrics import Exposure, MetricsOptions, trial_words
from kvtrace.errors import TargetError, UsageError
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import MIB, MS_NS
from replay.metrics.prometheus import Ended, Metrics, MetricsPort, parse_address
from replay.metrics.textfile import MetricsFile
from tests.support import places
from tests.support.traces import simple_rows, write_trace
from tests.support.views import view

if TYPE_CHECKING:
    from collections.abc import Callable

    from replay.measure.live import Live
    from tests.support.command import Outcome

openmetrics = pytest.importorskip("prometheus_client.openmetrics.parser")
DASHBOARD = places.ROOT / "docs/grafana.json"
DEVICES = {Tier.CPU: "memory", Tier.NVME: "/dev/nvme1n1"}
QUICK = ("--arena", "16MiB", "--settle", "0s", "--min-window", "0s")
Samples = dict[str, dict[str, float]]


def metrics_of_a_run() -> Metrics:
    """Return the metrics of a run that hasn't begun."""
    return Metrics("run 1", "t.parquet", DEVICES)


def families(port: int) -> list[Any]:
    """Return what an independent parser finds on a port."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "openmetrics" in answer.headers["Content-Type"]
        text = answer.read().decode()
    return list(openmetrics.text_string_to_metric_families(text))


def scraped(port: int) -> Samples:
    """Return samples by name (and bucket, state, verdict, reason), per tier."""
    samples: Samples = {}
    for family in families(port):
        for sample in family.samples:
            words = [sample.labels.get(name, "") for name in ("le", "state", "verdict", "reason")]
            name = sample.name + "".join(words)
            samples.setdefault(name, {})[sample.labels.get("tier", "")] = sample.value
    return samples


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_metrics_are_openmetrics_in_base_units() -> None:
    """Counters, gauges in seconds and bytes, a cumulative histogram; unknown times are left out."""
    metrics = metrics_of_a_run()
    with MetricsPort(metrics, *parse_address("0")) as port:
        assert scraped(port.port) == {"kvtrace_statestarting": {"": 1}}
        metrics.look(view())
        found = scraped(port.port)
    assert found["kvtrace_elapsed_seconds"] == {"": 2.0}
    assert found["kvtrace_bytes_total"]["nvme"] == 5e9
    assert found["kvtrace_errors_total"]["nvme"] == 2
    assert found["kvtrace_bytes_per_second"] == {"nvme": 2.5e9, "cpu": 5e8}
    assert found["kvtrace_service_p99_seconds"] == {"nvme": pytest.approx(0.004)}
    assert found["kvtrace_lateness_max_seconds"] == {"nvme": pytest.approx(0.00002)}
    buckets = [found[f"kvtrace_service_seconds_bucket{edge}"]["nvme"]
               for edge in ("1e-06", "0.002", "0.005", "5.0", "10.0", "+Inf")]  # fmt: skip
    assert buckets == [1, 1, 2, 2, 3, 3]
    assert found["kvtrace_service_seconds_count"]["nvme"] == 3


@pytest.mark.slow
def test_all_series_name_run_trace_and_device() -> None:
    """Those of a tier the tier's device, the others all devices; states before and after too."""
    metrics = metrics_of_a_run()
    with MetricsPort(metrics, *parse_address("0")) as port:
        metrics.stage("populating", 10)
        metrics.look(view())
        metrics.finish(Ended("INVALID", ("short_window", "failed_ops")))
        found = families(port.port)
    samples = [sample for family in found for sample in family.samples]
    assert len(samples) > 50
    for sample in samples:
        assert (sample.labels["run"], sample.labels["trace"]) == ("run 1", "t.parquet")
        tier = sample.labels.get("tier")
        expected = {"nvme": "/dev/nvme1n1", "cpu": "memory", None: "memory,/dev/nvme1n1"}[tier]
        assert sample.labels["device"] == expected, sample.name


@pytest.mark.slow
def test_state_verdict_and_reasons() -> None:
    """The state is the phase that the run is in; how it ended stays, and the first end counts."""
    metrics = metrics_of_a_run()
    with MetricsPort(metrics, *parse_address("0")) as port:
        for stage in ("surveying", "populating", "replaying"):
            metrics.stage(stage, None)
            assert scraped(port.port) == {f"kvtrace_state{stage}": {"": 1}}
        metrics.finish(Ended("INVALID", ("short_window", "failed_ops")))
        metrics.finish(Ended(None))
        assert set(scraped(port.port)) == {
            "kvtrace_statedone",
            "kvtrace_verdictINVALID",
            "kvtrace_reasonshort_window",
            "kvtrace_reasonfailed_ops",
        }
    other = metrics_of_a_run()
    other.finish(Ended(None))
    assert b'state="failed"' in other.text()
    assert b"kvtrace_verdict" not in other.text()


@pytest.mark.slow
def test_counts_of_one_scrape_agree(tmp_path: Path) -> None:
    """While a run goes on: ops, the histogram's count and its last bucket are of one instant."""
    seen: list[str] = []
    rng = np.random.default_rng(1)

    class Scraping(Metrics):
        def look(self, live: Live) -> None:
            super().look(live)
            seen.append(self.text().decode())

    scraping = Scraping("r", "t", {Tier.NVME: "null"})
    rows = [
        (int(at), Op(int(op)), Tier.NVME, int(key), Phase.DECODE, 4096)
        for at, op, key in zip(
            np.sort(rng.integers(0, 2_500 * MS_NS, 4_000)),
            rng.choice([Op.READ, Op.WRITE, Op.LOOKUP], 4_000),
            rng.integers(0, 50, 4_000),
            strict=True,
        )
    ]
    trace = write_trace(tmp_path / "t.parquet", rows)
    options = replay.ReplayOptions(min_window_ns=0, arena_bytes=16 * MIB, settle_ns=0)
    targets = [replay.TargetSpec("null", (Tier.NVME,))]
    result = replay.run(trace, targets, options, watcher=scraping)
    assert len(seen) >= 2, "one while it ran, and the last"
    for text in seen:
        values = dict(re.findall(r"^(kvtrace_\w+)\{[^}]*\} (\S+)$", text, re.MULTILINE))
        assert float(values["kvtrace_ops_total"]) == float(values["kvtrace_service_seconds_count"])
    moved = sum(group.ops for group in result.groups if group.op in ("read", "write"))
    assert float(values["kvtrace_ops_total"]) == moved, "the last view has all"
    assert float(values["kvtrace_bytes_total"]) == result.bytes


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    """Every expression in docs/grafana.json is of what is served, and of its labels."""
    metrics = metrics_of_a_run()
    metrics.look(view())
    metrics.finish(Ended("VALID"))
    text = metrics.text().decode()
    known = set(re.findall(r"^(kvtrace_\w+)", text, re.MULTILINE))
    labels = set(re.findall(r'[{,](\w+)="', text))
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for t in targets for name in re.findall(r"kvtrace_\w+", t["expr"])}
    assert asked
    assert asked <= known
    for target in targets:
        assert 'run=~"$run"' in target["expr"], target["expr"]
        assert 'device=~"$device"' in target["expr"]
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named <= labels
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    for label in ("run", "device"):
        assert variables[label]["query"] == f"label_values(kvtrace_state, {label})"


def waiting(port: int, wanted: str, seconds: float = 30) -> Samples:
    """Return the first scrape that has `wanted`; what can't be had yet is asked for again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            found = scraped(port)
        except OSError:
            found = {}
        if wanted in found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {wanted} within {seconds} s")


def started(*words: object) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    command = [sys.executable, "-P", "-c", "from kvtrace.cli.main import main; main()"]
    return subprocess.Popen(
        [*command, *map(str, words)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_the_port_stays_for_a_last_scrape_and_a_signal_ends_that(tmp_path: Path) -> None:
    """Verdict, reasons and the last counts are there after the end; Ctrl-C keeps the exit code."""
    trace, port = write_trace(tmp_path / "t.parquet", simple_rows(20)), free_port()
    process = started("replay", trace, "--target", "null", "--arena", "16MiB",
                      "--metrics-port", port, "--metrics-hold", "300s")  # fmt: skip
    try:
        found = waiting(port, "kvtrace_verdictINVALID")
        assert found["kvtrace_statedone"] == {"": 1}
        assert "kvtrace_reasonshort_window" in found
        assert found["kvtrace_ops_total"]["nvme"] == 60
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 5
    assert time.monotonic() - began < 20
    assert out.startswith("INVALID"), "the report is printed before the wait"
    assert f"metrics stay on port {port} for 300.0 s; Ctrl-C ends it" in err


def test_holding_needs_a_port_and_a_length(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Refused before anything is opened."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(1))
    alone = cli("replay", trace, "--target", "null", "--metrics-hold", "30s")
    assert (alone.code, "needs --metrics-port" in alone.error) == (2, True)
    words = ("--metrics-port", 0, "--metrics-hold", "soon")
    wrong = cli("replay", trace, "--target", "null", *words)
    assert wrong.code == 2
    assert "--metrics-hold" in wrong.error


@pytest.mark.slow
def test_an_interrupted_run_isnt_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has pressed Ctrl-C wants an end; who hasn't gets the whole wait."""
    waited: list[float] = []

    class Waiting:
        def wait(self, seconds: float) -> None:
            waited.append(seconds)

    monkeypatch.setattr(cli_metrics, "threading", SimpleNamespace(Event=Waiting))
    asked = MetricsOptions("0", "7s", None, None)
    specs = [replay.TargetSpec("null", (Tier.NVME,))]
    for codes, expected in (((), [7.0]), (("interrupted",), [])):
        reasons = tuple(SimpleNamespace(code=code) for code in codes)
        result: Any = SimpleNamespace(verdict=SimpleNamespace(word="INVALID", reasons=reasons))
        waited.clear()
        with Exposure(asked, Path("t.parquet"), specs) as exposure:
            exposure.finish(result)
            exposure.hold()
        assert waited == expected


@pytest.mark.slow
def test_the_port_is_open_before_anything_is_checked(tmp_path: Path) -> None:
    """A trace that comes through a pipe and never begins: the state can be scraped already."""
    pipe, port = tmp_path / "t.parquet", free_port()
    os.mkfifo(pipe)
    process = started("replay", pipe, "--target", "null", "--metrics-port", port)
    try:
        assert waiting(port, "kvtrace_statestarting") == {"kvtrace_statestarting": {"": 1}}
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_run_tells_its_phases(
    cli: Callable[..., Outcome],
    tmp_path: Path,
    direct_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Survey, plan, populating, replay: each is a state, in that order."""
    states: list[str] = []
    real = Metrics.stage

    def noting(self: Metrics, name: str, total: int | None) -> None:
        real(self, name, total)
        states.append(re.findall(r'state="(.*?)"', self.text().decode())[0])

    monkeypatch.setattr(Metrics, "stage", noting)
    rows = [(0, Op.READ, Tier.NVME, 1, Phase.DECODE, 4096)]
    trace = write_trace(tmp_path / "t.parquet", rows, resident=[(Tier.NVME, 1, 4096)])
    found = cli("replay", trace, "--device", tmp_path / "target", *QUICK, "--metrics-port", 0)
    assert found.code in (0, 5), found.err
    phases = [
        each for each in states if each in ("surveying", "planning", "populating", "replaying")
    ]
    assert phases == ["surveying", "planning", "populating", "replaying"]


def test_the_file_has_what_the_port_has(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Whole at any time, in the text format; it stays, and the next run replaces it."""
    trace, path = write_trace(tmp_path / "t.parquet", simple_rows(5)), tmp_path / "kvtrace.prom"
    words = ("replay", trace, "--target", "null", *QUICK, "--metrics-textfile", path)
    for run in ("one", "two"):
        found = cli(*words, "--metrics-run", run)
        assert found.code in (0, 5), found.err
        text = path.read_text()
        assert text.startswith("# HELP kvtrace_state")
        assert "# EOF" not in text, "node_exporter reads the older format"
        assert (
            f'kvtrace_state{{device="null",run="{run}",state="done",trace="{trace}"}} 1.0' in text
        )
        assert (
            f'kvtrace_ops_total{{device="null",run="{run}",tier="nvme",trace="{trace}"}} 15.0'
            in text
        )
        assert re.search(r'kvtrace_verdict\{.*verdict="\w+"\} 1\.0', text)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


@pytest.mark.slow
def test_the_file_follows_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced, never written in place, whenever there is something new."""
    monkeypatch.setattr("replay.metrics.textfile.PERIOD_S", 0.01)
    metrics, path = metrics_of_a_run(), tmp_path / "m.prom"
    with MetricsFile(metrics, path, force=False):
        first = path.stat().st_ino
        assert 'state="starting"' in path.read_text()
        with path.open() as reading:
            metrics.stage("replaying", None)
            until = time.monotonic() + 10
            while path.stat().st_ino == first and time.monotonic() < until:
                time.sleep(0.01)
            assert 'state="starting"' in reading.read(), "who reads the old one reads it whole"
        assert 'state="replaying"' in path.read_text()
        with pytest.raises(TargetError, match="written by another process"):
            taken_elsewhere(path)
        metrics.finish(Ended("VALID"))
    assert 'verdict="VALID"' in path.read_text()


def taken_elsewhere(path: Path) -> None:
    """Open the same file from another process; raise what it says."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom replay.metrics.prometheus import Metrics\n"
        "from replay.metrics.textfile import MetricsFile\n"
        "with MetricsFile(Metrics('r', 't', {}), Path(sys.argv[1]), force=True): pass\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise TargetError(ended.stderr)


@pytest.mark.parametrize(
    ("content", "force", "refused"),
    [
        (b"mine", False, True),
        (b"mine", True, False),
        (b"# HELP kvtrace_state of before", False, False),
        (None, False, False),
    ],
)
def test_a_file_of_others_isnt_replaced(
    tmp_path: Path, content: bytes | None, force: bool, refused: bool
) -> None:
    """Without --force only a file of metrics of ours is."""
    path = tmp_path / "m.prom"
    if content is not None:
        path.write_bytes(content)
    if refused:
        with pytest.raises(TargetError, match="exists already"):
            MetricsFile(metrics_of_a_run(), path, force=force)
        assert path.read_bytes() == content
        return
    with MetricsFile(metrics_of_a_run(), path, force=force):
        pass
    assert path.read_bytes().startswith(b"# HELP kvtrace_state")


def test_a_file_that_wouldnt_be_read_is_refused(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """By its name, as an input, as another output, or in no folder."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(1))
    for path, code in ((tmp_path / "m.txt", 2), (trace, 2), (tmp_path / "none" / "m.prom", 4)):
        found = cli("replay", trace, "--target", "null", "--metrics-textfile", path)
        assert found.code == code, found.err
    same = tmp_path / "same.prom"
    found = cli("replay", trace, "--target", "null", "--metrics-textfile", same, "--out", same)
    assert found.code == 2
    assert not same.exists()


def test_a_full_disk_costs_the_file_not_the_result(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is written and printed; exit 4 says what couldn't be kept."""
    trace, report = write_trace(tmp_path / "t.parquet", simple_rows(5)), tmp_path / "r.json"
    real = Metrics.text

    def failing(self: Metrics) -> bytes:
        if b'state="done"' in real(self):
            raise OSError(28, "No space left on device")
        return real(self)

    monkeypatch.setattr(Metrics, "text", failing)
    found = cli("replay", trace, "--target", "null", *QUICK, "--report", report,
                "--metrics-textfile", tmp_path / "m.prom")  # fmt: skip
    assert found.code == 4
    assert "m.prom: can't write: No space left" in found.err
    assert json.loads(report.read_text())["ops"] == 20
    assert found.out.split()[0] in ("VALID", "INVALID")


def test_a_run_that_fails_says_so(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Its last state stays in the file, without a verdict."""
    path = tmp_path / "m.prom"
    found = cli("replay", tmp_path / "none.parquet", "--target", "null", "--metrics-textfile", path)
    assert found.code == 3
    assert 'state="failed"' in path.read_text()
    assert "verdict" not in path.read_text()


def test_trials_have_names_and_the_last_one_stays() -> None:
    """Of a bench: the hold is for its end; each trial's series are told apart."""
    words = ["--mode", "max", "--metrics-port=9400", "--metrics-hold", "30s"]
    assert trial_words(words, "b", 1, 2) == [
        "--mode", "max", "--metrics-port=9400", "--metrics-run", "b trial 1"
    ]  # fmt: skip
    assert trial_words(words, "b", 2, 2) == [
        "--mode", "max", "--metrics-port=9400", "--metrics-hold", "30s",
        "--metrics-run", "b trial 2",
    ]  # fmt: skip
    named = ["--metrics-textfile", "m.prom", "--metrics-run=night"]
    assert trial_words(named, "b", 3, 5)[-1] == "night trial 3"
    assert trial_words(["--mode", "max"], "b", 1, 2) == ["--mode", "max"]


@pytest.mark.slow
def test_a_bench_keeps_the_last_trials_metrics(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The file is of trial 2 at the end; holding costs its time once."""
    trace, path = write_trace(tmp_path / "t.parquet", simple_rows(10)), tmp_path / "m.prom"
    began = time.monotonic()
    found = cli("bench", "--trace", trace, "--trials", 2, "--folder", tmp_path / "b",
                "--target", "null", *QUICK, "--metrics-textfile", path, "--metrics-port", 0,
                "--metrics-hold", "1s")  # fmt: skip
    assert found.code in (0, 5), found.err
    assert 'run="b trial 2"' in path.read_text()
    assert time.monotonic() - began > 1


@pytest.mark.parametrize("text", ["", "x", "70000", "a:b", "-1"])
def test_a_bad_port_is_refused(text: str) -> None:
    """With what is accepted."""
    with pytest.raises(UsageError, match=r"--metrics-port.*accepted"):
        parse_address(text)


def test_addresses() -> None:
    """A port alone is on this machine only."""
    assert parse_address("9400") == ("127.0.0.1", 9400)
    assert parse_address("0.0.0.0:0") == ("0.0.0.0", 0)
    assert parse_address("[::1]:9400") == ("::1", 9400)


@pytest.mark.slow
def test_a_port_in_use_is_an_error_before_anything_runs(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Exit 4, in one line."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(1))
    with MetricsPort(metrics_of_a_run(), *parse_address("0")) as metrics:
        with (
            pytest.raises(TargetError, match="can't listen"),
            MetricsPort(metrics_of_a_run(), "127.0.0.1", metrics.port),
        ):
            pass
        found = cli("replay", trace, "--target", "null", "--metrics-port", metrics.port)
    assert found.code == 4
    assert "can't listen" in found.error
