"""A score for people: fits 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from kvtrace.show.tables import fitting, wrapped
from replay.compare import words
from replay.compare.mlperf.score import OURS
from replay.report.support.cells import WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from replay.compare.mlperf.folder import OptionDocument, ScoreDocument
    from replay.compare.mlperf.rules import Rule

_FIGURES = (
    ("storage read bandwidth", "read_bandwidth_gib_per_s", "GiB/s", ".3f"),
    ("storage write bandwidth", "write_bandwidth_gib_per_s", "GiB/s", ".3f"),
    ("device read P95, maximum", "device_read_p95_ms", "ms", ",.1f"),
    ("device write P95, maximum", "device_write_p95_ms", "ms", ",.1f"),
    ("storage throughput", "storage_tokens_per_s", "tokens/s", ",.0f"),
)


def render(document: ScoreDocument) -> Iterator[RenderableType]:
    """Yield what is to be printed: sentence, score by option, rules that weren't kept."""
    yield Text("\n".join(wrapped(_sentence(document), WIDTH)), style="bold")
    yield Text("")
    heads = ["figure", *(f"option {each.option}" for each in document.options)]
    yield fitting(heads, list(_rows(document)), width=WIDTH, names=1)
    broken = document.broken
    yield Text("")
    yield Text(f"Rules not kept ({len(broken)} of {len(document.kept_and_not)}):")
    by_name = {rule.rule: [each for each in broken if each.rule == rule.rule] for rule in broken}
    for alike in by_name.values():
        yield Text("\n".join(wrapped(_line(alike), WIDTH, "  ")))


def _sentence(document: ScoreDocument) -> str:
    verdicts = [verdict for each in document.options for verdict in each.verdicts]
    good = sum(verdict == "VALID" for verdict in verdicts)
    judged = (
        f"All {good} trials are VALID." if good == len(verdicts)
        else f"{len(verdicts) - good} of {len(verdicts)} trials are not VALID: don't rely on these "
        "figures."
    )  # fmt: skip
    return f"{document.rules}. {judged} Parity with its figures, not a submission."


def _rows(document: ScoreDocument) -> Iterator[list[str]]:
    """Yield the rules' figures, then ours."""
    for name, field, unit, form in _FIGURES:
        values = [getattr(each.score, field) for each in document.options]
        texts = ["not known" if value is None else format(value, form) for value in values]
        yield [f"{name}, {unit}", *texts]
    for name in OURS:
        cells = [_ours(each, name) for each in document.options]
        if any(cells):
            yield [name, *(cell or "-" for cell in cells)]


def _ours(option: OptionDocument, name: str) -> str:
    return next(
        (words.marked(each.spread, each.unit) for each in option.ours if each.name == name), ""
    )


def _line(alike: list[Rule]) -> str:
    """Return a line on a rule that one or more options didn't keep."""
    first = alike[0]
    numbers = ", ".join(str(rule.option) for rule in alike if rule.option is not None)
    of = f" (option {numbers})" if numbers else ""
    asked = ", ".join(dict.fromkeys(rule.asked for rule in alike))
    done = ", ".join(dict.fromkeys(rule.done for rule in alike))
    why = f"; {first.why}" if first.why else ""
    return f"{first.rule}{of}: {asked} asked, {done} here{why}"
