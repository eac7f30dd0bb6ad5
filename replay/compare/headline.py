"""Outcome of a comparison in a few sentences that claim no more than its statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replay.compare import words
from replay.compare.facts import ROUNDS
from replay.compare.figures import NS, rate_name, response_name, time_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from replay.compare.document import FactDocument, FigureDocument, SideDocument, SpreadDocument

TIERS = ("nvme", "object", "cpu", "gpu")
"""Of the first of these that all sides have figures of, the sentences speak: storage first."""
OPS = ("read", "write")
_UNLIKE = ("trace", ROUNDS, "tiers", "mode", "queue depth", "I/O size", "engine")
"""Facts without which ratios are of something else than devices."""
_INVALID, _RESPONSE = "INVALID", " response "
_HARDLY = 1.1
"""Below this ratio a difference is told in per cent."""


def sentences(
    sides: Sequence[SideDocument], figures: Sequence[FigureDocument], facts: Sequence[FactDocument]
) -> Iterator[str]:
    """Yield the sentences, the most important first."""
    by_name = {figure.name: figure for figure in figures}
    yield from _not_usable(sides)
    if len(sides) == 1:
        yield from _alone(sides[0], by_name)
        return
    modes = next((fact.values for fact in facts if fact.name == "mode"), [])
    paced = bool(modes) and all((mode or "").startswith("open") for mode in modes)
    for at, side in enumerate(sides[1:], start=1):
        yield from _against(by_name, sides[0].label, side.label, at, paced=paced)
    yield from _unknown_noise(sides)
    unlike = [fact.name for fact in facts if fact.differs and fact.name in _UNLIKE]
    if unlike:
        yield f"Not like for like: the sides differ in {_joined(unlike)}."


def main_tier(figures: Mapping[str, FigureDocument]) -> str | None:
    """Return the tier that the sentences are about; None where no tier is every side's."""
    return next((tier for tier in TIERS if any(_shared(figures, tier))), None)


def _shared(figures: Mapping[str, FigureDocument], tier: str) -> Iterator[FigureDocument]:
    for op in OPS:
        for name in (rate_name(tier, op), time_name(f"{tier} {op}", "p50")):
            if name in figures and None not in figures[name].sides:
                yield figures[name]


def _not_usable(sides: Sequence[SideDocument]) -> Iterator[str]:
    """Yield which sides have INVALID trials, and why; sides of which the same is true together."""
    alike: dict[str, list[str]] = {}
    for side in sides:
        bad = [trial for trial in side.trials if trial.verdict == _INVALID]
        if not bad:
            continue
        codes = ", ".join(sorted({code for trial in bad for code in trial.reasons}))
        accepted = all(reason.accepted for trial in bad for reason in trial.reason_details)
        advice = "accepted when it was run" if accepted else "don't rely on these figures"
        count = f"{len(bad)} of {len(side.trials)} trials"
        alike.setdefault(f"INVALID in {count} ({codes}): {advice}", []).append(side.label)
    for what, labels in alike.items():
        yield f"{_joined(labels)} {'is' if len(labels) == 1 else 'are'} {what}."


def _alone(side: SideDocument, figures: Mapping[str, FigureDocument]) -> Iterator[str]:
    """Yield what the trials of one side say of its reads and writes."""
    tier = main_tier(figures)
    for op in OPS if tier else ():
        clauses = []
        rate = figures.get(rate_name(str(tier), op))
        if rate is not None and rate.sides[0] is not None:
            clauses.append(_sure(rate, rate.sides[0]))
        for percentile in ("p50", "p99"):
            time = figures.get(time_name(f"{tier} {op}", percentile))
            if time is not None and time.sides[0] is not None:
                title = time.name.rpartition(" ")[2]
                clauses.append(f"{title} {words.marked(time.sides[0], time.unit)}")
        if clauses:
            yield f"{op.capitalize()}s of tier {tier}: {', '.join(clauses)}."
    valid = sum(trial.verdict == "VALID" for trial in side.trials)
    if len(side.trials) == 1:
        yield "One trial: how much the figures scatter isn't known."
    elif valid == len(side.trials):
        yield f"All {valid} trials are VALID."


def _sure(figure: FigureDocument, spread: SpreadDocument) -> str:
    mean = words.value(spread.mean, figure.unit)
    if spread.ci95 is None:
        return mean
    return f"{mean} (95 %: {words.interval(spread.ci95, figure.unit)})"


def _against(
    figures: Mapping[str, FigureDocument], base: str, label: str, at: int, *, paced: bool
) -> Iterator[str]:
    """Yield how one side's speed and P99 are to the first side's."""
    pair = {
        name: figure
        for name, figure in figures.items()
        if figure.sides[0] is not None and figure.sides[at] is not None
    }
    tier = next((tier for tier in TIERS if any(_speed(pair, tier, op) for op in OPS)), None)
    if tier is None:
        total = pair.get("throughput")
        if total is None:
            yield f"{label} and {base} have no rate or time in common."
        else:
            yield f"Compared with {base}, {label} is {_clause(total, at, 'in all')}."
        return
    speeds = [(op, _speed(pair, tier, op, paced=paced)) for op in OPS]
    speed = _merged([_clause(each, at, f"in {op}s") for op, each in speeds if each is not None])
    tails = [(op, _time(pair, tier, op, "p99", paced=paced)) for op in OPS]
    known = [(op, figure) for op, figure in tails if figure is not None]
    yield f"Compared with {base}, {label} is {speed}{_tail(known, at, speed)}."


def _tail(known: Sequence[tuple[str, FigureDocument]], at: int, speeds: str) -> str:
    """Return what is to be said of P99 behind the speeds; the same is said together."""
    if not known:
        return ""
    spreads = [spread for _, figure in known for spread in (figure.sides[0], figure.sides[at])]
    few = any(spread is not None and spread.few_samples for spread in spreads)
    clauses = [_clause(figure, at, f"in {op}s") for op, figure in known]
    name = f"P99{words.FEW_MARK if few else ''}"
    if any(_RESPONSE in figure.name for _, figure in known):
        name += " of response times"
    merged = _merged(clauses)
    return f", {name} too" if merged == speeds else f"; {name} is {merged}"


def _speed(
    pair: Mapping[str, FigureDocument], tier: str, op: str, *, paced: bool = False
) -> FigureDocument | None:
    """Return the figure of how fast ops are: their rate, or P50 where the trace sets the pace."""
    rate, time = pair.get(rate_name(tier, op)), _time(pair, tier, op, "p50", paced=paced)
    return (time or rate) if paced else (rate or time)


def _time(
    pair: Mapping[str, FigureDocument], tier: str, op: str, percentile: str, *, paced: bool
) -> FigureDocument | None:
    """Return a percentile of service times; with a schedule that of response times, if known."""
    response = pair.get(time_name(response_name(tier, op), percentile))
    service = pair.get(time_name(f"{tier} {op}", percentile))
    return response if paced and response is not None else service


def _clause(figure: FigureDocument, at: int, where: str) -> str:
    """Return one figure of a side against the first's, such as `2.1 × faster in reads (...)`."""
    base, other = figure.sides[0], figure.sides[at]
    assert base is not None
    assert other is not None
    if other.beyond_noise is False:
        return f"within noise {where}"
    if not other.ratio or other.ratio == 1:
        return f"the same {where}" if base.mean == other.mean else f"not comparable {where}"
    grew = other.ratio > 1
    factor = other.ratio if grew else 1 / other.ratio
    much = f"{factor - 1:.1%}" if factor < _HARDLY else f"{factor:,.3g} ×".replace(",", " ")
    if figure.unit == NS and figure.name.endswith("P99"):
        word = "longer" if grew else "shorter"
    else:
        word = "faster" if grew == figure.higher_is_better else "slower"
    title = "P50 " if figure.unit == NS and figure.name.endswith("P50") else ""
    title = f"response {title}" if title and _RESPONSE in figure.name else title
    both = words.against(other.mean, base.mean, figure.unit)
    return f"{much.replace('%', ' %')} {word} {where} ({title}{both})"


def _merged(clauses: Sequence[str]) -> str:
    """Return clauses in one sentence; what all have in common is told once."""
    heads = {clause.partition(" in ")[0] for clause in clauses}
    if len(clauses) > 1 and len(heads) == 1 and "(" not in clauses[0]:
        return f"{heads.pop()} in {_joined([clause.partition(' in ')[2] for clause in clauses])}"
    return _joined(clauses)


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _unknown_noise(sides: Sequence[SideDocument]) -> Iterator[str]:
    single = [side.label for side in sides if len(side.trials) == 1]
    if not single:
        return
    who = "Each side has" if len(single) == len(sides) else f"{_joined(single)} has"
    yield f"{who} one trial, so that its noise isn't known: the differences may be chance."
