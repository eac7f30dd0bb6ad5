"""fio itself runs what was exported, and what it logs comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common import importing as importers
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.common.sidecar import map_path
from kvtrace.formats.fio import iolog as fiolog
from kvtrace.trace.check import check
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import MS_NS, S_NS
from tests.support import loops
from tests.support.making import Row, make, write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(shutil.which("fio") is None, reason="no fio here (make fio installs it)"),
    pytest.mark.slow,
]
SHORT = {"context_tokens": [32, 128], "generated_tokens": [20, 60], "think_s": [0.2, 0.6]}
"""A user who leaves the device idle: fio up to 3.35 is late by what each burst takes."""
SIDES = ("read", "write", "trim")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded trace of some seconds that moves a hundred MiB of nvme."""
    path = tmp_path_factory.mktemp("recorded") / "t.parquet"
    make(
        path,
        source__users=2,
        source__templates={"short": SHORT},
        duration="6s",
        block_tokens=16,
        tiers__gpu__capacity="1MiB",
        tiers__cpu__capacity="2MiB",
        tiers__nvme__capacity="32MiB",
    )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files take direct I/O, emptied afterwards."""
    try:
        os.close(os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no direct I/O in {tmp_path}: {error.strerror}")
    yield tmp_path
    for path in tmp_path.glob("*.dat"):
        path.unlink()


@dataclass(frozen=True)
class Run:
    """What fio reports of a job, all directions together."""

    job: Any

    def total(self, name: str) -> int:
        return sum(self.job[side][name] for side in SIDES)

    @property
    def counted(self) -> int:
        """How many ops have a latency."""
        return sum(self.job[side]["clat_ns"]["N"] for side in SIDES)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 128 MiB."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(128 << 20)
    attached = loops.attach(tmp_path / "disk")
    yield attached
    loops.detach(attached, tmp_path / "disk")


def fio(*arguments: object) -> Run:
    command = ["fio", "--output-format=json", *map(str, arguments)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return Run(json.loads(ended.stdout[ended.stdout.index("{") :])["jobs"][0])


def export(trace: Path, folder: Path, **options: Any) -> pl.DataFrame:
    """Export to folder/t.log for a file in it; return the map."""
    with open_trace(trace) as opened:
        if "device" not in options:
            options.setdefault("filename", str(folder / "kv.dat"))
        exporters.export(opened, folder / "t.log", "fio", ExportOptions(**options))
    return pl.read_parquet(map_path(folder / "t.log"))


def check_whole(run: Run, mapped: pl.DataFrame) -> None:
    """Fail unless fio did all of the export, and counted all it did."""
    assert run.job["error"] == 0
    assert run.total("total_ios") == len(mapped) == run.counted
    assert run.total("io_bytes") == mapped["bytes"].sum()
    assert run.total("short_ios") == run.total("drop_ios") == 0


def places_of(path: Path) -> pl.DataFrame:
    """Return a latency log's ops: direction, bytes, offset."""
    names = ["ms", "ns", "side", "bytes", "offset", "priority"]
    frame = pl.read_csv(path, has_header=False, new_columns=names)
    stripped = [pl.col(n).cast(pl.String).str.strip_chars().cast(pl.Int64) for n in names[:5]]
    return frame.select(stripped)


def ops_of(path: Path) -> pl.DataFrame:
    """Return an imported trace's ops, sizes and objects in order."""
    return pl.read_parquet(path).select(pl.col("op").cast(pl.String), "size", "key")


def test_fio_runs_a_recorded_trace_in_time(folder: Path, recorded: Path) -> None:
    """A timed run does every op of the export, loses none, and takes as long as the trace.

    What fio logs of it comes back as a trace with the same ops, sizes, order and extents. It logs
    in order of completion: one op at a time shows that of submission, too.
    """
    mapped = export(recorded, folder, queue_depth=1)
    assert len(mapped) > 300
    fio(folder / "t.fill.fio")
    log = folder / "back"
    jobs = (folder / "t.fio").read_text()
    (folder / "t.fio").write_text(f"{jobs}write_lat_log={log}\nlog_offset=1\n")
    lines = (folder / "t.log").read_text().splitlines()
    wanted_ns = int(lines[-1].split()[0]) * 1000
    stretches = []
    while len(stretches) < 3 and (not stretches or stretches[-1] > 0.05):  # others use it, too
        run = fio(folder / "t.fio")
        check_whole(run, mapped)
        stretches.append(run.job["job_runtime"] * MS_NS / wanted_ns - 1)
    assert -0.01 < stretches[-1] < 0.05, stretches
    done = places_of(folder / "back_lat.1.log")
    assert done["offset"].to_list() == mapped["offset"].to_list()
    importers.convert([folder / "back_lat.1.log"], folder / "result.parquet")
    importers.convert([folder / "t.log"], folder / "back.parquet")
    assert ops_of(folder / "result.parquet").equals(ops_of(folder / "back.parquet"))
    result = pl.read_parquet(folder / "result.parquet")
    assert (result["complete"] > result["submit"]).all()
    assert result["complete"].max() < wanted_ns + S_NS


def test_fio_runs_at_maximum_speed_and_loses_nothing(folder: Path, recorded: Path) -> None:
    """With ops side by side, too, fio counts all that it issues."""
    mapped = export(recorded, folder, no_stall=True, queue_depth=8)
    fio(folder / "t.fill.fio")
    run = fio(folder / "t.fio")
    check_whole(run, mapped)
    assert run.job["job_runtime"] * MS_NS < S_NS * 5


def test_fio_runs_pieces(folder: Path, recorded: Path) -> None:
    """Ops that were split are as many I/Os as the map has records."""
    mapped = export(recorded, folder, no_stall=True, io_size_bytes=65_536)
    fio(folder / "t.fill.fio")
    check_whole(fio(folder / "t.fio"), mapped)
    assert len(mapped) > mapped["key"].count() / 7


@pytest.mark.parametrize("no_stall", [True, False])
def test_fio_runs_it_on_a_device(
    folder: Path, device: Path, tmp_path: Path, no_stall: bool
) -> None:
    """On a device deletes are trims, as far as this version of fio runs them."""
    rows: list[Row] = []
    for turn in range(40):
        for op in (Op.WRITE, Op.READ, Op.DELETE):
            phase = Phase.DECODE
            rows.append((turn * 1_000_000, op, 65_536, Tier.NVME, turn % 3, phase))
    path = write_rows(tmp_path / "d.parquet", rows)
    mapped = export(path, folder, device=str(device), no_stall=no_stall)
    version = fiolog.installed_version()
    run = fio(folder / "t.fio")
    check_whole(run, mapped)
    assert run.job["trim"]["total_ios"] == (40 if fiolog.runs_trims(version) else 0)


def test_fio_guards_mounted_devices(folder: Path, device: Path, tmp_path: Path) -> None:
    """The job doesn't run on a device that is mounted."""
    made = subprocess.run(["mkfs.ext4", "-q", str(device)], capture_output=True, check=False)
    (tmp_path / "mounted").mkdir()
    command = ["mount", str(device), str(tmp_path / "mounted")]
    if made.returncode or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no mkfs.ext4, or mounting isn't allowed here")
    path = write_rows(tmp_path / "d.parquet", [(0, Op.WRITE, 512, Tier.NVME, 1, Phase.DECODE)])
    export(path, folder, device=str(device))
    try:
        command = ["fio", str(folder / "t.fio")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", str(tmp_path / "mounted")], check=True)
    assert "appears mounted" in ended.stderr  # and it ends with 0
    assert "WRITE:" not in ended.stdout


def test_fio_runs_a_file_per_key(folder: Path, recorded: Path) -> None:
    """With a file per key fio finds each by its name."""
    (folder / "kv").mkdir()
    options = {"filename": str(folder / "kv"), "file_per_key": True}
    mapped = export(recorded, folder, no_stall=True, queue_depth=1, **options)
    check_whole(fio(folder / "t.fio"), mapped)
    assert len(list((folder / "kv").iterdir())) == mapped["key"].n_unique()
    shutil.rmtree(folder / "kv")


def test_a_name_with_a_colon(folder: Path, recorded: Path) -> None:
    """Names of devices by path have colons, which a job file must escape."""
    mapped = export(recorded, folder, no_stall=True, filename=str(folder / "a:b.dat"))
    fio(folder / "t.fill.fio")
    check_whole(fio(folder / "t.fio"), mapped)
    assert (folder / "a:b.dat").exists()


def test_what_fio_wrote_comes_back(folder: Path) -> None:
    """A log by fio's write_iolog comes in, goes out and runs again: the same ops in order."""
    files = [folder / "one.dat", folder / "two.dat"]
    log = folder / "own.log"
    own = fio(
        "--name=own", f"--filename={files[0]}:{files[1]}", "--rw=randrw", "--bsrange=4k-64k",
        "--size=16m", "--io_size=8m", "--direct=1", "--ioengine=psync", f"--write_iolog={log}",
    )  # fmt: skip
    importers.convert([log], folder / "own.parquet")
    with open_trace(folder / "own.parquet") as trace:
        assert check(trace).ok
    text = [line.split() for line in log.read_text().splitlines()[1:]]
    ios = [line for line in text if len(line) == 5]
    rows = pl.read_parquet(folder / "own.parquet").with_columns(pl.col("op").cast(pl.String))
    assert own.total("total_ios") == len(rows) == len(ios)
    assert rows["op"].to_list() == [line[2] for line in ios]
    assert rows["size"].to_list() == [int(line[4]) for line in ios]
    places = [(line[1], int(line[3])) for line in ios]
    numbers = dict(zip(places, rows["key"].to_list(), strict=True))
    assert len(set(numbers.values())) == len(numbers)
    start_us = int(text[0][0])
    assert rows["timestamp"].to_list() == [(int(line[0]) - start_us) * 1000 for line in ios]
    mapped = export(folder / "own.parquet", folder, no_stall=True)
    fio(folder / "t.fill.fio")
    run = fio(folder / "t.fio")
    check_whole(run, mapped)
    assert run.total("io_bytes") == own.total("io_bytes")
