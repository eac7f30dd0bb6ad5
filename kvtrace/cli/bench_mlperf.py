"""`kvtrace bench mlperf-storage`: the three options of the rules, each a bench, and their score."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from kvtrace.cli.bench import word_of
from kvtrace.cli.console import plain_console, say
from kvtrace.cli.steps import Steps
from kvtrace.errors import EXIT_INVALID, EXIT_OK, UsageError
from kvtrace.placement.defaults import SLACK_RATIO
from kvtrace.placement.extents import check_fits
from kvtrace.recording.config import resolve
from kvtrace.recording.pipeline import record
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import S_NS, UNLIMITED, parse_duration_ns
from replay.compare import folder as bench_folder
from replay.compare.mlperf import folder as mlperf_folder
from replay.compare.mlperf.rules import DELAY_NS, OPTIONS, SEED, TRIALS, Conditions
from replay.compare.mlperf.terminal import render
from replay.plan.prepare import choose_targets
from replay.report.support.cells import WIDTH
from replay.watch import RunInterruptedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kvtrace.placement.extents import Need
    from replay.compare.mlperf.folder import ScoreDocument
    from replay.compare.mlperf.rules import Option
    from replay.options import ReplayOptions
    from replay.targets import TargetSpec


def run_options(
    folder: Path,
    words: Sequence[str],
    settings: Sequence[str],
    run: tuple[tuple[TargetSpec, ...], ReplayOptions],
    *,
    trials: int | None,
    delay: str | None,
    precondition: bool,
    as_json: bool,
) -> int:
    """Run a bench of each option with the waits between them; print the score.

    `words`: options of the replays, understood as `run`; `settings`: of the recordings. Returns the
    exit code. Raises UsageError for settings that no recording can have or that need an endless
    device, TargetError for a target that is too small for one of the options.
    """
    delay_ns = DELAY_NS if delay is None else parse_duration_ns(delay)
    settings = _with_seed(settings)
    for option in OPTIONS:
        _check(option, settings, folder, run)
    conditions = Conditions(delay_ns, precondition, _keys(settings))
    steps, valid = Steps(folder), True
    with bench_folder.made(folder, lambda place: say(f"results so far: {place}", err=True), ()):
        for option in OPTIONS:
            if option.number > 1:
                _wait(steps, delay_ns)
            say(f"option {option.number} of {len(OPTIONS)}: {option.name}", err=True)
            prepare = ["--precondition"] * (precondition and option.number == 1)
            valid &= _bench(steps, option, [*prepare, *words], settings, trials or TRIALS)
        document = mlperf_folder.document_of(folder, conditions)
        mlperf_folder.write(folder, document)
    show(document, as_json=as_json)
    return EXIT_OK if valid else EXIT_INVALID


def _with_seed(settings: Sequence[str]) -> list[str]:
    """Return the settings with the rules' seed, unless they have another."""
    return [*settings, *([] if "seed" in _keys(settings) else [f"seed={SEED}"])]


def _keys(settings: Sequence[str]) -> list[str]:
    """Return what the settings set, each once, in order."""
    return list(dict.fromkeys(text.partition("=")[0].strip() for text in settings))


def _check(
    option: Option,
    settings: Sequence[str],
    folder: Path,
    run: tuple[tuple[TargetSpec, ...], ReplayOptions],
) -> None:
    """Raise for what would end the sequence later: a device too small, storage that isn't read."""
    config = resolve(None, {}, settings, option.preset).config
    if config.tiers.nvme.capacity in (None, UNLIMITED):
        raise UsageError(
            "the options write more than any device holds, unless tier nvme has a limit",
            where="--set tiers.nvme.capacity",
            got="unlimited",
            accepted="what the device may hold, e.g. --set tiers.nvme.capacity=2TiB",
        )
    made = record(config, folder / "dry.parquet", dry_run=True)
    read = (Tier.NVME.label, Op.READ.label)
    if not any((cell.tier, cell.op) == read for cell in made.header.totals.cells):
        raise UsageError(
            "would never read from tier nvme: what is before it holds everything",
            where=f"option {option.number} ({option.preset})",
            got=f"{made.stats.requests:,} requests",
            hint="raise requests, or leave --set requests out",
        )
    assert made.needs is not None, "of a dry run they are known"
    _check_room(made.needs, *run)


def _check_room(
    needs: Mapping[Tier, Need], specs: tuple[TargetSpec, ...], options: ReplayOptions
) -> None:
    """Raise TargetError for a target that is smaller than what its tier needs of it."""
    for tier, target in choose_targets(specs, options.tiers).items():
        with closing(target):
            if tier not in needs:
                continue
            need = needs[tier]
            if options.slack_ratio != SLACK_RATIO:  # then what is needed for certain
                need = replace(need, size_bytes=need.live_bytes)
            check_fits(need, target.space(), target.title)
            target.reserve(need)


def _wait(steps: Steps, delay_ns: int) -> None:
    if delay_ns:
        say(f"waiting {delay_ns / S_NS:g} s before the next option", err=True)
        steps.children.wait(delay_ns / S_NS)
    if steps.children.stopped:
        raise RunInterruptedError("stopped between two options", where=steps.folder)


def _bench(
    steps: Steps, option: Option, words: Sequence[str], settings: Sequence[str], trials: int
) -> bool:
    """Run the bench of an option; return whether each of its trials may be used."""
    place = mlperf_folder.option_folder(steps.folder, option)
    sets = [word for text in settings for word in ("--set", text)]
    code = steps.run(
        "bench", option.preset, "--folder", word_of(place), "--trials", str(trials), *sets, *words,
        may_end=(EXIT_OK, EXIT_INVALID),
    )  # fmt: skip
    if steps.children.stopped or not (place / bench_folder.CHECKSUMS).is_file():
        raise RunInterruptedError(
            f"option {option.number} ended before all of its trials", where=steps.folder,
            hint="see above",
        )  # fmt: skip
    return code == EXIT_OK


def show(document: ScoreDocument, *, as_json: bool) -> None:
    """Print a score."""
    if as_json:
        print(document.model_dump_json(indent=2))
        return
    console = plain_console(width_max=WIDTH)
    for part in render(document):
        console.print(part)
