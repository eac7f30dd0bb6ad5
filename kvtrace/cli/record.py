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
            help="Trace to make: .parquet, .csv, .csv.zst, or a directory of parts (no suffix).",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None,
        _option(
            "synthetic (default), mooncake, ...; see `kvtrace list sources`. With --input it is "
            "recognised.",
            _SOURCE,
        ),
    ] = None,
    input_: Annotated[
        list[str] | None,
        _option("File or directory with requests; may be repeated.", _SOURCE, "--input"),
    ] = None,
    users: Annotated[
        str | None,
        _option(
            "Synthetic, closed loop: users with think time (10); `auto`: as many as the tiers "
            "serve within the targets of `sizing`.",
            _SOURCE,
        ),
    ] = None,
    rate: Annotated[
        str | None, _option("Open arrivals of sessions: requests per second, e.g. 10/s.", _SOURCE)
    ] = None,
    arrival: Annotated[
        str | None,
        _option("constant, poisson (default), gamma (bursty) or diurnal (a day's waves).", _SOURCE),
    ] = None,
    multi_turn: Annotated[
        bool | None,
        _option(
            "Sessions of several turns (default) or of one.",
            _SOURCE,
            "--multi-turn/--no-multi-turn",
        ),
    ] = None,
    prefix_caching: Annotated[
        bool | None,
        _option(
            "System prompts are shared between sessions (default) or each session's own.",
            _SOURCE,
            "--prefix-caching/--no-prefix-caching",
        ),
    ] = None,
    rag: Annotated[
        bool | None,
        _option("A tenth of the requests retrieve chunks of documents.", _SOURCE, "--rag/--no-rag"),
    ] = None,
    speed: Annotated[
        float | None, _option("Files: arrival or think times are divided by it (1).", _SOURCE)
    ] = None,
    cycles: Annotated[
        int | None, _option("Files: their requests N times over (1).", _SOURCE)
    ] = None,
    scale_sessions: Annotated[
        float | None, _option("Files: below 1 sessions are left out, above copied (1).", _SOURCE)
    ] = None,
    dequantise: Annotated[
        str | None, _option("Files: spread times over a coarse clock's tick, e.g. 3s.", _SOURCE)
    ] = None,
    source_block_tokens: Annotated[
        int | None,
        _option(
            "mooncake, bailian: tokens that each id of the file stands for (512, 16).", _SOURCE
        ),
    ] = None,
    invent_sessions: Annotated[
        float | None,
        _option("azure, burstgpt: probability that an invented session goes on (none).", _SOURCE),
    ] = None,
    tokenizer: Annotated[
        str | None, _option("sharegpt: a tokenizer.json (characters / 4).", _SOURCE)
    ] = None,
    model: Annotated[
        str | None,
        _option("Name, TOML file or config.json (llama3.1-8b); see `kvtrace list models`.", _MODEL),
    ] = None,
    dtype: Annotated[str | None, _option("Type of KV values (the model's own).", _MODEL)] = None,
    layers: Annotated[
        int | None, _option("Layers of the model that are kept: thinner objects (all).", _MODEL)
    ] = None,
    layout: Annotated[
        str | None, _option("lmcache (default), vllm, ...; see `kvtrace list layouts`.", _MODEL)
    ] = None,
    block_tokens: Annotated[
        int | None, _option("Tokens of a block (the layout's own).", _MODEL)
    ] = None,
    ranks: Annotated[
        str | None, _option("Ranks whose objects are emitted: all or one.", _MODEL)
    ] = None,
    state_interval: Annotated[
        int | None,
        _option("Hybrid models: keep the state every N tokens, too (prompts' ends only).", _MODEL),
    ] = None,
    lookups: Annotated[
        bool | None,
        _option("Look-ups of a prompt's keys are ops (no).", _MODEL, "--lookups/--no-lookups"),
    ] = None,
    tensor_parallel: Annotated[int | None, _option("GPUs that share a model (1).", _MODEL)] = None,
    num_gpus: Annotated[
        int | None, _option("GPUs of the node (as many as --tensor-parallel).", _MODEL)
    ] = None,
    nodes: Annotated[
        int | None,
        _option("Nodes, each with tiers of its own; requests go by session or user (1).", _MODEL),
    ] = None,
    gpu_mem: Annotated[
        str | None, _option("KV budget of each GPU (16GiB); 0: no such tier.", _TIERS)
    ] = None,
    cpu_mem: Annotated[str | None, _option("Tier cpu (64GiB).", _TIERS)] = None,
    nvme_capacity: Annotated[
        str | None, _option("Tier nvme: a size or `unlimited` (2TiB).", _TIERS)
    ] = None,
    object_capacity: Annotated[
        str | None, _option("Tier object: a size or `unlimited` (0).", _TIERS)
    ] = None,
    write_policy: Annotated[
        str | None, _option("waterfall (default) or write-through.", _TIERS)
    ] = None,
    promotion: Annotated[
        str | None,
        _option("none or on-hit (on-hit with write-through, else none).", _TIERS),
    ] = None,
    touch_order: Annotated[str | None, _option("tail-first (default) or in-order.", _TIERS)] = None,
    eviction: Annotated[
        list[str] | None,
        _option("[TIER=]POLICY: lru (default), fifo, sieve or s3-fifo.", _TIERS),
    ] = None,
    admission: Annotated[
        str | None, _option("Of nvme: always (default) or second-use.", _TIERS)
    ] = None,
    high_watermark: Annotated[
        list[str] | None, _option("[TIER=]RATIO at which eviction starts (1.0).", _TIERS)
    ] = None,
    low_watermark: Annotated[
        list[str] | None, _option("[TIER=]RATIO at which eviction stops (1.0).", _TIERS)
    ] = None,
    store_generated: Annotated[
        str | None, _option("Store generated tokens: auto (default), yes or no.", _TIERS)
    ] = None,
    prefill_only: Annotated[
        bool, _option("The node prefills and hands over: nothing is generated.", _TIERS)
    ] = False,
    decode_only: Annotated[
        bool, _option("The node is given all prompts on its slowest tier.", _TIERS)
    ] = False,
    warmup: Annotated[
        str | None,
        _option("Simulate first: a duration, a number of requests or `steady` (full).", _TIME),
    ] = None,
    duration: Annotated[
        str | None, _option("Virtual time in which requests arrive, e.g. 1h (60s).", _TIME)
    ] = None,
    requests: Annotated[int | None, _option("Requests at most.", _TIME)] = None,
    generation: Annotated[
        str | None,
        _option("Per generated token: none, fast (2 ms), realistic (30 ms, default).", _TIME),
    ] = None,
    decode_rate: Annotated[
        str | None,
        _option("Tokens per second that a request generates; instead of --generation.", _TIME),
    ] = None,
    decode_batch: Annotated[
        int | None, _option("Requests that generate at once; others wait (no limit).", _TIME)
    ] = None,
    prefill_rate: Annotated[
        str | None,
        _option(
            "Prompt tokens per second that the node computes; requests queue for it (no limit).",
            _TIME,
        ),
    ] = None,
    prefill_slots: Annotated[
        int | None,
        _option("Prompts computed at once, each at its share of the prefill rate (1).", _TIME),
    ] = None,
    fit: Annotated[
        str | None,
        _option(
            "Shrink load, tiers and, if need be, layers so that tier nvme fits a device of this "
            "size.",
            _RUN,
        ),
    ] = None,
    scale: Annotated[
        float | None, _option("Shrink load and tiers to this ratio, e.g. 0.1 (1).", _RUN)
    ] = None,
    seed: Annotated[int | None, _option("Seed of all that is drawn (0).", _RUN)] = None,
    preset: Annotated[
        str | None, _option("A ready configuration; see `kvtrace list presets`.", _RUN)
    ] = None,
    config: Annotated[
        Path | None, _option("YAML file of these options, over --preset.", _RUN)
    ] = None,
    set_: Annotated[
        list[str] | None, _option("section.key=value over --config.", _RUN, "--set")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Threads and processes beside the simulation.", min=1, rich_help_panel=_RUN
        ),
    ] = 1,
    force: Annotated[bool, _option("Replace OUT if it exists.", _RUN)] = False,
    dry_run: Annotated[
        bool, _option("Simulate and print the summary; write nothing.", _RUN, "--dry-run")
    ] = False,
    show_config: Annotated[
        bool, _option("Print the configuration, each value with its origin; write nothing.", _RUN)
    ] = False,
    as_json: Annotated[bool, _option("Print the summary as JSON.", _RUN, "--json")] = False,
) -> None:
    """Make a trace: requests through the tiers of a node, in virtual time."""
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
    found = resolve(config, options, set_ or (), preset)
    resolved = found.config
    if show_config:
        Recording(resolved)
        typer.echo(as_yaml(found), nl=False)
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
    """Say what one number of users came to."""
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
    found: dict[str, float] = {}
    option = f"--{key.replace('_', '-')}"
    for name, ratio in _of_tiers(option, texts):
        tiers = [tier.label for tier in Tier] if name is None else [name]
        try:
            found |= {f"tiers.{tier}.{key}": float(ratio) for tier in tiers}
        except ValueError:
            raise UsageError(
                "not a ratio", where=option, got=repr(ratio), accepted="[TIER=]RATIO, e.g. nvme=0.9"
            ) from None
    return found
