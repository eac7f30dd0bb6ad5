"""vLLM's tiers, recorded while they serve: every count equals what the engine says and left."""

from __future__ import annotations

import errno
import json
import signal
import socket
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.capture import spool
from kvtrace.capture.events import text_of
from kvtrace.capture.spool import Kind
from kvtrace.formats.common.importing import ImportOptions, convert
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support import captures, engines, processes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = engines.needs(engines.VLLM)
REQUESTS, CPU_BYTES = 30, 12_000_000
"""Prompts, sent twice, and a CPU tier that holds a third of their blocks."""
SECRET = "a-secret-of-these-tests"


class Run:
    """A run of vLLM over files in a folder, recorded or not."""

    def __init__(self, folder: Path, model: Path, *, spec: str = "HostSpec", **plan: Any) -> None:
        self.folder, self.out = folder, folder / "capture"
        files = {"type": "fs", "root_dir": str(folder / "files"), "enable_kv_events": True}
        capture = {"out": str(self.out), "secret": SECRET}
        extra: dict[str, Any] = {
            "cpu_bytes_to_use": CPU_BYTES, "spec_name": spec, "spec_module_path": "vllm_host",
            "self_describing_kv_events": True, "secondary_tiers": [files],
        }  # fmt: skip
        if spec == "HostRecordingSpec":
            extra["capture"] = capture
        elif plan.pop("tier", False):
            extra["secondary_tiers"] = [
                {"type": "RecordingTier", "module_path": "kvtrace.capture.vllm", "inner": files,
                 "capture": capture}
            ]  # fmt: skip
        plan |= {"model": str(model), "extra": extra, "requests": REQUESTS}
        self.facts = engines.run(engines.VLLM, "vllm_drive.py", json.dumps(plan))

    @property
    def files(self) -> set[str]:
        """Names of the blocks' files, which are their hashes."""
        return {path.name for path in (self.folder / "files").rglob("*.bin")}

    def rows(self, op: Op, tier: Tier, *, error: int = 0) -> np.ndarray:
        """Return the records of ops with an outcome."""
        every = captures.records(self.out)
        return every[(every["op"] == op) & (every["tier"] == tier) & (every["error"] == error)]

    def end(self) -> dict[str, Any]:
        """Return the END frame."""
        (end,) = captures.documents(self.out, Kind.END)
        return end

    def counted(self, name: str) -> float:
        """Return a count of vLLM's own metrics, 0 if it never counted."""
        value: float = self.facts["metrics"].get(name, 0)
        return value


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    engines.run(engines.VLLM, "vllm_tiny.py", str(folder))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Run:
    return Run(tmp_path_factory.mktemp("plain"), model)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Run:
    """A run whose tiers are recorded, and whose events are by a subscriber beside it."""
    folder = tmp_path_factory.mktemp("recorded")
    secret, address = folder / "secret", free_address()
    secret.write_text(SECRET)
    words = ("--endpoint", address, "--out", folder / "events", "--secret-file", secret)
    subscriber = processes.start("capture", "kv-events", *words)
    run = Run(folder, model, spec="HostRecordingSpec", events=address)
    subscriber.send_signal(signal.SIGINT)
    printed, errors = subscriber.communicate(timeout=30)
    assert (subscriber.returncode, errors) == (0, ""), printed
    return run


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_stores_equal_the_files(recorded: Run) -> None:
    """Each file of a block is one write of it, of a chunk's bytes."""
    writes = recorded.rows(Op.WRITE, Tier.NVME)
    assert len(writes) == len(recorded.files) > 100
    assert set(writes["size"].tolist()) == {recorded.facts["chunk_bytes"]}
    assert len(np.unique(writes["key"])) == len(writes)
    assert writes["size"].sum() <= recorded.counted("write_bytes 1:fs")


def test_the_cpu_tier_holds_what_was_written_and_not_deleted(recorded: Run) -> None:
    """Writes less deletes are the chunks that the manager holds; some were evicted."""
    writes, deletes = recorded.rows(Op.WRITE, Tier.CPU), recorded.rows(Op.DELETE, Tier.CPU)
    assert len(deletes) > 0
    assert len(writes) - len(deletes) == recorded.facts["held"]


def test_promotions_are_reads_below_and_writes_into_the_cpu(recorded: Run) -> None:
    """What was read from files was written to the CPU tier: vLLM's count of bytes agrees."""
    reads, writes = recorded.rows(Op.READ, Tier.NVME), recorded.rows(Op.WRITE, Tier.CPU)
    promoted = writes[writes["phase"] == Phase.PROMOTE]
    assert len(reads) == len(promoted) > 0
    assert reads["size"].sum() == recorded.counted("read_bytes 1:fs")
    assert set(reads["phase"].tolist()) == {Phase.DECODE}
    assert set(reads["key"].tolist()) == set(promoted["key"].tolist())


@pytest.mark.parametrize(("tier", "label"), [(Tier.CPU, "0:primary"), (Tier.NVME, "1:fs")])
def test_look_ups_equal_the_metrics(recorded: Run, tier: Tier, label: str) -> None:
    """A look-up is one row however often the scheduler repeats it, as vLLM counts it."""
    hits, misses = recorded.rows(Op.LOOKUP, tier), recorded.rows(Op.LOOKUP, tier, error=2)
    assert len(hits) == recorded.counted(f"chunk_hits {label}") > 0
    assert len(hits) + len(misses) == recorded.counted(f"chunk_queries {label}")


def test_kv_events_of_the_run_tell_the_same(recorded: Run) -> None:
    """The second witness: what the engine published of its tiers equals the rows, block by block.

    It publishes a store of a file that was there as any other; the rows tell the two apart.
    """
    (end,) = captures.documents(recorded.folder / "events", Kind.END)
    told = end["events"]
    assert (end["batches_missed"], end["unreadable_messages"]) == (0, 0)
    skipped = recorded.rows(Op.WRITE, Tier.NVME, error=errno.EEXIST)
    written = recorded.rows(Op.WRITE, Tier.NVME)
    assert told["BlockStored STORAGE"] == len(written) + len(skipped)
    assert set(skipped["key"].tolist()) <= set(written["key"].tolist())
    assert told["BlockStored CPU"] == len(recorded.rows(Op.WRITE, Tier.CPU))
    assert told["BlockRemoved CPU"] == len(recorded.rows(Op.DELETE, Tier.CPU))
    blocks = {
        block
        for frame in captures.frames(recorded.folder / "events", Kind.EVENTS)
        for line in text_of(frame.payload).splitlines()
        for event in json.loads(line)["events"] if event.get("medium") == "GPU"
        for block in event["blocks"]
    }  # fmt: skip
    assert set(captures.records(recorded.out)["block"].tolist()) <= blocks


def test_both_recordings_are_one_trace(recorded: Run) -> None:
    """Rows of the GPU's cache join those of the tiers below by block; nothing is out of order."""
    folder = recorded.folder / "both"
    folder.mkdir()
    for path in [*recorded.out.iterdir(), *(recorded.folder / "events").iterdir()]:
        (folder / path.name).hardlink_to(path)
    out = recorded.folder / "t.parquet"
    size = recorded.facts["chunk_bytes"]
    convert([folder], out, options=ImportOptions(block_size_bytes=size))
    with open_trace(out) as trace:
        assert check(trace).ok
        rows = trace.lazy().collect()
    on_gpu = rows.filter(rows["tier"] == "gpu")
    written = on_gpu.filter(on_gpu["op"] == "write")
    assert len(written) > 300
    assert set(rows["block"]) == set(written["block"])
    assert {"cpu", "nvme"} < set(rows["tier"])


def test_nothing_private_is_written(recorded: Run, model: Path) -> None:
    """Neither spool nor trace has prompts, the model's path, names of files or the secret."""
    spools = [*recorded.out.iterdir(), *(recorded.folder / "events").iterdir()]
    data = [path.read_bytes() for path in [*spools, *recorded.folder.glob("*.parquet")]]
    for path in spools:
        for frame in spool.frames(path):
            assert isinstance(frame, spool.Frame)
            if frame.kind in (Kind.ROWS, Kind.EVENTS):
                data.append(zlib.decompress(frame.payload))
    prompt = recorded.facts["prompt"][:8]
    private = [
        ",".join(map(str, prompt)).encode(), ", ".join(map(str, prompt)).encode(),
        np.array(prompt, "<i4").tobytes(), np.array(prompt, "<i8").tobytes(),
        str(model).encode(), SECRET.encode(), b"token_ids", b".bin",
    ]  # fmt: skip
    assert not [word for word in private for one in data if word in one]


def test_every_row_has_its_request_and_a_time(recorded: Run) -> None:
    """Two passes are twice as many requests; nothing ends before it begins."""
    rows = captures.records(recorded.out)
    assert len(np.unique(rows["request"])) == 2 * REQUESTS
    assert (rows["complete"] >= rows["submit"]).all()


def test_the_end_says_that_nothing_was_lost(recorded: Run) -> None:
    """No row was dropped and no hook failed."""
    end = recorded.end()
    assert end["final"]
    assert (end["dropped_rows"], end["write_errors"], end["guarded_errors"]) == (0, 0, {})
    assert end["rows"] == len(captures.records(recorded.out))
    assert end["fs_lookups_unanswered"] > 0


def test_the_engine_answers_as_without_a_recording(plain: Run, recorded: Run) -> None:
    """Both passes of both runs generate the same tokens and leave the same blocks."""
    first, second = recorded.facts["outputs"]
    assert first == second == plain.facts["outputs"][0] == plain.facts["outputs"][1]
    assert recorded.files == plain.files
    assert recorded.facts["cached"][1] > recorded.facts["cached"][0]


def test_a_tier_alone_is_recorded(
    tmp_path_factory: pytest.TempPathFactory, model: Path, plain: Run
) -> None:
    """The class of one tier records that tier; vLLM's metrics keep the inner tier's name."""
    run = Run(tmp_path_factory.mktemp("tier"), model, tier=True)
    assert len(run.rows(Op.WRITE, Tier.NVME)) == len(run.files) > 100
    assert len(run.rows(Op.READ, Tier.NVME)) * run.facts["chunk_bytes"] == run.counted(
        "read_bytes 1:fs"
    )
    assert set(captures.records(run.out)["tier"].tolist()) == {Tier.NVME}
    assert run.facts["outputs"] == plain.facts["outputs"]


def test_faults_of_all_hooks_leave_the_engine_alone(
    tmp_path_factory: pytest.TempPathFactory, model: Path, plain: Run
) -> None:
    """Hooks that raise two times out of three change no token and no file, and are counted."""
    run = Run(tmp_path_factory.mktemp("faults"), model, spec="HostRecordingSpec", faults=True)
    assert run.facts["outputs"] == plain.facts["outputs"]
    assert run.files == plain.files
    raised = set(run.end()["guarded_errors"])
    assert raised >= {
        "looked", "submitted", "finished", "scheduled", "preempted", "request_finished",
        "store_prepared", "store_completed", "promotion_prepared", "promotion_completed",
        "load_prepared", "load_completed",
    }  # fmt: skip
