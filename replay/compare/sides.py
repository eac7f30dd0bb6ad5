"""Sides of a comparison: one result or several trials, under a name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.errors import TraceError, UsageError
from kvtrace.show.printable import utf8
from replay.compare import tools
from replay.compare.figures import Figure, of_result
from replay.compare.setup import UNKNOWN, Setup, setup_of
from replay.result import stored

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from replay.host.environment import Environment
    from replay.result.document import ResultDocument

TRIALS_FOLDER = "results"
TRIAL_GLOB = "trial-*.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One result: its figures, and its document if it is one of ours."""

    name: str
    figures: tuple[Figure, ...]
    document: ResultDocument | None
    cautions: tuple[str, ...] = ()
    """What is unfair about comparing its figures."""
    stated: Setup = UNKNOWN
    """How another tool says that it measured."""

    def figure(self, name: str) -> Figure | None:
        """Return the figure of that name; None if it hasn't one."""
        return next((figure for figure in self.figures if figure.name == name), None)

    @property
    def setup(self) -> Setup:
        """How it was measured, as far as that is known."""
        return self.stated if self.document is None else setup_of(self.document)

    @property
    def verdict(self) -> str:
        """VALID, INVALID or UNJUDGED."""
        return "UNJUDGED" if self.document is None else self.document.verdict


@dataclass(frozen=True, slots=True)
class Side:
    """Trials of one thing, at least one."""

    label: str
    trials: tuple[Trial, ...]

    def values(self, name: str) -> list[float]:
        """Return a figure of all trials that have it."""
        known = (trial.figure(name) for trial in self.trials)
        return [figure.value for figure in known if figure is not None]


def load_trial(path: Path) -> Trial:
    """Return the result in a file: ours, a result trace, or another tool's. Raises TraceError."""
    theirs = tools.load(path)
    if theirs is not None:
        return Trial(utf8(path.name), theirs.figures, None, (theirs.caution,), theirs.setup)
    document = stored.load(path)
    return Trial(utf8(path.name), of_result(document), document)


def load_side(path: Path, label: str | None = None) -> Side:
    """Return a file's result, or the trials in a folder of `kvtrace bench`."""
    if path.is_dir() and not (path / "header.parquet").exists():
        paths = sorted((path / TRIALS_FOLDER).glob(TRIAL_GLOB))
        if not paths:
            raise TraceError(
                "no trials in it",
                where=path,
                accepted=f"a folder of `kvtrace bench`, with {TRIALS_FOLDER}/{TRIAL_GLOB}",
            )
        return Side(label or utf8(path.name), tuple(load_trial(each) for each in paths))
    return Side(label or utf8(path.stem), (load_trial(path),))


def check_alike(trials: Sequence[Trial]) -> None:
    """Return if the trials are of one thing. Raises UsageError for what makes a mean senseless."""
    documents = [(trial.name, trial.document) for trial in trials if trial.document is not None]
    if not documents:
        return
    first_name, first = documents[0]
    for name, document in documents[1:]:
        for what, one, other in (
            ("trace", first.trace.sha256, document.trace.sha256),
            ("options", _options(first), _options(document)),
            ("environment", digest(first.environment), digest(document.environment)),
        ):
            if one != other:
                raise UsageError(
                    f"{first_name} and {name} have different {what}: their mean says nothing",
                    got=f"{one[:16]} and {other[:16]}",
                    hint="`kvtrace compare` puts them side by side",
                )


def _options(document: ResultDocument) -> str:
    if document.config is None:
        return ""
    return _hashed(document.config.model_dump(mode="json", exclude={"run_id", "accept"}))


def digest(environment: Environment | None) -> str:
    """Return the identity of machine, settings and targets, without command and paths."""
    if environment is None:
        return ""
    fields = dataclasses.asdict(environment)
    del fields["command"]
    for target in fields["targets"]:
        del target["title"]
    return _hashed(fields)


def _hashed(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
