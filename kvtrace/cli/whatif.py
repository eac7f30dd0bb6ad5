"""`kvtrace whatif`: what other tiers and policies would come to, without any I/O."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.console import plain_console
from kvtrace.cli.help import AS_RECORD
from kvtrace.cli.panels import FLOPS_HELP, MFU_HELP, option
from kvtrace.cli.tools import JsonOption
from kvtrace.errors import UsageError
from kvtrace.files.outputs import check_apart, check_writable
from kvtrace.recording.config import resolve
from kvtrace.show.tables import fitting
from kvtrace.trace.schema import Tier
from kvtrace.units import GIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

    from kvtrace.whatif.answers import Answers
    from kvtrace.whatif.grid import Outcome
    from kvtrace.whatif.workload import Options, Workload

_SOURCE, _CHOICES, _OUT = "Requests", "What is tried; several values with commas", "Output"
_WORTH = "Loading against recomputing"


def whatif_command(
    trace: Annotated[
        Path | None,
        typer.Argument(
            help="Take the requests from this trace; without it, from the options below.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    input_: Annotated[list[str] | None, option(AS_RECORD, _SOURCE, "--input")] = None,
    users: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    rate: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    arrival: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    multi_turn: Annotated[
        bool | None, option(AS_RECORD, _SOURCE, "--multi-turn/--no-multi-turn")
    ] = None,
    prefix_caching: Annotated[
        bool | None, option(AS_RECORD, _SOURCE, "--prefix-caching/--no-prefix-caching")
    ] = None,
    rag: Annotated[bool | None, option(AS_RECORD, _SOURCE, "--rag/--no-rag")] = None,
    speed: Annotated[float | None, option(AS_RECORD, _SOURCE)] = None,
    timing: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    cycles: Annotated[int | None, option(AS_RECORD, _SOURCE)] = None,
    scale_sessions: Annotated[float | None, option(AS_RECORD, _SOURCE)] = None,
    dequantise: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    source_block_tokens: Annotated[int | None, option(AS_RECORD, _SOURCE)] = None,
    invent_sessions: Annotated[float | None, option(AS_RECORD, _SOURCE)] = None,
    tokenizer: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    model: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    layout: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    block_tokens: Annotated[int | None, option(AS_RECORD, _SOURCE)] = None,
    tensor_parallel: Annotated[int | None, option(AS_RECORD, _SOURCE)] = None,
    num_gpus: Annotated[int | None, option(AS_RECORD, _SOURCE)] = None,
    duration: Annotated[str | None, option(AS_RECORD, _SOURCE)] = None,
    requests: Annotated[int | None, option(AS_RECORD, _SOURCE)] = None,
    seed: Annotated[int | None, option(AS_RECORD, _SOURCE)] = None,
    preset: Annotated[
        str | None, option("Start from this configuration; see `kvtrace list presets`.", _SOURCE)
    ] = None,
    config: Annotated[
        Path | None, option("Read options from this YAML file; overrides --preset.", _SOURCE)
    ] = None,
    set_: Annotated[
        list[str] | None,
        option(
            "Set section.key=value, for any other option of record; overrides --config.",
            _SOURCE,
            "--set",
        ),
    ] = None,
    gpu_mem: Annotated[
        str | None, option("KV-cache memory per GPU, e.g. 16GiB,32GiB.", _CHOICES)
    ] = None,
    cpu_mem: Annotated[
        str | None, option("Capacities of tier cpu, e.g. 64GiB,1TiB.", _CHOICES)
    ] = None,
    nvme_capacity: Annotated[
        str | None, option("Capacities of tier nvme, e.g. 1TiB,unlimited.", _CHOICES)
    ] = None,
    object_capacity: Annotated[str | None, option("Capacities of tier object.", _CHOICES)] = None,
    eviction: Annotated[
        str | None, option("Eviction policies, e.g. lru,s3-fifo.", _CHOICES)
    ] = None,
    write_policy: Annotated[
        str | None, option("Write policies, e.g. waterfall,write-through.", _CHOICES)
    ] = None,
    curve: Annotated[
        bool,
        option(
            "Add LRU's miss ratio at every size of one tier, and the optimum's.",
            _CHOICES,
            "--curve",
        ),
    ] = False,
    policies: Annotated[
        str | None,
        option("Add curves of these libCacheSim policies, e.g. arc,lirs,w-tinylfu.", _CHOICES),
    ] = None,
    drive_bandwidth: Annotated[
        str | None,
        option("Bandwidth of a load, e.g. 6GB/s: add the GPU-seconds that it saves.", _WORTH),
    ] = None,
    gpu: Annotated[
        str | None,
        option("GPU that recomputes, e.g. h100: add the bandwidth that loads need.", _WORTH),
    ] = None,
    gpus: Annotated[
        int | None, option("GPUs that share a request. [default: --tensor-parallel]", _WORTH)
    ] = None,
    flops: Annotated[str | None, option(FLOPS_HELP, _WORTH)] = None,
    mfu: Annotated[float | None, option(MFU_HELP, _WORTH)] = None,
    csv_: Annotated[Path | None, option("Write the table as CSV.", _OUT, "--csv")] = None,
    plot_: Annotated[
        Path | None, option("Write the charts: .html, .svg or .png.", _OUT, "--plot")
    ] = None,
    report_to: Annotated[
        list[Path] | None,
        option(
            "Write tables and charts: .html, .json or .xlsx; may be repeated.", _OUT, "--report"
        ),
    ] = None,
    force: Annotated[bool, option("Overwrite outputs.", _OUT)] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare tier capacities and policies: hit ratios, bytes, drive writes per day."""
    from kvtrace.cli import whatif_page, whatif_worth
    from kvtrace.cli.forms import check_form, write_csv, write_reports
    from kvtrace.cli.recorded import about_model, about_sample, about_source
    from kvtrace.recording.sampling import sampled
    from kvtrace.whatif import plot
    from kvtrace.whatif.answers import answer
    from kvtrace.whatif.worth import asked

    options: Options = {
        "source.name": source,
        "source.input": input_,
        "source.users": users,
        "source.rate": rate,
        "source.arrival": arrival,
        "source.multi_turn": multi_turn,
        "source.prefix_caching": prefix_caching,
        "source.rag": {} if rag else None,
        "source.speed": speed,
        "source.timing": timing,
        "source.cycles": cycles,
        "source.scale_sessions": scale_sessions,
        "source.dequantise": dequantise,
        "source.block_tokens": source_block_tokens,
        "source.invent_sessions": invent_sessions,
        "source.tokenizer": tokenizer,
        "model": model,
        "layout": layout,
        "block_tokens": block_tokens,
        "tensor_parallel": tensor_parallel,
        "num_gpus": num_gpus,
        "duration": duration,
        "requests": requests,
        "seed": seed,
    }
    choices = _choices(
        {
            "tiers.gpu.capacity": gpu_mem,
            "tiers.cpu.capacity": cpu_mem,
            "tiers.nvme.capacity": nvme_capacity,
            "tiers.object.capacity": object_capacity,
            "eviction": eviction,
            "write_policy": write_policy,
        }
    )
    reports = report_to or []
    outputs = [path for path in (csv_, plot_, *reports) if path is not None]
    if outputs:
        check_apart(outputs, _inputs(trace, options, config, set_ or [], preset))
    for path in outputs:
        check_writable(path, force=force)
    for path in reports:
        check_form(path)
    if plot_ is not None:
        plot.check(plot_)
    question = asked(gpu=gpu, gpus=gpus, flops=flops, mfu=mfu, drive_bandwidth=drive_bandwidth)
    with _workload(trace, options, config, set_ or [], preset) as workload:
        named = None if policies is None else _values("--policies", policies)
        answers = answer(
            workload, choices, curves=named or [] if curve or named else None, question=question
        )
    sample, notes = None, list[str]()
    if trace is None:
        tried = resolve(config, options, set_ or [], preset).config
        sample = sampled(tried, answers.outcomes[0].stats)
        from kvtrace.models import load_model

        notes = load_model(tried.model).notes_on(tried.tensor_parallel, tried.dtype)
    more: dict[str, Any] = {} if sample is None else {"sampled": sample}
    more |= {"model_notes": notes} if notes else {}
    document = answers.document() | more
    about = [*about_sample(sample), *about_model(notes), *about_source(answers.source)]
    about += whatif_worth.assumed(answers)
    if csv_ is not None:
        write_csv([each.record() for each in answers.outcomes], csv_, force=force)
    if plot_ is not None:
        _write_plot(answers, choices, plot_, force=force)
    write_reports(whatif_page.forms_of(answers, choices, about, document), reports, force=force)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        _print(answers, choices)
        for text in about:
            plain_console().print(text, highlight=False)


def _values(option: str, text: str) -> list[str]:
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise UsageError("not a list", where=option, got=repr(text), accepted="e.g. a,b,c")
    return values


def _choices(texts: dict[str, str | None]) -> dict[str, list[str]]:
    """Return the values of each option that was given, in order."""
    return {key: _values(key, text) for key, text in texts.items() if text is not None}


def _inputs(
    trace: Path | None, options: Options, config: Path | None, sets: list[str], preset: str | None
) -> list[Path]:
    """Return the files and directories that are read."""
    if trace is not None:
        return [trace]
    named = [] if config is None else [config]
    return [*named, *resolve(config, options, sets, preset).config.input_paths]


def _workload(
    trace: Path | None, options: Options, config: Path | None, sets: list[str], preset: str | None
) -> AbstractContextManager[Workload]:
    from contextlib import contextmanager

    from kvtrace.trace.reader import open_trace
    from kvtrace.whatif.workload import Configured

    @contextmanager
    def given() -> Iterator[Workload]:
        if trace is None:
            yield Configured(lambda tried: resolve(config, options | tried, sets, preset).config)
            return
        named = [key for key, value in options.items() if value is not None]
        named += [n for n, v in (("--config", config), ("--preset", preset), ("--set", sets)) if v]
        if named:
            raise UsageError(
                "a trace has its requests already", where=trace, got=", ".join(named),
                accepted="capacities, --eviction and --write-policy",
            )  # fmt: skip
        from kvtrace.whatif.accesses import Traced

        with open_trace(trace) as opened:
            workload = Traced(opened)
        yield workload

    return given()


def _write_plot(
    answers: Answers, choices: dict[str, list[str]], path: Path, *, force: bool
) -> None:
    from kvtrace.cli import whatif_page
    from kvtrace.whatif import plot

    if path.suffix == ".html":
        whatif_page.write_charts(answers, choices, path, force=force)
    else:
        plot.save(plot.plots(answers, choices), path, force=force)


def _print(answers: Answers, choices: dict[str, list[str]]) -> None:
    from kvtrace.cli import whatif_worth

    console = plain_console()
    swept = [key for key, values in choices.items() if len(values) > 1]
    for key, values in choices.items():
        if key not in swept:
            console.print(f"{_short(key)} {values[0]}")
    console.print(_hits(answers.outcomes, swept))
    console.print(_wear(answers.outcomes, swept))
    if any(each.worth is not None for each in answers.outcomes):
        title = "loads against recomputing: GB/s needed, GPU-seconds"
        console.print(_table(title, swept, *whatif_worth.cells(answers.outcomes, swept)))
    first = answers.outcomes[0]
    console.print(
        f"{first.stats.requests:,} requests, {first.stats.blocks:,} blocks asked for; "
        f"ideal {first.stats.ideal_hits / max(1, first.stats.blocks):.3f} (prefixes, no limit)"
    )
    if first.optimal is not None:
        console.print("OPT: upper bound for a cache of as many blocks, each counted by itself")
    if answers.curves:
        console.print(_curves(answers))


def _short(key: str) -> str:
    return key.removeprefix("tiers.").removesuffix(".capacity").replace("_", "-")


def _table(title: str, swept: list[str], names: list[str], rows: list[list[str]]) -> RenderableType:
    keys, width = [_short(key) for key in swept], plain_console().width
    return fitting([*keys, *names], rows, names=len(keys), title=title, width=width)


def _hits(outcomes: list[Outcome], swept: list[str]) -> RenderableType:
    tiers = [tier for tier in Tier if any(tier in outcome.tiers for outcome in outcomes)]
    rows = [
        [
            *(str(each.options[key]) for key in swept),
            *(f"{each.hit_ratio(tier):.3f}" if tier in each.tiers else "-" for tier in tiers),
            f"{each.total_hit_ratio:.3f}",
            _number(each.optimal, ".3f"),
        ]
        for each in outcomes
    ]
    return _table("hit ratio", swept, [tier.label for tier in tiers] + ["all", "OPT"], rows)


def _wear(outcomes: list[Outcome], swept: list[str]) -> RenderableType:
    names = ["GiB read", "written", "r:w", "GiB/day", "DWPD"]
    rows = []
    for each in outcomes:
        moved = each.document()["tiers"].get(Tier.NVME.label, {})
        per_day = each.nvme_bytes_per_day
        sizes = [moved[n] / GIB if moved else None for n in ("read_bytes", "write_bytes")]
        rows.append(
            [
                *(str(each.options[key]) for key in swept),
                *map(_short_number, sizes),
                _number(moved.get("read_write_ratio"), ".2f"),
                _number(None if per_day is None else per_day / GIB, ",.0f"),
                _short_number(each.drive_writes_per_day),
            ]
        )
    return _table("nvme of the node: read, written, drive writes per day", swept, names, rows)


def _short_number(value: float | None) -> str:
    """Return a number with two decimals, a long one without."""
    return _number(value, ",.2f" if value is not None and value < 1000 else ",.0f")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _curves(answers: Answers) -> RenderableType:
    """Return the curves at the sizes that all of them have, which are those of the last."""
    policies = ["OPT" if each.policy == "opt" else each.policy for each in answers.curves]
    known = [dict(zip(each.blocks, each.miss_ratio, strict=True)) for each in answers.curves]
    rows = [
        [
            format_bytes(blocks * answers.block_bytes),
            f"{blocks:,}",
            *(_number(each[blocks], ".3f") for each in known),
        ]
        for blocks in answers.curves[-1].blocks
    ]
    return fitting(
        ["size", "blocks", *policies], rows, title="miss ratio of one tier",
        width=plain_console().width,
    )  # fmt: skip
