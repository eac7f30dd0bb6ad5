"""`kvtrace bench`: one trace, several trials, a folder with everything that a submission needs."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.compare import show
from kvtrace.cli.console import say
from kvtrace.cli.help import HelpfulCommand
from kvtrace.cli.replay_options import states, understood
from kvtrace.cli.targets import paths_of
from kvtrace.errors import EXIT_INVALID, EXIT_OK, EXIT_TRACE, KvtraceError, UsageError
from kvtrace.files.outputs import check_apart
from kvtrace.recording.config import resolve
from kvtrace.units import exact_bytes
from replay.options import Populate
from replay.result.invalid import LASTING
from replay.watch import RunInterruptedError, Silent, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvtrace.cli.steps import Steps
    from replay import ReplayOptions, TargetSpec
    from replay.result.document import ResultDocument
    from replay.result.reason import Reason

MIN_WINDOW = "60s"
TRIALS = 5
SUITE = "mlperf-storage"
_WRONG_WORDS: Any = typer.BadParameter.__base__
"""What typer raises for words that aren't accepted; releases of it have it in different places."""
_OURS = ("out", "report_to", "force", "as_json", "show_config")
"""Options of a replay that a bench sets itself."""


class _WithReplayOptions(HelpfulCommand):
    """Takes the options of a replay as well: they stay in the context's arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep apart what is a replay's."""
        own = {name for param in self.params for name in param.opts}
        values = {
            name: not getattr(param, "is_flag", False)
            for param in import_module("kvtrace.cli.main").command("replay").params
            for name in (*param.opts, *param.secondary_opts)
            if name.startswith("-") and name not in own
        }
        rest, forwarded = _split(args, values)
        super().parse_args(ctx, rest)
        ctx.args = forwarded
        return forwarded


def _split(args: Sequence[str], values: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """Return (others, those in `values`), each with its value if it takes one."""
    others: list[str] = []
    forwarded: list[str] = []
    coming = iter(args)
    for word in coming:
        name, equals, _ = word.partition("=")
        if name not in values:
            others.append(word)
            continue
        forwarded.append(word)
        if values[name] and not equals:
            forwarded += [value for value in [next(coming, None)] if value is not None]
    return others, forwarded


COMMAND_CLASS = _WithReplayOptions


def bench_command(
    context: typer.Context,
    preset: Annotated[
        str | None,
        typer.Argument(
            help="Preset to record, see `kvtrace list presets`; or mlperf-storage: all three "
            "options of MLPerf Storage's KV cache, and their score.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="New directory for all outputs.", show_default=False),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of replays of the trace: 5; of mlperf-storage 3.",
            show_default=False,
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Copy and replay this trace instead of a preset.", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Set section.key=value of the recording; overrides the preset.",
            show_default=False,
        ),
    ] = None,
    precondition: Annotated[
        bool,
        typer.Option("--precondition", help="Precondition the device first."),
    ] = False,
    option_delay: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Of mlperf-storage: wait between its options: 90s.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Verify this bench directory; run nothing.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Record PRESET (or use --trace), replay it --trials times, and print each figure's spread.

    All other options are those of `kvtrace replay`: at least a target, such as --device PATH.
    A trial is INVALID below --min-window 60s unless that option says otherwise.
    """
    from kvtrace.cli.steps import Steps
    from replay.compare import folder as bench_folder
    from replay.compare import report
    from replay.compare.folder import BENCH_FORMS, TRACE
    from replay.safety.storage import files_below

    if check is not None:
        raise typer.Exit(_verify(check, as_json=as_json))
    if folder is None:
        raise UsageError("is needed", where="--folder", hint="name a new folder")
    if (preset is None) == (trace is None):
        raise UsageError("name a preset, or a trace by --trace, not both")
    if trace is not None and set_:
        raise UsageError(
            "sets options of a preset's recording, and --trace has none",
            where="--set",
            got=repr(set_[0]),
            hint="options of the replay are given by their flags or --config",
        )
    for name in BENCH_FORMS:
        report.check_suffix(folder / name)
    words = list(context.args)
    asked = _replay_options(words)
    if not states(asked, "min_window"):
        words = ["--min-window", MIN_WINDOW, *words]
    run = understood(_replay_options(words))
    preparing = _precondition_words(run[0]) if precondition else []
    if preset != SUITE:
        if option_delay is not None:
            raise UsageError(
                "is of mlperf-storage, which has several options", where="--option-delay"
            )
        _check_workload(trace, preset, set_ or ())
    named = [each for each in (trace, asked["config"]) if each is not None]
    named += paths_of(run[0])
    check_apart([folder], [*named, *chain(*map(files_below, named))])
    _check_targets(run, trace)
    if preset == SUITE:
        from kvtrace.cli.bench_mlperf import run_options

        raise typer.Exit(
            run_options(
                folder, words, set_ or (), run, trials=trials, delay=option_delay,
                precondition=precondition, as_json=as_json,
            )
        )  # fmt: skip
    steps = Steps(folder)
    with bench_folder.made(folder, lambda place: say(f"results so far: {place}", err=True)):
        if trace is None:
            assert preset is not None
            say(f"recording {preset}", err=True)
            settings = [word for text in set_ or [] for word in ("--set", text)]
            steps.run("record", word_of(folder / TRACE), "--preset", preset, *settings)
            _check_run(folder / TRACE, run)
        else:
            shutil.copyfile(trace, folder / TRACE)
            steps.note(datetime.now(UTC), ("cp", str(trace), str(folder / TRACE)), "done")
        if preparing:
            say(f"preconditioning {preparing[1]}", err=True)
            steps.run("precondition", *preparing)
        valid = _replay_all(steps, words, trials or TRIALS)
        comparison = _finish(steps)
    show(comparison, as_json=as_json)
    raise typer.Exit(EXIT_OK if valid else EXIT_INVALID)


def _check_workload(trace: Path | None, preset: str | None, settings: Sequence[str]) -> None:
    """Raise for a trace that can't be read, or settings that no recording can have."""
    from kvtrace.trace.reader import open_trace

    if trace is None:
        resolve(None, {}, settings, preset)
    elif trace.is_dir():
        raise UsageError("is a directory", where=trace, accepted="a trace in one file")
    else:
        open_trace(trace).close()


def _check_targets(run: tuple[tuple[TargetSpec, ...], ReplayOptions], trace: Path | None) -> None:
    """Raise for targets that a replay would refuse, as far as is known before a recording."""
    from replay.plan.prepare import choose_targets

    if trace is not None:
        _check_run(trace, run)
        return
    specs, options = run
    writes = options.populate != Populate.NONE and not options.reuse_populated
    for target in choose_targets(specs, options.tiers).values():
        with closing(target):
            target.authorise(writes=writes)


def _check_run(trace: Path, run: tuple[tuple[TargetSpec, ...], ReplayOptions]) -> None:
    """Raise what a replay would, up to its first write."""
    from kvtrace.trace.reader import open_trace
    from replay.plan.prepare import prepare

    specs, options = run
    with open_trace(trace) as opened, ExitStack() as stack:
        prepare(opened, specs, options, Silent(), Stop(), stack)


def word_of(path: Path) -> str:
    """Return a path as a word of a command line that is never taken for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


class _UselessError(KvtraceError):
    """A trial is INVALID for a reason that every further one would have."""

    exit_code = EXIT_INVALID

    def __init__(self, number: int, reasons: Sequence[Reason]) -> None:
        super().__init__(
            f"stopped after trial {number}, for further ones would be INVALID too: "
            + "; ".join(f"{reason.code}: {reason.figure}" for reason in reasons),
            hint="; ".join(reason.remedy for reason in reasons),
        )


def _replay_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the options of a replay as they will be understood. Raises UsageError."""
    from replay.compare.folder import TRACE

    command = import_module("kvtrace.cli.main").command("replay")
    try:
        asked: dict[str, Any] = command.make_context("replay", [TRACE, *words]).params
    except _WRONG_WORDS as error:
        raise UsageError(error.format_message(), where="options of the replay") from error
    defaults = command.make_context("replay", [TRACE]).params
    for name in _OURS:
        if asked[name] != defaults[name]:
            option = name.removesuffix("_to").replace("as_", "").replace("_", "-")
            raise UsageError(
                "is set by the bench", where=f"--{option}", hint="everything goes to --folder"
            )
    return asked


def _precondition_words(specs: Sequence[TargetSpec]) -> list[str]:
    """Return the options of a precondition that goes where the replay will."""
    spec = next((each for each in specs if each.name == "file"), None)
    if spec is None:
        raise UsageError("needs --device", where="--precondition")
    words = ["--device", str(spec.path)]
    if spec.size_bytes is not None:
        words += ["--size", exact_bytes(spec.size_bytes)]
    if spec.allow_destroy is not None:
        words += ["--allow-destroy", spec.allow_destroy]
    for kind in spec.allow_signature:
        words += ["--allow-signature", kind]
    return words


def _replay_all(steps: Steps, words: Sequence[str], trials: int) -> bool:
    """Run all trials; return whether each may be used, or was accepted."""
    from kvtrace.cli.metrics import trial_words
    from replay.compare.folder import TRACE, report_paths, result_path
    from replay.result import stored

    good = True
    for number in range(1, trials + 1):
        say(f"trial {number} of {trials} begins", err=True)
        forms = report_paths(steps.folder, number)
        reports = [word for path in forms for word in ("--report", word_of(path))]
        of_trial = trial_words(words, steps.folder.name, number, trials)
        code = steps.run(
            "replay", word_of(steps.folder / TRACE), "--full", *of_trial, *reports,
            into=result_path(steps.folder, number, ".txt"), may_end=(EXIT_OK, EXIT_INVALID),
        )  # fmt: skip
        if steps.children.stopped and not forms[0].exists():
            raise RunInterruptedError("stopped before the trial had a result", where=steps.folder)
        document = stored.load(forms[0])
        say(f"trial {number} of {trials}: {_said(document)}", err=True)
        good &= code == EXIT_OK
        if steps.children.stopped:
            raise RunInterruptedError(
                f"stopped in trial {number} of {trials}", where=steps.folder,
                hint="its result is INVALID (interrupted)",
            )  # fmt: skip
        lasting = [r for r in document.reasons if r.code in LASTING and not r.accepted]
        if lasting:
            raise _UselessError(number, lasting)
    return good


def _said(document: ResultDocument) -> str:
    rate = document.throughput_bytes_per_s
    speed = "no window" if rate is None else f"{rate / 1e9:.3f} GB/s"
    why = ", ".join(reason.code for reason in document.reasons)
    return f"{document.verdict}{f' ({why})' if why else ''}, {speed}"


def _finish(steps: Steps) -> Any:
    """Write what the trials say together, the system's description and the checksums."""
    from replay.compare import folder as bench_folder
    from replay.compare import report
    from replay.compare.folder import BENCH_FORMS, SYSTEM

    folder = steps.folder
    steps.run("discover", "--json", into=folder / SYSTEM)
    comparison = bench_folder.summary(folder)
    for name in BENCH_FORMS:
        report.write(comparison, folder / name, f"Trials: {folder.name}")
    bench_folder.write_checksums(folder)
    return comparison


def _verify(folder: Path, *, as_json: bool) -> int:
    """Print what was checked of a folder; return the exit code."""
    from replay.compare import folder as bench_folder
    from replay.compare.mlperf import folder as mlperf_folder

    whole = mlperf_folder.is_suite(folder)
    findings = mlperf_folder.verify(folder) if whole else bench_folder.verify(folder)
    if as_json:
        print(json.dumps([{"what": each.what, "problem": each.problem} for each in findings]))
    else:
        for each in findings:
            mark = "ok " if each.problem is None else "NO "
            say(f"{mark} {each.what}{'' if each.problem is None else f': {each.problem}'}")
    return EXIT_OK if all(each.problem is None for each in findings) else EXIT_TRACE
