"""`kvtrace record`: from options to a trace."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.console import say
from kvtrace.cli.progress import record_bar
from kvtrace.cli.recorded import show, summary
from kvtrace.errors import UsageError
from kvtrace.files.outputs import check_apart
from kvtrace.recording.config import resolve
from kvtrace.recording.config_text import as_yaml
from kvtrace.recording.parts import Recording
from kvtrace.recording.pipeline import record
from kvtrace.trace.schema import Tier
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvtrace.recording.sizing import Trial

_SOURCE, _MODEL, _TIERS, _TIME, _RUN = (
    "Source",
    "Model and layout",
    "Tiers and policies",
    "Length and timing",
    "Run and output",
)


def _option(help_text: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False, **more)


def record_command(
    out: Annotated[
        Path,
        typer.Argument(
            help="Trace to write: .parquet, .csv, .csv.zst, or a new directory of parts.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None,
        _option("Source (synthetic; with --input: detected); see `kvtrace list sources`.", _SOURCE),
    ] = None,
    input_: Annotated[
        list[str] | None,
        _option("Read requests from this file or directory; may be repeated.", _SOURCE, "--input"),
    ] = None,
    users: Annotated[
        str | None,
        _option(
            "Simulate N users in a closed loop with think time (10); auto: as many as the "
            "tiers serve within the `sizing` targets.",
            _SOURCE,
        ),
    ] = None,
    rate: Annotated[
        str | None,
        _option("Start sessions in an open loop at this mean request rate, e.g. 10/s.", _SOURCE),
    ] = None,
    arrival: Annotated[
        str | None,
        _option("Arrivals with --rate (poisson); gamma is bursty, diurnal a daily cycle.", _SOURCE),
    ] = None,
    multi_turn: Annotated[
        bool | None,
        _option(
            "Let sessions have several turns (default), or one.",
            _SOURCE,
            "--multi-turn/--no-multi-turn",
        ),
    ] = None,
    prefix_caching: Annotated[
        bool | None,
        _option(
            "Share system prompts between sessions (default) or not.",
            _SOURCE,
            "--prefix-caching/--no-prefix-caching",
        ),
    ] = None,
    rag: Annotated[
        bool | None,
        _option(
            "Let a tenth of the requests retrieve document chunks (no).", _SOURCE, "--rag/--no-rag"
        ),
    ] = None,
    speed: Annotated[
        float | None, _option("Divide a file's arrival or think times by X (1).", _SOURCE)
    ] = None,
    cycles: Annotated[int | None, _option("Repeat a file's requests N times (1).", _SOURCE)] = None,
    scale_sessions: Annotated[
        float | None,
        _option("Scale a file's number of sessions: sample below 1, copy above 1 (1).", _SOURCE),
    ] = None,
    dequantise: Annotated[
        str | None, _option("Spread a file's times over its clock tick, e.g. 3s (off).", _SOURCE)
    ] = None,
    source_block_tokens: Annotated[
        int | None,
        _option("mooncake, bailian: tokens per block id in the file (512, 16).", _SOURCE),
    ] = None,
    invent_sessions: Annotated[
        float | None,
        _option(
            "azure, burstgpt: invent sessions that continue with probability X (off).", _SOURCE
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        _option("sharegpt: count tokens with this tokenizer.json (characters / 4).", _SOURCE),
    ] = None,
    model: Annotated[
        str | None,
        _option(
            "Model, TOML file or config.json (llama3.1-8b); see `kvtrace list models`.", _MODEL
        ),
    ] = None,
    dtype: Annotated[str | None, _option("Data type of KV values (the model's).", _MODEL)] = None,
    layers: Annotated[
        int | None, _option("Keep only N layers of the model, for smaller objects (all).", _MODEL)
    ] = None,
    layout: Annotated[
        str | None,
        _option("Engine's layout of blocks (lmcache); see `kvtrace list layouts`.", _MODEL),
    ] = None,
    block_tokens: Annotated[int | None, _option("Tokens per block (the layout's).", _MODEL)] = None,
    ranks: Annotated[
        str | None, _option("Emit the objects of all ranks or of one (the layout's).", _MODEL)
    ] = None,
    state_interval: Annotated[
        int | None,
        _option(
            "Hybrid models: store the state every N tokens too (at prompts' ends only).", _MODEL
        ),
    ] = None,
    lookups: Annotated[
        bool | None,
        _option("Emit a look-up per key of a prompt (no).", _MODEL, "--lookups/--no-lookups"),
    ] = None,
    tensor_parallel: Annotated[
        int | None, _option("Number of GPUs that share a model (1).", _MODEL)
    ] = None,
    num_gpus: Annotated[
        int | None, _option("Number of GPUs of the node (--tensor-parallel).", _MODEL)
    ] = None,
    nodes: Annotated[
        int | None,
        _option("Number of nodes with tiers of their own; sessions stay on one (1).", _MODEL),
    ] = None,
    gpu_mem: Annotated[
        str | None, _option("KV-cache memory per GPU (16GiB); 0 removes the tier.", _TIERS)
    ] = None,
    cpu_mem: Annotated[
        str | None, _option("Capacity of tier cpu (64GiB); 0 removes it.", _TIERS)
    ] = None,
    nvme_capacity: Annotated[
        str | None, _option("Capacity of tier nvme, or `unlimited` (2TiB); 0 removes it.", _TIERS)
    ] = None,
    object_capacity: Annotated[
        str | None, _option("Capacity of tier object, or `unlimited` (0: no such tier).", _TIERS)
    ] = None,
    write_policy: Annotated[
        str | None,
        _option("Write new blocks to the fastest tier (waterfall) or to all tiers.", _TIERS),
    ] = None,
    promotion: Annotated[
        str | None,
        _option("Copy blocks to the fastest tier on a hit (with write-through on-hit).", _TIERS),
    ] = None,
    touch_order: Annotated[
        str | None, _option("Order in which a request touches its blocks (tail-first).", _TIERS)
    ] = None,
    eviction: Annotated[
        list[str] | None, _option("Eviction policy, as [TIER=]POLICY (lru).", _TIERS)
    ] = None,
    admission: Annotated[
        str | None,
        _option("Admit blocks to nvme always (default), or on their second use.", _TIERS),
    ] = None,
    high_watermark: Annotated[
        list[str] | None, _option("Start eviction at [TIER=]RATIO of the capacity (1.0).", _TIERS)
    ] = None,
    low_watermark: Annotated[
        list[str] | None, _option("Stop eviction at [TIER=]RATIO of the capacity (1.0).", _TIERS)
    ] = None,
    store_generated: Annotated[
        str | None,
        _option("Store generated tokens; auto: if source and layout can (auto).", _TIERS),
    ] = None,
    prefill_only: Annotated[
        bool, _option("Simulate a prefill node: generate no tokens (no).", _TIERS)
    ] = False,
    decode_only: Annotated[
        bool,
        _option("Simulate a decode node: its slowest tier begins with all prompts (no).", _TIERS),
    ] = False,
    warmup: Annotated[
        str | None,
        _option(
            "Simulate without ops first: a time, a number of requests, or `steady` "
            "(until the slowest tier is full).",
            _TIME,
        ),
    ] = None,
    duration: Annotated[
        str | None, _option("Virtual time during which requests arrive, e.g. 1h (60s).", _TIME)
    ] = None,
    requests: Annotated[int | None, _option("Stop after N requests (no limit).", _TIME)] = None,
    generation: Annotated[
        str | None,
        _option("Time per generated token: none, fast (2 ms) or realistic (30 ms).", _TIME),
    ] = None,
    decode_rate: Annotated[
        str | None, _option("Tokens per second of each request; replaces --generation.", _TIME)
    ] = None,
    decode_batch: Annotated[
        int | None, _option("Let at most N requests generate at once (no limit).", _TIME)
    ] = None,
    prefill_rate: Annotated[
        str | None,
        _option("Prompt tokens per second of the node; requests queue (no limit).", _TIME),
    ] = None,
    prefill_slots: Annotated[
        int | None, _option("Compute N prompts at once, each at 1/N of --prefill-rate (1).", _TIME)
    ] = None,
    fit: Annotated[
        str | None,
        _option("Shrink load, tiers and, if necessary, layers to fit nvme to this size.", _RUN),
    ] = None,
    scale: Annotated[
        float | None, _option("Multiply load and tiers by this ratio, e.g. 0.1 (1).", _RUN)
    ] = None,
    seed: Annotated[int | None, _option("Random seed (0).", _RUN)] = None,
    preset: Annotated[
        str | None, _option("Start from this configuration; see `kvtrace list presets`.", _RUN)
    ] = None,
    config: Annotated[
        Path | None, _option("Read options from this YAML file; overrides --preset.", _RUN)
    ] = None,
    set_: Annotated[
        list[str] | None, _option("Set section.key=value; overrides --config.", _RUN, "--set")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Threads and processes in addition to the simulation's.",
            min=1,
            rich_help_panel=_RUN,
        ),
    ] = 1,
    force: Annotated[bool, _option("Overwrite OUT.", _RUN)] = False,
    dry_run: Annotated[
        bool, _option("Simulate and print the summary; write nothing.", _RUN, "--dry-run")
    ] = False,
    show_config: Annotated[
        bool, _option("Print each option's value and origin; write nothing.", _RUN)
    ] = False,
    as_json: Annotated[bool, _option("Print the summary as JSON.", _RUN, "--json")] = False,
) -> None:
    """Record a trace: simulate requests through a node's tiers in virtual time."""
    options: dict[str, Any] = {
        "source.name": source,
        "source.input": input_,
        "source.users": users,
        "source.rate": rate,
        "source.arrival": arrival,
        "source.multi_turn": multi_turn,
        "source.speed": speed,
        "source.cycles": cycles,
        "source.scale_sessions": scale_sessions,
        "source.dequantise": dequantise,
        "source.block_tokens": source_block_tokens,
        "source.invent_sessions": invent_sessions,
        "source.tokenizer": tokenizer,
        "source.prefix_caching": prefix_caching,
        "model": model,
        "dtype": dtype,
        "layers": layers,
        "layout": layout,
        "block_tokens": block_tokens,
        "ranks": ranks,
        "tensor_parallel": tensor_parallel,
        "num_gpus": num_gpus,
        "nodes": nodes,
        "tiers.gpu.capacity": gpu_mem,
        "tiers.cpu.capacity": cpu_mem,
        "tiers.nvme.capacity": nvme_capacity,
        "tiers.object.capacity": object_capacity,
        **_watermarks("high_watermark", high_watermark or ()),
        **_watermarks("low_watermark", low_watermark or ()),
        "write_policy": write_policy,
        "promotion": promotion,
        "touch_order": touch_order,
        **_evictions(eviction or ()),
        "admission": admission,
        "store_generated": store_generated,
        "state_interval": state_interval,
        "lookups": lookups,
        "role": _role(prefill_only, decode_only),
        "warmup": warmup,
        "duration": duration,
        "requests": requests,
        "generation": generation,
        "decode_rate": decode_rate,
        "decode_batch": decode_batch,
        "prefill_rate": prefill_rate,
        "prefill_slots": prefill_slots,
        "seed": seed,
        "fit": fit,
        "scale": scale,
    }
    if rag is not None:
        options["source.rag"] = {} if rag else None
    resolution = resolve(config, options, set_ or (), preset)
    resolved = resolution.config
    if show_config:
        Recording(resolved)
        typer.echo(as_yaml(resolution), nl=False)
        return
    check_apart([out], [] if config is None else [config])
    started = time.monotonic()
    with record_bar() as progress:
        made = record(
            resolved, out, workers=workers, force=force, dry_run=dry_run, progress=progress,
            told=_tell_trial, fitting=lambda text: say(text, err=True),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(summary(made), indent=2))
    else:
        show(made, resolved, time.monotonic() - started)


def _tell_trial(trial: Trial) -> None:
    """Print the outcome of one number of users."""
    p95 = ", ".join(f"{word} {ns / MS_NS:,.0f} ms" for word, ns in trial.p95_ns.items())
    verdict = "within the targets" if trial.met else "too many"
    say(f"{trial.users:,} users: P95 of loads {p95}: {verdict}", err=True)


def _role(prefill_only: bool, decode_only: bool) -> str | None:
    if prefill_only and decode_only:
        raise UsageError(
            "exclude each other", where="--prefill-only, --decode-only", accepted="one of them"
        )
    return "prefill" if prefill_only else "decode" if decode_only else None


def _of_tiers(option: str, texts: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    """Yield tier and value of each `[TIER=]VALUE`; the tier is None where it isn't given."""
    for text in texts:
        name, equals, value = text.rpartition("=")
        if equals and name not in {tier.label for tier in Tier}:
            raise UsageError(
                "unknown tier", where=option, got=repr(name),
                accepted=", ".join(tier.label for tier in Tier),
            )  # fmt: skip
        yield (name if equals else None), value


def _evictions(texts: Iterable[str]) -> dict[str, str]:
    """Return `[TIER=]POLICY` options as configuration keys."""
    return {
        "eviction" if tier is None else f"tiers.{tier}.eviction": policy
        for tier, policy in _of_tiers("--eviction", texts)
    }


def _watermarks(key: str, texts: Iterable[str]) -> dict[str, float]:
    """Return `[TIER=]RATIO` options as configuration keys; without a tier it's of all of them."""
    ratios: dict[str, float] = {}
    option = f"--{key.replace('_', '-')}"
    for name, ratio in _of_tiers(option, texts):
        tiers = [tier.label for tier in Tier] if name is None else [name]
        try:
            ratios |= {f"tiers.{tier}.{key}": float(ratio) for tier in tiers}
        except ValueError:
            raise UsageError(
                "not a ratio", where=option, got=repr(ratio), accepted="[TIER=]RATIO, e.g. nvme=0.9"
            ) from None
    return ratios
