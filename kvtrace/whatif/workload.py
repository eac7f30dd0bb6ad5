"""The requests of a what-if, cut once where they can be, and what runs them under other options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from kvtrace.errors import UsageError
from kvtrace.hierarchy.hierarchy import Hierarchy
from kvtrace.hierarchy.spec import endless
from kvtrace.native.hashmap import Interner
from kvtrace.recording.parts import Recording
from kvtrace.recording.simulation import Simulation
from kvtrace.recording.sizing import search
from kvtrace.trace.schema import Tier
from kvtrace.whatif.counting import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kvtrace.hierarchy.events import BlockEvents, HierarchyStats, Tally
    from kvtrace.hierarchy.hierarchy import CutRequests
    from kvtrace.hierarchy.spec import HierarchySpec
    from kvtrace.models import Model
    from kvtrace.recording.config import RecordConfig
    from kvtrace.trace.header import SourceInfo

Options = dict[str, Any]
"""Configuration keys, dotted, with values as users write them."""


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation, ready to go: `events` may be asked for once, `stats` and `tally` after that.

    `tally`: what happened and isn't among the events. `factors`: bytes that the node holds on a
    tier for each byte that is emitted.
    """

    spec: HierarchySpec
    events: Callable[[], Iterator[BlockEvents]]
    stats: Callable[[], HierarchyStats]
    tally: Callable[[], Tally]
    counter: Counter
    factors: Mapping[Tier, float]
    block_tokens: int | None
    prompts: Prompts | None = None


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the requests of a run compute: their model, and the GPUs that share one.

    `token_unit`: tokens of the model for each that an event counts. `tail_first`: whether hits come
    from the tail of a prompt to its head.
    """

    model: Callable[[], Model]
    ranks: int
    token_unit: float
    tail_first: bool


class Workload(Protocol):
    """Requests, to be run under any options."""

    def run(self, options: Options, *, every: bool = False) -> Run:
        """Return the run under `options`; `every` event is among its events, none only counted.

        Raises UsageError for options that aren't accepted.
        """
        ...

    def reference_run(self) -> Run | None:
        """Return a run on one unlimited tier with look-ups, or None if that can't tell anything."""
        ...

    def source(self) -> SourceInfo | None:
        """Return what is known of where the requests came from, once they were run."""
        ...


class _Tape:
    """Requests of an open source: cut as the first run asks for them, kept for those after it.

    Their blocks' identities become numbers from 1 on.
    """

    def __init__(self, requests: Iterator[CutRequests]) -> None:
        self._kept: list[CutRequests] = []
        self._rest = requests
        self._numbers = Interner()

    def __iter__(self) -> Iterator[CutRequests]:
        at = 0
        while True:
            if at == len(self._kept):
                cut = next(self._rest, None)
                if cut is None:
                    return
                numbers = self._numbers.intern(cut.blocks.values) + 1
                self._kept.append(replace(cut, blocks=replace(cut.blocks, values=numbers)))
            yield self._kept[at]
            at += 1


class _Taped(Recording):
    """A recording whose requests are on a tape."""

    def __init__(self, config: RecordConfig, tape: _Tape) -> None:
        super().__init__(config)
        self._tape = tape

    def again(self) -> _Taped:
        """Return the same recording, the tape at its start again."""
        return _Taped(self.config, self._tape)

    def requests(self) -> Iterator[CutRequests]:
        """Yield the requests on the tape."""
        return iter(self._tape)


class Configured:
    """The requests of a recording's configuration.

    `configure(options)` gives the configuration with `options` on top. An open source is read and
    cut once and kept in memory; users' requests depend on the answers before them and are drawn
    anew for each run.
    """

    def __init__(self, configure: Callable[[Options], RecordConfig]) -> None:
        self._configure = configure
        self._tape: _Tape | None = None
        self._read: Recording | None = None

    def _recording(self, options: Options) -> Recording:
        config = self._configure(options)
        if config.fit is not None or config.scale is not None:
            raise UsageError(
                "have no meaning for what-if, which tries capacities of the whole node",
                where="fit, scale",
                hint="record a smaller node, and ask about its trace",
            )
        if config.source.users == "auto":
            self._read = Recording(search(config, Recording, None))
            return self._read
        if config.source.users is not None:
            self._read = Recording(config)
            return self._read
        if self._tape is None:
            self._read = Recording(config)
            self._tape = _Tape(self._read.requests())
        return _Taped(config, self._tape)

    def source(self) -> SourceInfo | None:
        """Return notes on the source: omitted, unknown and invented facts."""
        return None if self._read is None else self._read.source.info

    def run(self, options: Options, *, every: bool = False) -> Run:
        """Return the run under `options`."""
        return _run(self._recording(options), tallies=not every)

    def reference_run(self) -> Run | None:
        """Return the run on one unlimited tier; None where that isn't all a tier can do.

        Of a recording that doesn't begin empty, or is emptied within.
        """
        recording = self._recording({})
        config = recording.config
        if config.warmup or config.restart_at or config.role == "decode":
            return None
        recording.spec = endless(recording.spec)
        return _run(recording, tallies=False)


def _run(recording: Recording, *, tallies: bool) -> Run:
    layout = recording.layout
    simulation = Simulation(
        recording,
        numbered=isinstance(recording, _Taped) and not recording.spec.hybrid,
        tallied_tokens=(layout.block_tokens or 0) * tallies,
    )
    return Run(
        spec=recording.spec,
        events=simulation.events,
        stats=simulation.stats,
        tally=simulation.tally,
        counter=Counter.of(layout),
        factors={tier: layout.occupancy_factor(tier) for tier in Tier},
        block_tokens=layout.block_tokens,
        prompts=Prompts(
            lambda: recording.model, recording.config.tensor_parallel, 1.0,
            recording.spec.tail_first,
        ),
    )  # fmt: skip


def plain_run(
    spec: HierarchySpec,
    requests: list[CutRequests],
    counter: Counter,
    factors: Mapping[Tier, float],
    block_tokens: int | None,
    *,
    tallied_tokens: int = 0,
    prompts: Prompts | None = None,
) -> Run:
    """Return the run of requests that are all here, their blocks' identities being numbers."""
    hierarchy = Hierarchy(spec, numbered=True, tallied_tokens=tallied_tokens)
    return Run(
        spec, lambda: hierarchy.events(requests), hierarchy.stats, hierarchy.tally, counter,
        factors, block_tokens, prompts,
    )  # fmt: skip
