"""What is fuzzed: a seed for every reader, how it is changed, and the command that reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replay.safety.marker import Marker
from tests.fuzz import mutations as m
from tests.fuzz.parquets import of_trace
from tests.fuzz.seeds import TIERS_OF_EXPORTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fuzz.mutations import Mutate

GOOD = "good.parquet"
_ONE_FOR_ONE = ("fio", "mlperf-csv", "sai3", "warp")
"""Exports that have a record for each row that isn't left out."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader. `files`: seeds by name, the first of which is changed; `{}` is their folder.

    `outputs`: how many outputs a command may leave that ends with 0. `call`: instead of a command.
    `account`: how rows are counted (see `tests.fuzz.oracle`).
    """

    name: str
    files: tuple[str, ...]
    mutate: Mutate
    argv: tuple[str, ...] = ()
    weight: float = 1.0
    call: Callable[[Path], None] | None = None
    account: str = ""
    seeds: dict[str, bytes] = field(default_factory=dict)


def _marker(folder: Path) -> None:
    Marker.unpack((folder / "marker.bin").read_bytes())


def _trace_targets() -> list[Target]:
    commands = {
        "check": ("check", "{}/t.parquet"),
        "info": ("info", "{}/t.parquet"),
        "info-json": ("info", "{}/t.parquet", "--json"),
        "head": ("head", "{}/t.parquet"),
        "slice": ("slice", "{}/t.parquet", "{}/o.parquet", "--rows", "3:40", "--tier", "nvme"),
        "slice-time": ("slice", "{}/t.parquet", "{}/o.parquet", "--from", "1ms", "--json"),
        "slice-sessions": ("slice", "{}/t.parquet", "{}/o.parquet", "--sessions", "50%"),
        "merge": ("merge", "{}/o.parquet", "{}/t.parquet", "{}/good.parquet", "--json"),
        "scale-time": ("scale", "{}/t.parquet", "{}/o.parquet", "--time", "2.5", "--json"),
        "scale-sessions": ("scale", "{}/t.parquet", "{}/o.parquet", "--sessions", "1.5"),
        "diff": ("diff", "{}/t.parquet", "{}/good.parquet"),
        "anonymise": ("anonymise", "{}/t.parquet", "{}/o.parquet", "--key-file", "{}/secret",
                      "--json"),
        "replay": ("replay", "{}/t.parquet", "--target", "null", "--mode", "max", "--spin", "off",
                   "--min-window", "0s"),
        "replay-fast": ("replay", "{}/t.parquet", "--target", "null", "--speed", "1e15",
                        "--spin", "off"),
        "replay-closed": ("replay", "{}/t.parquet", "--target", "null", "--mode", "closed",
                          "--speed", "1e15", "--spin", "off"),
        "replay-out": ("replay", "{}/t.parquet", "--target", "null", "--mode", "max",
                       "--out", "{}/o.parquet", "--report", "{}/o.json", "--spin", "off"),
        "recover": ("recover", "{}/t.parquet.parts", "{}/o.parquet"),
        "whatif": ("whatif", "{}/t.parquet", "--cpu-mem", "1MiB,1GiB"),
        "breakeven": ("breakeven", "{}/t.parquet", "--gpu", "h100", "--model", "tiny-1b"),
    }  # fmt: skip
    weights = {
        "check": 8.0,
        "info": 2.0,
        "whatif": 0.2,
        "breakeven": 0.5,
        "recover": 0.3,
        "head": 0.3,
        "diff": 0.4,
    }
    weights |= {name: 0.15 for name in commands if name.startswith("replay")}
    made = []
    for name, argv in commands.items():
        seed = "t.parquet.parts/part-000000.parquet" if name == "recover" else "t.parquet"
        rows = "rows" if name in ("merge", "scale-time", "anonymise") else ""
        made.append(Target(f"trace {name}", (seed, GOOD, "secret"), of_trace, argv,
                           weights.get(name, 1.0), account=rows))  # fmt: skip
    for to, suffix in TIERS_OF_EXPORTS.items():
        argv = ("export", "{}/t.parquet", f"{{}}/o{suffix}", "--to", to, "--json")
        if to == "fio":
            argv += ("--fio-version", "3.34")
        made.append(
            Target(
                f"export {to}",
                ("t.parquet",),
                of_trace,
                argv,
                0.7,
                account="export" if to in _ONE_FOR_ONE else "",
            )
        )
    parts = ("d/part-0.parquet", "d/part-1.parquet")
    made += [Target(f"directory {n}", parts, of_trace, (n, "{}/d")) for n in ("check", "info")]
    for name in ("report", "report-json"):
        argv = ("report", "{}/t.parquet", *(("--json",) if name == "report-json" else ()))
        made.append(Target(f"result {name}", ("result.parquet",), of_trace,
                           tuple(a.replace("/t.", "/result.") for a in argv)))  # fmt: skip
    made.append(Target("result compare", ("result.parquet", "result.json"), of_trace,
                       ("compare", "{}/result.json", "{}/result.parquet")))  # fmt: skip
    return made


def _import(name: str, seed: str, mutate: Mutate, *more: str, account: str = "") -> Target:
    argv = ("import", f"{{}}/{seed}", "{}/o.parquet", "--format", name, "--json", *more)
    return Target(f"import {seed}", (seed,), mutate, argv, 4.0, account=account)


def _import_targets() -> list[Target]:
    comma, blank, tab = m.text(","), m.text(" "), m.text("\t")
    both = m.any_of
    oracle = m.records(24, ((0, 4), (4, 8), (12, 4), (16, 8)))
    blk = m.records(48, ((0, 4), (4, 4), (8, 8), (16, 8), (24, 4), (28, 4), (36, 4), (46, 2)))
    made = [
        _import(
            "capture",
            "a.kvcap",
            both(m.frames, m.frames, m.frames, m.of_bytes),
            "--block-size",
            "4KiB",
        ),
        Target(
            "capture status",
            ("c/a.kvcap",),
            both(m.frames, m.of_bytes),
            ("capture", "--status", "{}/c", "--json"),
        ),
        _import("fio", "trace.log", both(blank, blank, m.of_bytes)),
        _import("fio", "v2.log", both(blank, blank, m.of_bytes)),
        _import("fio-lat", "a_lat.1.log", both(comma, comma, m.of_bytes)),
        _import("blktrace", "x.blktrace.0", both(blk, blk, m.of_bytes), account="blktrace"),
        _import("blkparse", "blk.txt", both(blank, blank, m.of_bytes), account="lines"),
        _import("warp", "ops.csv.zst", m.packed(".zst", both(tab, tab, m.of_bytes))),
        _import("warp", "ops.tsv", both(tab, tab, m.of_bytes)),
        _import("mlperf-csv", "kv.csv", both(comma, comma, m.of_bytes)),
        _import("mlperf-csv", "kv.csv.zst", m.packed(".zst", both(comma, m.of_bytes))),
        _import("mlperf-csv", "kv.csv", comma, "--nvme-capacity", "1GiB"),
        _import("lmcache", "a.lct", both(m.of_bytes, m.of_bytes)),
        _import("elbencho", "el.log", both(m.json_lines, m.of_bytes)),
        _import("cachebench", "cb.csv", both(comma, comma, m.of_bytes)),
        _import("oracle", "a.oracleGeneral", both(oracle, oracle, m.of_bytes), account="oracle"),
        _import("oracle", "a.oracleGeneral.zst", m.packed(".zst", oracle)),
    ]
    made.append(
        Target(
            "import two",
            ("x.blktrace.0", "x.blktrace.1"),
            both(blk, m.of_bytes),
            (
                "import",
                "{}/x.blktrace.0",
                "{}/x.blktrace.1",
                "{}/o.parquet",
                "--format",
                "blktrace",
            ),
        )
    )
    made.append(
        Target(
            "import fio --map",
            ("trace.log.map.parquet", "trace.log"),
            of_trace,
            ("import", "{}/trace.log", "{}/o.parquet", "--map", "{}/trace.log.map.parquet"),
        )
    )
    made.append(
        Target(
            "import unnamed",
            ("kv.csv",),
            both(comma, m.of_bytes),
            ("import", "{}/kv.csv", "{}/o.parquet"),
        )
    )
    made.append(Target("csv slice", ("kv.csv",), comma, ("slice", "{}/kv.csv", "{}/o.parquet")))
    return made  # fmt: skip


def _source_targets() -> list[Target]:
    both, comma = m.any_of, m.text(",")
    seeds: dict[str, tuple[str, Mutate]] = {
        "mooncake": ("a.jsonl", both(m.json_lines, m.json_lines, m.of_bytes)),
        "bailian": ("b.jsonl", both(m.json_lines, m.json_lines, m.of_bytes)),
        "dynamo": ("dy.jsonl", both(m.json_lines, m.json_lines, m.of_bytes)),
        "litellm": ("li.json", m.of_json),
        "tracelab": ("tl.csv", both(comma, comma, m.of_bytes)),
        "kv-events": ("kv.jsonl", both(m.json_lines, m.json_lines, m.of_bytes)),
        "weka": ("w.json", m.of_json),
        "sharegpt": ("s.json", m.of_json),
        "azure": ("az.csv", both(comma, comma, m.of_bytes)),
        "burstgpt": ("bg.csv", both(comma, comma, m.of_bytes)),
        "lmcache": ("a.lct", m.of_bytes),
    }
    made = [
        Target(f"source {name}", (seed,), mutate, (
            "record", "{}/o.parquet", "--source", name, "--input", f"{{}}/{seed}", "--model",
            "tiny-1b", "--requests", "20", "--duration", "1h", "--json"), 1.5)
        for name, (seed, mutate) in seeds.items()
    ]  # fmt: skip
    made.append(
        Target("source recording", ("a.kvcap",), m.any_of(m.frames, m.frames, m.of_bytes), (
            "record", "{}/o.parquet", "--source", "kv-events", "--input", "{}/a.kvcap", "--model",
            "tiny-1b", "--requests", "20", "--duration", "1h", "--json"), 1.5)
    )  # fmt: skip
    made.append(
        Target(
            "source packed",
            ("a.jsonl.gz",),
            m.packed(".gz", m.json_lines),
            (
                "record",
                "{}/o.parquet",
                "--source",
                "mooncake",
                "--input",
                "{}/a.jsonl.gz",
                "--model",
                "tiny-1b",
                "--requests",
                "20",
                "--dry-run",
            ),
        )
    )
    for name, mutate in (("config.json", m.of_json), ("model.toml", m.text("="))):
        made.append(
            Target(
                f"model {name}",
                (name,),
                mutate,
                ("record", "{}/o.parquet", "--model", f"{{}}/{name}", "--show-config"),
                2.0,
            )
        )
    yaml = both(m.text(":"), m.text(":"), m.of_bytes)
    shown = ("record", "{}/o.parquet", "--show-config", "--config")
    made += [
        Target(f"config {name}", (name,), yaml, (*shown, f"{{}}/{name}"))
        for name in ("demo.yaml", "preset.yaml")
    ]
    made.append(
        Target(
            "config as JSON",
            ("config.yaml",),
            m.of_json,
            ("record", "{}/o.parquet", "--config", "{}/config.yaml", "--show-config"),
            1.5,
        )
    )
    return made  # fmt: skip


def _document_targets() -> list[Target]:
    made = [
        Target("report json", ("result.json",), m.of_json, ("report", "{}/result.json"), 1.0),
        Target("report html", ("result.json",), m.of_json, (
            "report", "{}/result.json", "--report", "{}/o.csv"), 0.5),
        Target("compare ours", ("result.json", "other.json"), m.of_json, (
            "compare", "{}/other.json", "{}/result.json"), 0.4),
    ]  # fmt: skip
    for tool in ("fio", "mlperf", "lmcache-l2", "lmcache-replay"):
        seed = f"{tool}.json"
        made.append(
            Target(
                f"compare {tool}",
                (seed, "result.json"),
                m.of_json,
                ("compare", "{}/result.json", f"{{}}/{seed}"),
            )
        )
    made.append(
        Target(
            "compare warp",
            ("warp.json.zst", "result.json"),
            m.packed(".zst", m.of_json),
            ("compare", "{}/result.json", "{}/warp.json.zst"),
        )
    )
    made.append(Target("marker", ("marker.bin",), m.of_bytes, call=_marker))
    made.append(
        Target(
            "key file",
            ("secret", GOOD),
            m.of_bytes,
            ("anonymise", "{}/good.parquet", "{}/o.parquet", "--key-file", "{}/secret"),
            0.2,
        )
    )
    return made  # fmt: skip


def targets(folder: Path) -> list[Target]:
    """Return all targets, with the seeds that are in `folder`."""
    made = [*_trace_targets(), *_import_targets(), *_source_targets(), *_document_targets()]
    for target in made:
        for name in target.files:
            target.seeds[name] = (folder / name).read_bytes()
    names = [target.name for target in made]
    assert len(set(names)) >= len(names) - 1, json.dumps(names)
    return made
