"""LMCache, live: what is captured equals what LMCache, its status and the disk count."""

from __future__ import annotations

import errno
import hashlib
import json
import platform
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.capture.identity import Hasher
from kvtrace.capture.spool import UNKNOWN, Kind
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support import captures, lmcache_runs, places
from tests.support.command import kvtrace

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
DRIVER = places.ROOT / "tests" / "engines" / "lmcache_driver.py"
OBJECT_BYTES = 32768
SECRET = "an open secret of this test"


def adapter(inner: dict[str, Any], outer: dict[str, Any] | None = None, **params: Any) -> str:
    """Return the configuration string of a recorded adapter."""
    given = {"inner": inner, "out": "capture", "secret": SECRET} | params
    return json.dumps(
        {
            "type": "plugin",
            "module_path": "kvtrace.capture.lmcache",
            "class_name": "RecordingL2",
            "adapter_params": given,
        }
        | (outer or {})
    )


FILES = {"type": "fs", "base_path": "l2"}


def drive(folder: Path, string: str, *options: str, l1_gb: float = 0.015) -> dict[str, Any]:
    """Run 100 requests through a storage manager, and return what LMCache counts."""
    lines = [json.dumps(blocks) for blocks in lmcache_runs.conversations(100, seed=1)]
    (folder / "requests").write_text("\n".join(lines))
    command = [lmcache_runs.environment("lmcache") / "python", DRIVER, "--requests", "requests",
               "--l1-size-gb", l1_gb, "--eviction-policy", "LRU", "--l2-adapter", string,
               *options]  # fmt: skip
    counts: dict[str, Any] = json.loads(lmcache_runs.run(command, folder).splitlines()[-1])
    assert counts["bad"] == 0
    return counts


def files(folder: Path) -> list[int]:
    """Return the lengths of the files that LMCache's fs adapter keeps."""
    return [path.stat().st_size for path in (folder / "l2").rglob("*") if path.is_file()]


def test_the_storage_manager_with_files(tmp_path: Path) -> None:
    """Files, bytes, both usages, hits and look-ups are what was captured, exactly."""
    counts = drive(tmp_path, adapter(FILES, trace_calls=True))
    capture = lmcache_runs.captured(tmp_path / "capture")
    writes = capture.some(Tier.NVME, Op.WRITE)
    assert len(writes) == len(files(tmp_path)) > 500
    assert writes["size"].sum() == sum(files(tmp_path)) == counts["l2_usage"][0]
    assert len(np.unique(writes["key"])) == len(writes)
    check_hits(capture, counts)
    assert capture.some(Tier.CPU, Op.DELETE).size > 0
    # A restarted engine finds the files again, and loads them.
    counts = drive(tmp_path, adapter(FILES, trace_calls=True, out="again"))
    capture = lmcache_runs.captured(tmp_path / "again")
    assert counts["l2"] > 100
    check_hits(capture, counts)
    check_rows(capture)


def check_hits(capture: lmcache_runs.Captured, counts: dict[str, Any]) -> None:
    """Check the cpu tier, loads and look-ups against what LMCache counts."""
    stored, deleted = (capture.bytes(Tier.CPU, op) for op in (Op.WRITE, Op.DELETE))
    assert stored - deleted == counts["l1_usage"][0]
    assert len(capture.some(Tier.CPU, Op.READ)) == counts["hits"]
    assert len(capture.some(Tier.NVME, Op.READ)) == counts["l2"]
    assert len(capture.some(Tier.NVME, Op.LOOKUP, None)) == counts["asked"]
    prefill = capture.some(Tier.CPU, Op.WRITE)["phase"] == Phase.PREFILL
    assert np.count_nonzero(prefill) == counts["written"]
    assert capture.end["guarded_errors"] == {}
    assert capture.end["dropped_rows"] == capture.end["bus_dropped"] == counts["bus_dropped"] == 0


def check_rows(capture: lmcache_runs.Captured) -> None:
    """Check that rows are told by request, block and rank, and that no time runs backwards."""
    rows = capture.rows
    asked = rows["op"] != Op.DELETE
    assert np.all((rows["request"] != UNKNOWN) == asked)
    lookups, hashed = capture.some(Tier.NVME, Op.LOOKUP, None), Hasher(SECRET.encode())
    for number, blocks in enumerate(lmcache_runs.conversations(100, seed=1)):
        own = hashed(b"r", b"request-%d" % number)
        assert np.count_nonzero(lookups["request"] == own) == len(blocks), number
    assert np.all(rows["block"] != UNKNOWN)
    assert np.all(rows["rank"] == 0)
    assert np.all(rows["complete"] >= rows["submit"])
    bounds = np.flatnonzero(np.diff(rows["batch"], prepend=-1))
    assert np.all(rows["position"][bounds] == 0)
    # A promoted key is read after it was written: of each key its own pin counts.
    for key in np.unique(capture.some(Tier.NVME, Op.READ)["key"])[:50]:
        cpu = rows[(rows["key"] == key) & (rows["tier"] == Tier.CPU)]
        writes, reads = (cpu[cpu["op"] == op] for op in (Op.WRITE, Op.READ))
        assert reads["submit"].min() >= writes["complete"].min()


@pytest.mark.parametrize("options", [("--event-bus-queue-size", "3"), ("--disable-observability",)])
def test_without_a_bus_that_keeps_up(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Rows of L2 stay exact, and what the bus dropped is told; without a bus there is no L1."""
    counts = drive(tmp_path, adapter(FILES, trace_calls=True), *options)
    capture = lmcache_runs.captured(tmp_path / "capture")
    assert len(capture.some(Tier.NVME, Op.WRITE)) == len(files(tmp_path)) > 100
    assert len(capture.some(Tier.NVME, Op.LOOKUP, None)) == counts["asked"]
    (header,) = captures.documents(tmp_path / "capture", Kind.HEADER)
    if "--disable-observability" in options:
        assert header["not_visible"] == ["gpu tier", "cpu tier", "requests"]
        assert set(capture.rows["tier"].tolist()) == {Tier.NVME}
    else:
        assert header["not_visible"] == ["gpu tier"]
        assert capture.end["bus_dropped"] == counts["bus_dropped"] > 0
        assert len(capture.some(Tier.CPU, Op.READ)) < counts["hits"]
    assert capture.end["guarded_errors"] == {}


def test_refused_stores_and_evictions_below(tmp_path: Path) -> None:
    """Stores that the inner adapter skips are EEXIST; its evictions are deletes."""
    inner = {"type": "mock", "max_size_gb": 0.008, "mock_bandwidth_gb": 10}
    eviction = {"eviction_policy": "LRU", "trigger_watermark": 0.8, "eviction_ratio": 0.2}
    counts = drive(tmp_path, adapter(inner, {"eviction": eviction}))
    capture = lmcache_runs.captured(tmp_path / "capture")
    written, deleted = (len(capture.some(Tier.NVME, op)) for op in (Op.WRITE, Op.DELETE))
    refused = len(capture.some(Tier.NVME, Op.WRITE, errno.EEXIST))
    assert (written - deleted) * OBJECT_BYTES == counts["l2_usage"][0]
    assert deleted > 0
    assert refused > 0
    assert capture.end["guarded_errors"] == {}


def server_and_bench() -> tuple[list[Any], list[Any], str]:
    """Return commands of a recorded server and of LMCache's bench of it, and its address."""
    lmcache = lmcache_runs.environment("lmcache") / "lmcache"
    port, http = lmcache_runs.free_port(), lmcache_runs.free_port()
    url = f"http://127.0.0.1:{http}"
    server = [lmcache, "server", "--host", "127.0.0.1", "--port", port, "--http-host",
              "127.0.0.1", "--http-port", http, "--l1-size-gb", 0.008, "--eviction-policy", "LRU",
              "--chunk-size", 64, "--supported-transfer-mode", "auto",
              "--l2-adapter", adapter(FILES)]  # fmt: skip
    bench = [lmcache, "bench", "server", "--rpc-url", f"tcp://127.0.0.1:{port}", "--url", url,
             "--mode", "cpu", "--num-tokens", 512, "--start", 0, "--end", 10, "--interval", 0,
             "--kvcache-shape-spec", "(2,256,16,4,32):float16:4", "--num-blocks", 256,
             "--format", "json"]  # fmt: skip
    return server, bench, url


def test_a_killed_server(tmp_path: Path) -> None:
    """Of a server that is killed, everything that had ended a flush before is there."""
    server, bench, url = server_and_bench()
    with lmcache_runs.serving(server, tmp_path, f"{url}/status") as process:
        lmcache_runs.run(bench, tmp_path)
        settled(url)
        process.kill()
    rows = captures.records(tmp_path / "capture")
    writes = rows[(rows["tier"] == Tier.NVME) & (rows["op"] == Op.WRITE)]
    assert captures.documents(tmp_path / "capture", Kind.END) == []
    assert len(writes) == len(files(tmp_path)) > 30
    ended = kvtrace("import", tmp_path / "capture", tmp_path / "t.parquet")
    assert ended.code == 0
    with open_trace(tmp_path / "t.parquet") as trace:
        assert trace.header.capture is not None
        assert trace.header.capture.unfinished_processes == 1


def test_the_server(tmp_path: Path) -> None:
    """LMCache's server and its own bench, twice: files and /status agree with the capture."""
    server, bench, url = server_and_bench()
    with lmcache_runs.serving(server, tmp_path, f"{url}/status"):
        for _ in range(2):
            lmcache_runs.run(bench, tmp_path)
        status = settled(url)
    capture = lmcache_runs.captured(tmp_path / "capture")
    cpu = status["storage_manager"]["l1_managers"]["_default"]
    stored, deleted = (capture.some(Tier.CPU, op) for op in (Op.WRITE, Op.DELETE))
    assert len(files(tmp_path)) == len(capture.some(Tier.NVME, Op.WRITE)) > 30
    assert sum(files(tmp_path)) == capture.bytes(Tier.NVME, Op.WRITE)
    assert len(stored) - len(deleted) == cpu["total_object_count"]
    assert stored["size"].sum() - deleted["size"].sum() == cpu["memory_used_bytes"]
    assert len(deleted) > 0
    assert capture.end["guarded_errors"] == {}
    assert np.all(capture.rows["request"][capture.rows["op"] != Op.DELETE] != UNKNOWN)


def settled(url: str) -> Any:
    """Return the server's status once nothing is in flight."""
    before = None
    while (now := lmcache_runs.get(f"{url}/status")) != before:
        before = now
        time.sleep(1)
    return now


def test_the_bench_of_adapters(tmp_path: Path) -> None:
    """`lmcache bench l2` has no event bus: what it stores, looks up and loads is there."""
    lmcache = lmcache_runs.environment("lmcache") / "lmcache"
    lmcache_runs.run([lmcache, "bench", "l2", "--l2-adapter", adapter(FILES), "--num-keys", 16,
                 "--rounds", 4, "--warmup-rounds", 1, "--data-size-kb", 64,
                 "--lookup-max-hit-rate", 0.5, "--no-skip-verify"], tmp_path)  # fmt: skip
    capture = lmcache_runs.captured(tmp_path / "capture")
    assert len(capture.some(Tier.NVME, Op.WRITE)) == len(files(tmp_path)) == 5 * 16
    assert capture.bytes(Tier.NVME, Op.WRITE) == sum(files(tmp_path))
    assert len(capture.some(Tier.NVME, Op.READ)) > 0
    assert len(capture.some(Tier.NVME, Op.LOOKUP, None)) > 0
    assert len(capture.some(Tier.CPU, Op.WRITE)) == 0


def test_a_fault_in_any_hook_changes_nothing(tmp_path: Path) -> None:
    """With each hook raising, the engine's results are the bare adapter's; faults are counted."""
    python = lmcache_runs.environment("lmcache") / "python"
    program = places.ROOT / "tests" / "engines" / "lmcache_hooks_driver.py"
    results = json.loads(lmcache_runs.run([python, program, tmp_path], tmp_path).splitlines()[-1])
    assert len(results) == 26
    for hook, result in results.items():
        assert result["same"], hook
        assert result["exceptions"] == {}, hook
        assert bool(result["faults"]) == (hook != "none"), hook


def test_faults_everywhere_leave_a_whole_run_as_it_was(tmp_path: Path) -> None:
    """A run that stores, and one that loads all of it: with every hook raising, hits are equal."""
    (tmp_path / "faults.py").write_text(FAULTS)
    results: list[list[Any]] = []
    for name, string, options in (
        ("bare", json.dumps(FILES), ()),
        ("faulty", adapter(FILES, trace_calls=True), ("--before", "faults.py")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "faults.py").write_text(FAULTS)
        runs = [drive(folder, string, *options, l1_gb=0.2) for _ in range(2)]
        kept = ("asked", "hits", "written", "bad", "l1", "l2", "l2_usage")
        results.append([{key: run[key] for key in kept} for run in runs])
        results[-1].append(sorted(files(folder)))
    assert results[0] == results[1]
    assert results[0][1]["l2"] > 1000
    assert "kvtrace capture: a fault in " in (tmp_path / "faulty" / "stderr").read_text()


FAULTS = """
def before():
    from kvtrace.capture.recorder import Recorder
    def task(*_, **__):
        raise RuntimeError("injected")
    def defer(*_, **__):
        raise RuntimeError("injected")
    Recorder.task, Recorder.defer = task, defer
"""


def test_a_capture_tells_nothing_private(tmp_path: Path) -> None:
    """No model, hash of a block, request id, secret, path or host is in it, nor in its trace."""
    drive(tmp_path, adapter(FILES, trace_calls=True))
    assert kvtrace("import", tmp_path / "capture", tmp_path / "t.parquet").code == 0
    with open_trace(tmp_path / "t.parquet") as trace:
        rows = trace.lazy().collect()
        header = json.dumps(rows.schema, default=str).encode() + str(trace.header).encode()
    columns = b"".join(rows[name].to_physical().to_numpy().tobytes() for name in rows.columns)
    data = lmcache_runs.spool_bytes(tmp_path / "capture") + header + columns
    data += (tmp_path / "t.parquet").read_bytes()
    digest = hashlib.blake2b(b"0", digest_size=32).digest()
    names = ["meta-llama", "Llama-3.1", "request-", SECRET, str(tmp_path), "l2/"]
    names += [platform.node()] if len(platform.node()) > 4 else []
    assert len(data) > 100_000
    for private in (*map(str.encode, names), digest, digest[:8], digest.hex().encode()):
        assert private not in data, private


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"inner": FILES}, "parameter 'out' is missing"),
    ({"out": "capture"}, "parameter 'inner' is missing"),
    ({"out": "capture", "inner": FILES | {"eviction": {}}}, "eviction has no effect in 'inner'"),
    ({"out": "capture", "inner": FILES, "tier": "ssd"}, "'tier': got 'ssd'; accepted: gpu,"),
    ({"out": "/proc/capture", "inner": FILES}, "can't record in the folder /proc/capture"),
    ({"out": "capture", "inner": FILES, "outt": 1}, "unknown parameter 'outt'"),
]


def test_a_wrong_configuration_stops_the_start(tmp_path: Path) -> None:
    """The error says in one line what is wrong, and nothing is left running."""
    program = """if 1:
        import json, sys
        from kvtrace.capture.lmcache import RecordingL2
        for params in json.loads(sys.argv[1]):
            try:
                RecordingL2(params)
            except ValueError as error:
                print(error)
    """
    python = lmcache_runs.environment("lmcache") / "python"
    wrong = json.dumps([params for params, _ in WRONG])
    lines = lmcache_runs.run([python, "-c", program, wrong], tmp_path).splitlines()[-len(WRONG) :]
    for line, (_, message) in zip(lines, WRONG, strict=True):
        assert line.startswith("kvtrace capture: ")
        assert message in line


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    """An LMCache that the adapter isn't made for is told before anything of it is used."""
    program = (
        "import importlib.metadata as m; m.version = lambda name: '0.4.7';"
        "import kvtrace.capture.lmcache"
    )
    ended = subprocess.run(
        [lmcache_runs.environment("lmcache") / "python", "-c", program],
        cwd=tmp_path, env=lmcache_runs.variables(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = ended.stderr.splitlines()[-1]
    assert "LMCache 0.4.7 can't be recorded: accepted: 0.5 and newer, tested with 0.5.6" in last
