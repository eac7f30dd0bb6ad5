"""A smaller node for a smaller device: tiers and load shrink together, so that hit ratios stay.

Half of the users on half of the capacity find as much of what they ask for as all do on the whole,
as long as users and shared prompts are many. Where a device is too small even for a few users, a
tier nvme that never deletes is filled for less time; then the model's layers are thinned: objects
and tiers become smaller by one factor, which changes no hit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kvtrace import sources
from kvtrace.errors import UsageError
from kvtrace.models import load_model
from kvtrace.placement.extents import RESERVED_BYTES
from kvtrace.recording.config import DEFAULT_DURATION_NS
from kvtrace.trace.schema import Tier
from kvtrace.units import UNLIMITED, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvtrace.recording.config import RecordConfig
    from kvtrace.requests.source_config import SourceConfig

    Measure = Callable[[RecordConfig], "Outcome"]
    """Makes a recording, and says what it came to."""

USERS_MIN, REQUESTS_MIN = 8, 400
"""What is left of a load before something else is made smaller: of fewer, hit ratios vary."""
SHARE_MIN = 1 / 32
"""Of a load that isn't users: what is left of it before something else is made smaller."""
_LEAST_SHARE, _LEAST_REQUESTS = 1 / 1024, 10
"""What is left at all: of a load that isn't users, and of requests."""
_TRIALS = 8
_FULL_RATIO, _AIM_RATIO = 0.85, 0.97
"""How much of the device is needed at least, if it can be, and what a next trial aims at."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a recording came to. `needed_bytes`: of a device of tier nvme; 0 without rows there."""

    needed_bytes: int
    requests: int
    hit_ratio: dict[str, float]
    read_bytes: int
    write_bytes: int

    def document(self) -> dict[str, Any]:
        """Return the whole node's hit ratios and nvme's read:write for the header."""
        ratio = self.read_bytes / self.write_bytes if self.write_bytes else None
        return {"hit_ratio": self.hit_ratio, "read_write_ratio": ratio}


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What became of a node: its load and tiers, time and layers ÷ those of the whole one."""

    share: float = 1.0
    time: float = 1.0
    layers: int = 1
    all_layers: int = 1
    of_whole: dict[str, Any] | None = None
    """What the whole node's hit ratios are; None where they were not measured."""

    @property
    def nothing(self) -> bool:
        """Whether nothing was made smaller."""
        return self.share == 1 and self.time == 1 and self.layers == self.all_layers

    @property
    def capacity_ratio(self) -> float:
        """Capacities ÷ those of the whole node."""
        return self.share * self.layers / self.all_layers

    @property
    def text(self) -> str:
        """It in words."""
        parts = [f"{self.share:.2%} of load and tiers"]
        if self.time < 1:
            parts.append(f"{self.time:.2%} of the time")
        if self.layers < self.all_layers:
            parts.append(f"{self.layers} of {self.all_layers} layers")
        return ", ".join(parts)

    def document(self) -> dict[str, Any]:
        """Return it as the header has it."""
        return {
            "load_ratio": self.share,
            "time_ratio": self.time,
            "layers": self.layers,
            "of_layers": self.all_layers,
            "whole": self.of_whole,
        }


def whole(config: RecordConfig) -> Shrunk:
    """Return how much of the node a configuration has before anything was shrunk."""
    layers = config.layers or load_model(config.model).layers
    return Shrunk(layers=layers, all_layers=layers)


def shrunk(config: RecordConfig, by: Shrunk) -> RecordConfig:
    """Return `config` as small as `by`, whose share is one that `possible` gives."""
    share = by.share
    return config.model_copy(
        update={
            "source": config.source.model_copy(update=_load(config.source, share)),
            "tiers": config.tiers.model_copy(update=_tiers(config, by.capacity_ratio)),
            "decode_batch": config.decode_batch and max(1, round(config.decode_batch * share)),
            "requests": config.requests and max(1, round(config.requests * share * by.time)),
            "warmup": _warmup(config.warmup, share),
            "restart_at": config.restart_at and max(1, round(config.restart_at * by.time)),
            "duration": _duration(config, by.time),
            "layers": config.layers if by.layers == by.all_layers else by.layers,
            "fit": None,
            "scale": None,
        }
    )


def _load(source: SourceConfig, share: float) -> dict[str, Any]:
    """Return what of a source's keys a share of its load changes, of those that it has."""
    smaller: dict[str, Any] = {}
    known = sources.keys(source.name)
    if source.users is not None:
        smaller["users"] = round(int(source.users) * share)
    if source.rate is not None:
        smaller["rate"] = source.rate * share
    if "system_prompts" in known:
        prompts = max(1, round(source.system_prompts.count * share))
        smaller["system_prompts"] = source.system_prompts.model_copy(update={"count": prompts})
    if source.rag is not None:
        documents = max(1, round(source.rag.documents * share))
        smaller["rag"] = source.rag.model_copy(update={"documents": documents})
    if "scale_sessions" in known:
        smaller["scale_sessions"] = source.scale_sessions * share
    return smaller


def _tiers(config: RecordConfig, ratio: float) -> dict[str, Any]:
    """Return the tiers, all but unlimited ones smaller."""
    tiers = {}
    for tier in Tier:
        old = config.tiers.of(tier)
        if old.capacity and old.capacity < UNLIMITED:
            old = old.model_copy(update={"capacity": max(1, round(old.capacity * ratio))})
        tiers[tier.label] = old
    return tiers


def _warmup(warmup: str | None, share: float) -> str | None:
    """Return a warm-up of as many requests as are left of them; a duration stays."""
    return str(max(1, round(int(warmup) * share))) if warmup and warmup.isdigit() else warmup


def _duration(config: RecordConfig, time: float) -> int | None:
    if time == 1 or (config.duration is None and config.requests is not None):
        return config.duration
    return max(1, round((config.duration or DEFAULT_DURATION_NS) * time))


def possible(config: RecordConfig, share: float) -> float:
    """Return the share nearest to `share` that users, who are whole numbers, can have."""
    users = config.source.users
    return share if users is None else max(1, round(int(users) * share)) / int(users)


def refitted(
    config: RecordConfig, measure: Measure, report: Callable[[str], None]
) -> tuple[RecordConfig, Shrunk | None]:
    """Return the configuration that `fit` or `scale` ask for, and how much smaller it is.

    `report` hears of trials. Raises UsageError for a device that is too small for anything.
    """
    if config.scale is not None:
        by = replace(whole(config), share=possible(config, config.scale))
        return shrunk(config, by), by
    if config.fit is None:
        return config, None
    if not config.tiers.nvme.capacity:
        raise UsageError("fits tier nvme to a device", where="fit", got="a node without it")
    search = _Search(config, config.fit, measure, report)
    by = search.run()
    report("measuring the whole node")
    of_whole = search.outcome(whole(config)).document()
    return shrunk(config, by), replace(by, of_whole=of_whole)


class _Search:
    """Looks for how much of a node fits a device, one thing after the other."""

    def __init__(
        self, config: RecordConfig, fit_bytes: int, measure: Measure, report: Callable[[str], None]
    ) -> None:
        self._config, self._fit_bytes = config, fit_bytes
        self._measure, self._told = measure, report
        self._unlimited = config.tiers.nvme.capacity >= UNLIMITED
        self._outcomes: dict[Shrunk, Outcome] = {}

    def run(self) -> Shrunk:
        """Return what fits; raise UsageError if nothing does."""
        users = self._config.source.users
        least = SHARE_MIN if users is None else min(1.0, USERS_MIN / int(users))
        by = self._possible(replace(whole(self._config), share=possible(self._config, least)))
        needed, requests = self._need(by)
        if requests < REQUESTS_MIN and by.share < 1:
            more = min(1.0, by.share * REQUESTS_MIN / max(1, requests))
            by = replace(by, share=possible(self._config, more))
            needed, requests = self._need(by)
        if needed <= self._fit_bytes:
            return self._larger(by, "share", needed)
        if self._unlimited:
            shortest = min(1.0, REQUESTS_MIN / max(1, requests))
            short = replace(by, time=shortest)
            shortest_needed, _ = self._need(short)
            if shortest_needed <= self._fit_bytes:
                return self._larger(short, "time", shortest_needed)
            by, needed = short, shortest_needed
        return self._thinner(by, needed)

    def outcome(self, by: Shrunk) -> Outcome:
        """Return what a node as small as `by` comes to; it is simulated once."""
        if by not in self._outcomes:
            self._outcomes[by] = self._measure(shrunk(self._config, by))
        return self._outcomes[by]

    def _possible(self, by: Shrunk) -> Shrunk:
        """Return `by`, or twice as much until a tier holds a block and there are rows."""
        while True:
            try:
                self.outcome(by)
            except UsageError:
                if by.share >= 1:
                    raise
                by = replace(by, share=possible(self._config, min(1.0, 2 * by.share)))
            else:
                return by

    def _need(self, by: Shrunk) -> tuple[int, int]:
        outcome = self.outcome(by)
        if not outcome.needed_bytes:
            raise UsageError(
                "the recording does nothing on tier nvme",
                where="fit",
                got=f"{outcome.requests:,} requests that gpu and cpu hold",
                hint="give gpu and cpu less (--gpu-mem, --cpu-mem), or record for longer",
            )
        needed = outcome.needed_bytes + RESERVED_BYTES
        self._told(f"{by.text}: {outcome.requests:,} requests, needs {format_bytes(needed)}")
        return needed, outcome.requests

    def _larger(self, good: Shrunk, name: str, needed: int) -> Shrunk:
        """Return the largest found of what `name` says; `good`, which needs `needed`, fits."""
        bad = 2.0
        for _ in range(_TRIALS):
            most: float = getattr(good, name)
            guess = min(1.0, most * self._fit_bytes / needed * _AIM_RATIO, (most + bad) / 2)
            if name == "share":
                guess = possible(self._config, guess)
            if needed >= _FULL_RATIO * self._fit_bytes or guess <= most:
                break
            tried = replace(good, share=guess) if name == "share" else replace(good, time=guess)
            tried_needs, _ = self._need(tried)
            if tried_needs <= self._fit_bytes:
                good, needed = tried, tried_needs
            else:
                bad = guess
        return good

    def _thinner(self, by: Shrunk, needed: int) -> Shrunk:
        """Return the most layers found; all of them need `needed` bytes, which is too much."""
        layers = min(by.all_layers - 1, by.all_layers * self._fit_bytes // needed)
        while layers >= 1:
            thin = replace(by, layers=layers)
            if self._need(thin)[0] <= self._fit_bytes:
                return thin
            layers -= 1
        return self._fewest(replace(by, layers=1))

    def _fewest(self, by: Shrunk) -> Shrunk:
        """Return one layer of even less load or time; hit ratios of few requests vary."""
        needed, requests = self._need(by)
        while needed > self._fit_bytes:
            ratio = self._fit_bytes / needed * _AIM_RATIO
            share = max(_LEAST_SHARE, possible(self._config, by.share * ratio))
            if share < by.share:
                by = replace(by, share=share)
            elif self._unlimited and requests * ratio >= _LEAST_REQUESTS:
                by = replace(by, time=by.time * ratio)
            else:
                break
            needed, requests = self._need(by)
        if needed <= self._fit_bytes:
            return by
        raise UsageError(
            "is too small for the least that may be left of this node",
            where="fit",
            got=format_bytes(self._fit_bytes),
            accepted=f"at least about {format_bytes(int(needed * 1.02))}",
            hint="choose a smaller model",
        )
