"""Outputs are never inputs: told by device and inode, and `--force` doesn't change that."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from kvtrace.errors import UsageError
from kvtrace.files.outputs import check_apart
from tests.support.command import kvtrace
from tests.support.commands import RECORD, REPLAY, inputs, make
from tests.support.digests import states

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_REQUESTS = '{"timestamp": 0, "input_length": 2048, "output_length": 8, "hash_ids": [1, 2, 3, 4]}\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an input of each kind, and links to them."""
    for name in ("t.parquet", "t.csv", "r.json", "secret"):
        shutil.copy(inputs() / name, tmp_path / name)
    for name in ("r.json", "secret", "t.parquet"):
        (tmp_path / f"hard-{name}").hardlink_to(tmp_path / name)
    (tmp_path / "config.parquet").write_text("seed: 1\n")
    (tmp_path / "requests.parquet").write_text(_REQUESTS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "requests.jsonl").write_text(_REQUESTS)
    (tmp_path / "same").symlink_to(tmp_path / "folder")
    assert make("record directory", tmp_path / "parts") == 0
    (tmp_path / "part.parquet").hardlink_to(tmp_path / "parts" / "part-00000.parquet")
    return tmp_path


MOONCAKE = ("--source", "mooncake", "--input")
CASES: dict[str, tuple[object, ...]] = {
    "slice onto itself": ("slice", "@t.parquet", "@t.parquet", "--rows", "0:9"),
    "slice onto a hard link": ("slice", "@t.parquet", "@hard-t.parquet", "--rows", "0:9"),
    "slice into the trace": ("slice", "@parts", "@parts/x.parquet", "--rows", "0:9"),
    "slice onto a part": ("slice", "@parts", "@parts/part-00000.parquet", "--rows", "0:9"),
    "slice onto a part's hard link": ("slice", "@parts", "@part.parquet", "--rows", "0:9"),
    "merge onto an input": ("merge", "@t.parquet", "@t.parquet"),
    "scale onto a link": ("scale", "@t.parquet", "@hard-t.parquet", "--time", "2"),
    "anonymise onto the key": (
        "anonymise", "@t.parquet", "@hard-secret.parquet", "--key-file", "@hard-secret.parquet",
    ),
    "record onto the configuration": ("record", "@config.parquet", "--config", "@config.parquet"),
    "record onto the requests": ("record", "@requests.parquet", *MOONCAKE, "@requests.parquet"),
    "record into the requests": ("record", "@same/t.parquet", *MOONCAKE, "@folder"),
    "record around the requests": ("record", "@parts", *MOONCAKE, "@parts/header.parquet"),
    "import onto an input": ("import", "@t.csv.parquet", "@t.csv.parquet"),
    "import onto the map": (
        "import", "@t.csv", "@hard-t.parquet", "--format", "fio", "--map", "@t.parquet",
    ),
    "import, its names onto the map": (
        "import", "@t.csv", "@x.parquet", "--format", "fio", "--map", "@x.keys.parquet",
    ),
    "export onto the trace": ("export", "@t.csv", "@t.csv", "--to", "mlperf-csv"),
    "export, its map onto the trace": (
        "export", "@x.csv.map.parquet", "@x.csv", "--to", "mlperf-csv",
    ),
    "export, its job onto the trace": ("export", "@x.fio", "@x.log", "--to", "fio"),
    "replay onto the trace": ("replay", "@t.parquet", *REPLAY, "--out", "@hard-t.parquet"),
    "replay into the trace": ("replay", "@parts", *REPLAY, "--report", "@parts/r.json"),
    "replay twice onto one": (
        "replay", "@t.parquet", *REPLAY, "--report", "@n.json", "--report", "@same/../n.json",
    ),
    "replay onto the device": (
        "replay", "@t.parquet", "--device", "@d.json", "--size", "1GiB", "--report", "@d.json",
    ),
    "replay into the folder": (
        "replay", "@t.parquet", "--dir", "@folder", "--report", "@same/r.json",
    ),
    "report onto the result": ("report", "@r.json", "--report", "@hard-r.json"),
    "compare onto a result": ("compare", "@r.json", "@r.json", "--report", "@hard-r.json"),
    "recover into its parts": ("recover", "@left.parts", "@left.parts/t.parquet"),
    "recover onto a part": ("recover", "@left.parts", "@left.parts/part-000000.parquet"),
    "precondition onto the device": ("precondition", "--device", "@d.json", "--report", "@d.json"),
    "what-if onto the configuration": (
        "whatif", "--config", "@config.parquet", "--csv", "@config.parquet", *RECORD,
    ),
    "what-if onto the trace": ("whatif", "@t.parquet", "--csv", "@hard-t.parquet"),
    "what-if's report onto the trace": ("whatif", "@t.parquet", "--report", "@hard-t.parquet"),
    "what-if twice onto one": ("whatif", *RECORD, "--csv", "@w.html", "--plot", "@w.html"),
    "break-even onto the trace": (
        "breakeven", "@t.parquet", "--gpu", "h100", "--csv", "@hard-t.parquet",
    ),
    "break-even onto its table": (
        "breakeven", "--model", "tiny-1b", "--prefill-table", "@t.csv", "--csv", "@t.csv",
    ),
    "break-even's report onto the trace": (
        "breakeven", "@t.parquet", "--gpu", "h100", "--report", "@hard-t.parquet",
    ),
    "bench around its trace": ("bench", "--trace", "@t.parquet", "--folder", "@kv", "--dir", "@kv"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_output_is_no_input(place: Path, case: str) -> None:
    """Refused before anything is made: nothing changes, nothing is added."""
    shutil.copy(place / "t.parquet", place / "x.csv.map.parquet")
    shutil.copy(place / "t.parquet", place / "x.fio")
    shutil.copy(place / "t.csv", place / "t.csv.parquet")
    shutil.copy(place / "t.parquet", place / "x.keys.parquet")
    (place / "hard-secret.parquet").hardlink_to(place / "secret")
    (place / "left.parts").mkdir()
    shutil.copy(inputs() / "r.parquet", place / "left.parts" / "part-000000.parquet")
    if case == "export onto the trace":
        shutil.copy(place / "t.parquet", place / "t.csv")
    before = states(place)
    words = [
        place / word[1:] if str(word).startswith("@") else word for word in map(str, CASES[case])
    ]
    force = () if words[0] == "bench" else ("--force",)
    ended = kvtrace(*words, *force)
    assert ended.code == 2, (ended.code, ended.err, ended.out)
    assert any(text in ended.error for text in ("an input", "another output")), ended.error
    assert states(place) == before


def test_identities(tmp_path: Path) -> None:
    """Two names that don't exist yet are the same place through links; siblings are not."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    check_apart([tmp_path / "a" / "x", tmp_path / "a" / "y"], [tmp_path / "z", tmp_path / "a-x"])
    check: Callable[..., None] = check_apart
    for outputs, others in (
        ([tmp_path / "a" / "x", tmp_path / "b" / "x"], []),
        ([tmp_path / "b" / "x"], [tmp_path / "a" / "x"]),
        ([tmp_path / "b" / "x"], [tmp_path / "a"]),
        ([tmp_path / "a"], [tmp_path / "b" / "x"]),
    ):
        with pytest.raises(UsageError):
            check(outputs, others)
    assert not list((tmp_path / "a").iterdir())
