"""`kvtrace record`: from options to a trace."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.console import say
from kvtrace.cli.options import with_options
from kvtrace.cli.panels import option
from kvtrace.errors import UsageError
from kvtrace.files.outputs import check_apart
from kvtrace.options.described import describe_all
from kvtrace.recording.config import RecordConfig, resolve
from kvtrace.recording.config_text import as_yaml
from kvtrace.recording.tiers_config import RUN, TIERS, TierConfig
from kvtrace.requests.source_config import SOURCE
from kvtrace.trace.schema import Tier
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvtrace.recording.sizing import Trial


_TIER, _POLICY = TierConfig.model_fields, RecordConfig.model_fields["eviction"]


@with_options(RecordConfig)
def record_command(
    out: Annotated[
        Path,
        typer.Argument(
            help="Trace to write: .parquet, .csv, .csv.zst, or a new directory of parts.",
            show_default=False,
        ),
    ],
    *,
    rag: Annotated[
        bool | None,
        option("Let a tenth of the requests retrieve document chunks.", SOURCE, "--rag/--no-rag"),
    ] = None,
    eviction: Annotated[
        list[str] | None,
        option(
            "Eviction policy, as [TIER=]POLICY.",
            TIERS,
            default=_POLICY.default,
        ),
    ] = None,
    high_watermark: Annotated[
        list[str] | None,
        option(
            "Start eviction at [TIER=]RATIO of the capacity.",
            TIERS,
            default=_TIER["high_watermark"].default,
        ),
    ] = None,
    low_watermark: Annotated[
        list[str] | None,
        option(
            "Stop eviction at [TIER=]RATIO of the capacity.",
            TIERS,
            default=_TIER["low_watermark"].default,
        ),
    ] = None,
    prefill_only: Annotated[
        bool, option("Simulate a prefill node: generate no tokens.", TIERS)
    ] = False,
    decode_only: Annotated[
        bool,
        option("Simulate a decode node: its slowest tier begins with all prompts.", TIERS),
    ] = False,
    preset: Annotated[
        str | None, option("Start from this configuration; see `kvtrace list presets`.", RUN)
    ] = None,
    config: Annotated[
        Path | None, option("Read options from this YAML file; overrides --preset.", RUN)
    ] = None,
    set_: Annotated[
        list[str] | None, option("Set section.key=value; overrides --config.", RUN, "--set")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Threads and processes in addition to the simulation's.",
            min=1,
            rich_help_panel=RUN,
        ),
    ] = 1,
    force: Annotated[bool, option("Overwrite OUT.", RUN)] = False,
    dry_run: Annotated[
        bool, option("Simulate and print the summary; write nothing.", RUN, "--dry-run")
    ] = False,
    show_config: Annotated[
        bool, option("Print each option's value and origin; write nothing.", RUN)
    ] = False,
    as_json: Annotated[bool, option("Print the summary as JSON.", RUN, "--json")] = False,
    **given: Any,
) -> None:
    """Record a trace: simulate requests through a node's tiers in virtual time."""
    from kvtrace.cli.progress import record_bar
    from kvtrace.cli.recorded import show, summary
    from kvtrace.recording.parts import Recording
    from kvtrace.recording.pipeline import record

    options: dict[str, Any] = {
        option.path: given.get(option.key) for option in describe_all(RecordConfig)
    }
    options |= _watermarks("high_watermark", high_watermark or ())
    options |= _watermarks("low_watermark", low_watermark or ())
    options |= _evictions(eviction or ())
    options["role"] = _role(prefill_only, decode_only)
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
