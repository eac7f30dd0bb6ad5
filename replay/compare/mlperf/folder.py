"""The folder of a whole sequence: a bench per option, `score.json`, log and checksums."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field

from kvtrace.errors import KvtraceError, TraceError
from kvtrace.fields import Section
from kvtrace.files.outfile import OutFile
from kvtrace.trace.reader import open_trace
from replay.compare import folder as bench_folder
from replay.compare.document import ComparisonDocument
from replay.compare.folder import Finding
from replay.compare.mlperf import rules
from replay.compare.mlperf.rules import OPTIONS, RULES, Option, Rule
from replay.compare.mlperf.score import OurFigure, Score, ours_of, score_of
from replay.compare.sides import load_side

if TYPE_CHECKING:
    from pathlib import Path

SCORE = "score.json"
SCHEMA_VERSION = 1


class OptionDocument(Section):
    """What came of one option."""

    option: int
    name: str
    folder: str
    verdicts: list[str]
    score: Score
    ours: list[OurFigure]


class ScoreDocument(Section):
    """What came of the sequence."""

    schema_version: int = SCHEMA_VERSION
    rules: str = RULES
    delay_ns: int
    preconditioned: bool
    settings: list[str] = Field(default_factory=list)
    options: list[OptionDocument]
    kept_and_not: list[Rule]

    @property
    def broken(self) -> list[Rule]:
        """The rules that weren't kept."""
        return [rule for rule in self.kept_and_not if not rule.kept]


def option_folder(folder: Path, option: Option) -> Path:
    """Return where the bench of an option lies."""
    return folder / f"option-{option.number}"


def is_suite(folder: Path) -> bool:
    """Whether a folder is one of a whole sequence."""
    return (folder / SCORE).is_file()


def document_of(folder: Path, done: rules.Conditions) -> ScoreDocument:
    """Return what the benches in a folder come to."""
    options = [_option(folder, option) for option in OPTIONS]
    kept_and_not = list(rules.of_sequence(done))
    for option in OPTIONS:
        place = option_folder(folder, option)
        with open_trace(place / bench_folder.TRACE) as trace:
            config = trace.header.config or {}
        kept_and_not += rules.of_option(option, config, _seconds(place))
    return ScoreDocument(
        delay_ns=done.delay_ns,
        preconditioned=done.preconditioned,
        settings=list(done.settings),
        options=options,
        kept_and_not=kept_and_not,
    )


def _option(folder: Path, option: Option) -> OptionDocument:
    place = option_folder(folder, option)
    bench = ComparisonDocument.model_validate_json((place / bench_folder.BENCH).read_bytes())
    return OptionDocument(
        option=option.number,
        name=option.name,
        folder=place.name,
        verdicts=[trial.verdict for trial in bench.sides[0].trials],
        score=score_of(_mlperf(place)),
        ours=ours_of(bench),
    )


def _mlperf(place: Path) -> list[dict[str, Any]]:
    return [_result(path) for path in sorted((place / bench_folder.MLPERF_FOLDER).iterdir())]


def _result(path: Path) -> dict[str, Any]:
    """Return a trial's result in the benchmark's form. Raises TraceError for other JSON."""
    result = json.loads(path.read_bytes())
    if not isinstance(result, dict) or not isinstance(result.get("summary"), dict):
        raise TraceError(
            "not a result of the benchmark", where=path, accepted="an object with a summary"
        )
    return result


def _seconds(place: Path) -> list[float]:
    return [
        trial.document.window_s for trial in load_side(place).trials if trial.document is not None
    ]


def write(folder: Path, document: ScoreDocument) -> None:
    """Write the score, then the checksums of everything."""
    with OutFile(folder / SCORE, force=False) as file:
        file.write(document.model_dump_json(indent=2).encode() + b"\n")
    bench_folder.write_checksums(folder)


def verify(folder: Path) -> list[Finding]:
    """Return what was checked: each option's bench as by itself, then the score."""
    findings = [bench_folder.unchanged(folder)]
    for option in OPTIONS:
        place = option_folder(folder, option)
        try:
            of_option = bench_folder.verify(place)
        except KvtraceError as error:
            of_option = [Finding("the folder is whole", str(error))]
        findings += [Finding(f"{place.name}: {each.what}", each.problem) for each in of_option]
    findings.append(Finding(f"{SCORE} says what the options' benches say", _same_score(folder)))
    return findings


def _same_score(folder: Path) -> str | None:
    try:
        stored = ScoreDocument.model_validate_json((folder / SCORE).read_bytes())
        done = rules.Conditions(stored.delay_ns, stored.preconditioned, stored.settings)
        again = document_of(folder, done)
    except (ValueError, OSError, KvtraceError) as error:
        return bench_folder.problem_of(error)
    for one, other in zip(stored.options, again.options, strict=False):
        if one != other:
            return f"option {one.option}: {one.score} there, {other.score} from its trials"
    return None if stored == again else "it has other options or rules"
