"""A trace's profile as JSON: time slices, distributions in figures, hit ratios by cache size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvtrace.tools.distribution import Distribution
    from kvtrace.tools.profile import Profile
    from kvtrace.tools.profile_tier import TierProfile

QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
Figures = dict[str, float | None]


def figures(numbers: Distribution) -> Figures:
    """Return count, mean and quantiles; null without any number."""
    known = bool(numbers.count)
    return {
        "count": numbers.count,
        "mean": numbers.mean if known else None,
        **{name: numbers.quantile(share) if known else None for name, share in QUANTILES},
    }


def distributions(tier: TierProfile) -> Iterator[tuple[str, Distribution]]:
    """Yield a tier's distributions with their names."""
    yield "read_size_bytes", tier.sizes[Op.READ]
    yield "write_size_bytes", tier.sizes[Op.WRITE]
    yield "reuse_distance_objects", tier.reuse_distance
    yield "reuse_ns", tier.reuse_ns


def document(profile: Profile) -> dict[str, Any]:
    """Return a profile as JSON has it.

    Of `time_slices` all lists have `count` values; `hits` and `computed` are null where the rows
    don't tell requests apart. `objects` and `object_bytes` are estimates if `sampled_1_in` isn't 1.
    """
    slices, keys = profile.slices, profile.keys
    hits = {tier.label: profile.hits[tier].tolist() for tier, _ in in_order(profile)}
    sizes = profile.lru_sizes()
    return {
        "objects": keys.objects,
        "object_bytes": keys.bytes,
        "sampled_1_in": keys.weight,
        "hit_ratio": profile.hit_ratio,
        "time_slices": {
            "first_ns": slices.first_ns,
            "width_ns": slices.width_ns,
            "count": slices.count,
            "touched_bytes": keys.touched_bytes().tolist(),
            "hits": hits if profile.by_request else None,
            "computed": profile.computed.tolist() if profile.by_request else None,
            "tiers": {tier.label: _slices(own) for tier, own in in_order(profile)},
        },
        "tiers": {tier.label: _tier(own) for tier, own in in_order(profile)},
        "one_lru_cache": {
            "objects": sizes.tolist(),
            "hit_ratio": profile.lru_hit_ratio(sizes).tolist(),
        },
    }


def _slices(tier: TierProfile) -> dict[str, list[int]]:
    ops = {f"{op.name.lower()}_ops": tier.ops[:, op].tolist() for op in Op}
    moved = {f"{op.label}_bytes": tier.bytes[:, op].tolist() for op in (Op.READ, Op.WRITE)}
    return {**ops, **moved, "held_bytes_max": tier.held_bytes().tolist()}


def _tier(tier: TierProfile) -> dict[str, Any]:
    return {
        "held_bytes_max": tier.held_bytes_max,
        "derived_residents": tier.derived,
        **{name: figures(numbers) for name, numbers in distributions(tier)},
    }


def in_order(profile: Profile) -> list[tuple[Tier, TierProfile]]:
    """Return the tiers that have rows or residents, fastest first."""
    return [(tier, profile.tiers[tier]) for tier in sorted(profile.tiers)]
