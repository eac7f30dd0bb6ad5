"""The figures of what-ifs by column, and what they come to in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvtrace.trace.schema import Op, Tier
from kvtrace.units import GIB
from kvtrace.whatif import plot
from kvtrace.whatif.answers import Answers
from kvtrace.whatif.grid import Outcome


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of each combination; its head names the unit. None: not of that combination."""

    head: str
    value: Callable[[Outcome], float | None]


Columns = list[Column]


def swept_keys(choices: dict[str, list[str]]) -> list[str]:
    """Return the options that have several values."""
    return [key for key, values in choices.items() if len(values) > 1]


def tiers_of(answers: Answers) -> list[Tier]:
    """Return the tiers that some combination has."""
    return [tier for tier in Tier if any(tier in each.tiers for each in answers.outcomes)]


def hit_columns(answers: Answers) -> Columns:
    """Return hit ratios per tier, of all, and the optimum's where it is known."""
    columns = [Column(f"{tier.label} hit ratio", _hit(tier)) for tier in tiers_of(answers)]
    columns.append(Column("all tiers hit ratio", lambda each: each.total_hit_ratio))
    if any(each.optimal is not None for each in answers.outcomes):
        columns.append(Column("OPT hit ratio", lambda each: each.optimal))
    return columns


def _hit(tier: Tier) -> Callable[[Outcome], float | None]:
    return lambda each: each.hit_ratio(tier) if tier in each.tiers else None


def byte_columns(answers: Answers) -> Columns:
    """Return the node's reads and writes per tier, and nvme's wear."""
    columns = [
        Column(f"{tier.label} {past} (GiB)", _moved(tier, op))
        for tier in tiers_of(answers)
        for op, past in ((Op.READ, "read"), (Op.WRITE, "written"))
    ]
    if Tier.NVME in tiers_of(answers):
        columns += [
            Column("nvme read ÷ written", lambda each: each.read_write_ratio(Tier.NVME)),
            Column("nvme written (GiB/day)", _per_day),
            Column("drive writes per day", lambda each: each.drive_writes_per_day),
        ]
    return columns


def _moved(tier: Tier, op: Op) -> Callable[[Outcome], float | None]:
    return lambda each: each.node_bytes(tier, op) / GIB if tier in each.tiers else None


def _per_day(outcome: Outcome) -> float | None:
    per_day = outcome.nvme_bytes_per_day
    return None if per_day is None else per_day / GIB


def curve_rows(answers: Answers) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Return heads and rows of the curves, at the sizes that all of them have."""
    policies = [plot.policy_name(each.policy) for each in answers.curves]
    heads = ("size (GiB)", "blocks", *(f"{policy} miss ratio" for policy in policies))
    known = [dict(zip(each.blocks, each.miss_ratio, strict=True)) for each in answers.curves]
    rows: list[tuple[object, ...]] = [
        (blocks * answers.block_bytes / GIB, blocks, *(each[blocks] for each in known))
        for blocks in answers.curves[-1].blocks
    ]
    return heads, rows


def short_number(value: float) -> str:
    """Return a number with two decimals, a long one without."""
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def headline(answers: Answers, keys: list[str]) -> Iterator[str]:
    """Yield what the combinations come to: the best, the worst, the ceiling, nvme's wear."""
    ranked = sorted(answers.outcomes, key=lambda each: each.total_hit_ratio)
    worst, best = ranked[0], ranked[-1]
    if len(ranked) == 1:
        yield f"{best.total_hit_ratio:.1%} of the blocks asked for are in some tier."
    elif best.total_hit_ratio == worst.total_hit_ratio:
        yield f"All {len(ranked)} combinations have {best.total_hit_ratio:.1%} of the blocks."
    else:
        yield (
            f"Hit ratios go from {worst.total_hit_ratio:.1%} ({_named(worst, keys)}) to "
            f"{best.total_hit_ratio:.1%} ({_named(best, keys)})."
        )
    if best.optimal is not None:
        yield f"No cache as large as the best could serve more than {best.optimal:.1%}."
    per_day, wear = _per_day(best), best.drive_writes_per_day
    if per_day is not None:
        often = "" if wear is None else f", {short_number(wear)} drive writes per day"
        yield f"There the node writes {per_day:,.0f} GiB per day to nvme{often}."


def _named(outcome: Outcome, keys: list[str]) -> str:
    return ", ".join(f"{plot.short(key)} {outcome.options[key]}" for key in keys)
