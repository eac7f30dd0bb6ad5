"""SGLang's storage back ends, recorded under its own cache controller."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.capture.spool import Kind
from kvtrace.trace.schema import Op, Tier
from tests.support import captures, engines

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = engines.needs(engines.VLLM)
MAX_BYTES = 16_000_000


class Run:
    """A run of the controller over files in a folder, recorded or not."""

    def __init__(
        self,
        folder: Path,
        *,
        inner: str = "file",
        record: bool = True,
        plan: Any = None,
        **extra: Any,
    ) -> None:
        self.stored, self.out = folder / "files", folder / "capture"
        document = {"inner": inner, "extra": {"file_storage_path": str(self.stored), **extra}}
        if record:
            document["capture"] = {"out": str(self.out), "secret": "one"}
        self.tier = Tier.OBJECT if inner == "mooncake" else Tier.NVME
        arguments = json.dumps(document | (plan or {}))
        before = ["unshare", "-n"] if inner == "mooncake" else []
        self.facts = engines.run(engines.VLLM, "sglang_drive.py", arguments, before=before)

    @property
    def files(self) -> set[str]:
        """Names of the pages' files."""
        return {path.name for path in self.stored.glob("*.bin")}

    def rows(self, op: Op, *, error: int = 0) -> np.ndarray:
        """Return the records of ops with an outcome."""
        every = captures.records(self.out)
        assert set(every["tier"].tolist()) == {self.tier}
        return every[(every["op"] == op) & (every["error"] == error)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("plain"), record=False)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("recorded"))


def test_writes_equal_the_files(recorded: Run) -> None:
    """A page that is stored again isn't a write: `file` skips it."""
    writes, skipped = recorded.rows(Op.WRITE), recorded.rows(Op.WRITE, error=errno.EEXIST)
    assert len(writes) == len(recorded.files) > 1000
    assert len(np.unique(writes["key"])) == len(writes)
    assert set(skipped["key"].tolist()) < set(writes["key"].tolist())
    assert writes["size"].sum() == sum(p.stat().st_size for p in recorded.stored.glob("*.bin"))


def test_reads_and_look_ups_equal_what_was_loaded(recorded: Run) -> None:
    """Each page that was loaded was looked up and read; each request ends at its first miss."""
    loaded = recorded.facts["loaded"]
    assert len(recorded.rows(Op.READ)) == len(recorded.rows(Op.LOOKUP)) == sum(loaded) > 1000
    assert len(recorded.rows(Op.LOOKUP, error=errno.ENOENT)) == len(loaded)
    assert set(recorded.rows(Op.READ)["size"].tolist()) == {recorded.facts["page_bytes"]}


def test_the_engine_serves_as_without_a_recording(plain: Run, recorded: Run) -> None:
    """The same pages are loaded, with their content, and the same files are left."""
    assert (recorded.facts, recorded.files) == (plain.facts, plain.files)
    assert recorded.facts["wrong"] == 0


def test_evictions_are_deletes(tmp_path: Path) -> None:
    """Writes less deletes are the files that are left, in number and bytes."""
    run = Run(tmp_path, max_size=MAX_BYTES)
    writes, deletes = run.rows(Op.WRITE), run.rows(Op.DELETE)
    assert len(deletes) > 100
    assert len(writes) - len(deletes) == len(run.files)
    assert set(deletes["key"].tolist()) <= set(writes["key"].tolist())
    assert writes["size"].sum() - deletes["size"].sum() <= MAX_BYTES


def test_the_zero_copy_calls_are_recorded(tmp_path: Path) -> None:
    """Of a back end that takes them, every page that it holds was written."""
    run = Run(tmp_path, inner="sim", plan={"zero_copy": True}, sim_op_latency_us=0)
    writes = run.rows(Op.WRITE)
    assert len(np.unique(writes["key"])) == run.facts["held"] > 1000
    assert set(writes["size"].tolist()) == {run.facts["page_bytes"]}
    assert len(run.rows(Op.READ)) == sum(run.facts["loaded"])


@pytest.mark.skipif(not engines.own_network(), reason="no network namespace can be made")
def test_mooncake_inside_is_recorded(tmp_path: Path) -> None:
    """Of each page that was written, the master saw two puts end: keys and values.

    Pages that are there are skipped by SGLang and reported as stored; they are EEXIST here.
    """
    store = {
        "local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE", "protocol": "tcp",
        "global_segment_size": 256 << 20, "master_server_address": "127.0.0.1:15051",
        "check_server": False,
    }  # fmt: skip
    plan = {"zero_copy": True, "mooncake": str(tmp_path)}
    run = Run(tmp_path, inner="mooncake", plan=plan, **store)
    assert run.facts["wrong"] == 0
    writes = run.rows(Op.WRITE)
    assert 2 * len(writes) == run.facts["counts"]["batch_put_end_items_total"] > 2000
    assert len(np.unique(writes["key"])) == len(writes)
    loaded = sum(run.facts["loaded"])
    assert len(run.rows(Op.WRITE, error=errno.EEXIST)) == loaded
    assert len(run.rows(Op.READ)) == len(run.rows(Op.LOOKUP)) == loaded > 1000


def test_nothing_tells_the_model(recorded: Run) -> None:
    """No file of the recording names the model, its path or the folder."""
    for path in recorded.out.iterdir():
        data = path.read_bytes()
        assert not [word for word in (b"private-model", b"owner", b"files") if word in data]


def test_faults_of_all_hooks_leave_the_engine_alone(tmp_path: Path, plain: Run) -> None:
    """Hooks that raise two times out of three change neither pages nor files, and are counted."""
    run = Run(tmp_path, plan={"faults": True})
    assert (run.facts, run.files) == (plain.facts, plain.files)
    (end,) = captures.documents(run.out, Kind.END)
    assert set(end["guarded_errors"]) >= {"batch_existed", "batch_got", "batch_was_set"}
