"""The jobs in docs/jobs: each is run as a user would, on small devices and for seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import openpyxl
import polars as pl
import pytest

from tests.support import places

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow
JOBS = places.ROOT / "docs/jobs"
GIB = 1 << 30


def job(name: str, *words: object, **settings: str) -> str:
    """Run a job; return what it printed. Asserts that it ended well."""
    environment = os.environ | settings
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ended = subprocess.run(
        ["sh", str(JOBS / name), *map(str, words)], env=environment, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in JOBS.glob("*.sh")))
def test_a_job_without_its_words_says_what_it_takes(name: str) -> None:
    """Exit 2 and the line of its use."""
    ended = subprocess.run(["sh", str(JOBS / name)], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert name in ended.stderr


def test_two_drives_are_compared_to_a_page(
    loop_device: Callable[..., Path], tmp_path: Path
) -> None:
    """A sentence with a verdict, both drives' trials beside each other, a workbook."""
    drives = loop_device(GIB), loop_device(GIB)
    printed = job(
        "compare-two-drives.sh", *drives, tmp_path / "out", PRESET="mlperf-storage-8b",
        RECORD="--model tiny-1b", FIT="512MiB", TRIALS="2", RUN_TIME="2s", REPLAY="--settle 0s",
    )  # fmt: skip
    assert "drive A" in printed
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Compared with drive A" in page
    assert all(str(drive) in page for drive in drives)
    sheets = openpyxl.load_workbook(tmp_path / "out/comparison.xlsx").sheetnames
    assert {"Summary", "Compared", "Rates", "Times"} <= set(sheets)
    for side in ("drive-a", "drive-b"):
        results = sorted((tmp_path / "out" / side / "results").glob("*.json"))
        assert len(results) == 2
        assert all(json.loads(path.read_bytes())["payload"]["verified_ops"] for path in results)


def test_a_csv_of_mlperf_becomes_a_workbook(direct_path: Path) -> None:
    """Writes, reads and reads again of a cache on storage, as the benchmark logs them."""
    lines = ["Timestamp,Operation,Object_Size_Bytes,Tier,Key,Phase"]
    for number in range(40):
        moved = (
            f"{1_795_487_745 + number / 100:.6f},{{}},1048576,Tier-2,user_{number % 8}_turn,{{}}"
        )
        lines.append(moved.format(*(("Write", "Prefill") if number < 8 else ("Read", "Decode"))))
    csv = direct_path / "kv.csv"
    csv.write_text("\n".join(lines) + "\n")
    out = direct_path / "out"
    job("mlperf-csv-to-workbook.sh", csv, "1GiB", "llama3.1-8b", direct_path / "kv.dat", out,
        REPLAY="--settle 0s")  # fmt: skip
    result = json.loads((out / "result.json").read_bytes())
    assert (result["ops"], result["errors"]) == (40, 0)
    assert json.loads((out / "result.mlperf.json").read_bytes())["summary"]
    assert "Summary" in openpyxl.load_workbook(out / "result.xlsx").sheetnames


def test_a_log_of_requests_becomes_a_table_and_a_replay(direct_path: Path) -> None:
    """Each combination of sizes has its hit ratio; the chosen one runs in a directory."""
    requests = direct_path / "requests.jsonl"
    rows = [
        {"timestamp": 1000 * number, "input_length": 2048, "output_length": 8,
         "hash_ids": [0, 1, 10 + number % 12, 40 + number]}
        for number in range(60)
    ]  # fmt: skip
    requests.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out, directory = direct_path / "out", direct_path / "kv"
    directory.mkdir()
    printed = job(
        "requests-to-sizing.sh", requests, "tiny-1b", directory, out, GPU="24MiB",
        CPU_SIZES="24MiB,48MiB",
        NVME_SIZES="96MiB,1GiB", CPU="48MiB", NVME="192MiB", FIT="240MiB", RUN_TIME="1s",
        REPLAY="--settle 0s",
    )  # fmt: skip
    assert "hit ratio" in printed
    assert pl.read_csv(out / "sizing.csv").height == 4
    assert (
        "<svg" in (out / "sizing.html").read_text() or "vega" in (out / "sizing.html").read_text()
    )
    assert json.loads((out / "result.json").read_bytes())["ops"] > 0
