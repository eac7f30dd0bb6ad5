"""Vector search: queries as dependent rounds of small reads of a DiskANN, AISAQ or HNSW index.

The reads are made up, calibrated on published counts of reads per query: see requests/vectors.py.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.requests.arrivals import ARRIVAL_KEYS, gaps_ns, of_the_day
from kvtrace.requests.request import ranges
from kvtrace.requests.vectors import (
    BEYOND_LIST,
    MAX_ROUND_SECTORS,
    SECTOR_BYTES,
    VALUE_BYTES,
    VectorIndex,
    missed_ratio,
)
from kvtrace.trace.header import SourceInfo
from kvtrace.trace.schema import MAX_SIZE_BYTES, Op, Phase, Tier
from kvtrace.units import S_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from kvtrace.requests.request import RequestBatch
    from kvtrace.sources import SourceContext

KEYS = ARRIVAL_KEYS | {
    "index", "vectors", "dimensions", "vector_type", "degree", "search_list", "beam_width",
    "cached_nodes", "code_bytes", "skew", "round_time", "build",
}  # fmt: skip
QUERIES_PER_BATCH = 4096
"""Part of what a seed means."""
DEFAULT_QUERIES = 10_000
ROWS_PER_PART = 1 << 20
MAX_ROUNDS = (1 << 16) - 2
"""Of a query: a step is a number of 16 bits, and the first round is step 1."""
BUILD_BYTES = 1 << 20
BUILD_BYTES_PER_S = 500_000_000
MAKES_ROWS = True
CODE_RATIO = 8
"""Bytes of a vector per byte of its compressed code, unless `source.code_bytes` says another."""
INVENTED = [
    "which nodes a query reads; how many: calibrated on published counts of reads per query",
    "when queries come, and the CPU time between their rounds",
]
ASSUMED = (
    "half of a node's neighbours are new to a search: an assumption, without a published count"
)
BUILT = "the build's rate: 500 MB/s"

_STREAMS = dict(zip(("arrivals", "expansions", "reads", "targets"), range(30, 34), strict=True))
_STEP, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


if TYPE_CHECKING:
    Queries = tuple[dict[str, NDArray[np.int64]], int]
    """Number, session, arrival and reads of queries; when later ones come at earliest."""


class VectorQueries:
    """The source. Its rows are those of a trace: no tiers are simulated.

    An index is one object, resident on nvme unless its build is a part of the trace; a query is a
    request, a round a step.
    """

    block_tokens = None
    known = frozenset[str]()
    columns = ("request", "session", "step", "offset")

    def __init__(self, context: SourceContext) -> None:
        self._context, config = context, context.config
        # The build's writes are of no query.
        self.complete = not config.build
        code_bytes = config.code_bytes or max(
            1, config.dimensions * VALUE_BYTES[config.vector_type] // CODE_RATIO
        )
        self.index = VectorIndex(
            config.index, config.vectors, config.dimensions, config.vector_type, config.degree,
            code_bytes,
        )  # fmt: skip
        self._missed = missed_ratio(config.cached_nodes, config.vectors)
        # A page fault is served before the next one comes.
        self._width = 1 if config.index == "hnsw-mmap" else config.beam_width
        _check(config, self.index)
        most_reads = (config.search_list + ceil(BEYOND_LIST)) * self.index.visits_per_expansion
        rounds = int(self._rounds(np.array(most_reads)))
        if rounds > MAX_ROUNDS:
            raise UsageError(
                "a query of too many rounds", where="source.search_list",
                got=f"{config.search_list}, up to {rounds} rounds", accepted=f"{MAX_ROUNDS} rounds",
            )  # fmt: skip
        self._rng = {
            name: np.random.default_rng(np.random.SeedSequence(context.seed, spawn_key=(key,)))
            for name, key in _STREAMS.items()
        }
        self._made_reads: list[NDArray[np.int64]] = []
        self._made_rounds: list[NDArray[np.int64]] = []

    @property
    def info(self) -> SourceInfo:
        """Name and parameters, for the header; what was invented."""
        index, config = self.index, self._context.config
        parameters: dict[str, Any] = config.model_dump(mode="json", include=set(KEYS)) | {
            "node_bytes": index.node_bytes, "nodes_per_sector": index.nodes_per_sector,
            "read_bytes": index.read_bytes, "index_bytes": index.size_bytes,
            "code_bytes": index.code_bytes,
        }  # fmt: skip
        assumed = [ASSUMED] * (index.kind in ("aisaq-scale", "hnsw-mmap"))
        built = [BUILT] * config.build
        return SourceInfo(
            name=config.name, parameters=parameters, invented=[*INVENTED, *assumed, *built]
        )

    def batches(self) -> Iterator[RequestBatch]:
        """Raise UsageError: there are no requests for a cache."""
        raise UsageError(
            "makes reads of an index, not requests for a cache", where="source vdb",
            accepted="kvtrace record",
        )  # fmt: skip

    def more(self, chain: int) -> None:
        """Return None: no request waits for another."""

    def resident(self) -> list[tuple[int, int, int]]:
        """Return the index, unless its build is a part of the trace."""
        built = self._context.config.build
        return [] if built else [(int(Tier.NVME), 0, self.index.size_bytes)]

    def statistics(self) -> dict[str, Any]:
        """Return how many queries there were, and what each read."""
        reads, rounds = np.concatenate(self._made_reads), np.concatenate(self._made_rounds)
        reads *= 1 + self.index.reads_beside
        shares = np.percentile(reads, (50, 90, 99)).tolist() if len(reads) else [None] * 3
        return {
            "requests": len(reads),
            "objects": 1,
            "vector_search": {
                "queries": len(reads),
                "reads": int(reads.sum()),
                "reads_per_query_mean": float(reads.mean()) if len(reads) else None,
                **dict(zip(("reads_p50", "reads_p90", "reads_p99"), shares, strict=True)),
                "rounds_per_query_mean": float(rounds.mean()) if len(reads) else None,
                "node_bytes": self.index.node_bytes,
                "read_bytes": self.index.read_bytes,
                "index_bytes": self.index.size_bytes,
            },
        }

    def rows(self, most: int | None, end_ns: int | None) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the rows of a trace: the build, if asked for, then queries up to a number.

        No query comes at `end_ns` after the first or later.
        """
        begin_ns = 0
        if self._context.config.build:
            yield from self._build()
            begin_ns = -(-self.index.size_bytes * S_NS // BUILD_BYTES_PER_S)
        waiting: dict[str, NDArray[Any]] | None = None
        for queries, until_ns in self._in_parts(self._queries(most, end_ns)):
            made = self._reads(queries, begin_ns)
            if waiting is not None:
                made = {name: np.concatenate((waiting[name], made[name])) for name in made}
            order = np.argsort(made["timestamp"], kind="stable")
            ready = int(np.searchsorted(made["timestamp"][order], until_ns + begin_ns))
            if ready:
                yield {name: values[order[:ready]] for name, values in made.items()}
            waiting = {name: values[order[ready:]] for name, values in made.items()}
        if waiting is not None and len(waiting["timestamp"]):
            yield waiting

    def _in_parts(self, batches: Iterable[Queries]) -> Iterator[Queries]:
        """Yield the queries again, no more at a time than make `ROWS_PER_PART` rows or are one."""
        for queries, until_ns in batches:
            counts = queries["reads"] * (1 + self.index.reads_beside)
            ends = np.append(0, np.cumsum(counts))
            # No later query comes before the earliest of those behind.
            behind = np.minimum.accumulate(np.append(queries["arrival"], until_ns)[::-1])[::-1]
            first = 0
            while first < len(counts):
                most = int(ends[first]) + ROWS_PER_PART
                last = max(first + 1, int(np.searchsorted(ends, most, "right")) - 1)
                part = {name: values[first:last] for name, values in queries.items()}
                yield part, int(behind[last])
                first = last

    def _queries(self, most: int | None, end_ns: int | None) -> Iterator[Queries]:
        """Yield queries (number, session, arrival, reads) and when later ones come at earliest."""
        left = DEFAULT_QUERIES if most is None and end_ns is None else most
        first, clock = 0, _Clock(self)
        while left is None or left > 0:
            count = QUERIES_PER_BATCH if left is None else min(left, QUERIES_PER_BATCH)
            reads = self._drawn_reads(count)
            session, arrival_ns, until_ns = clock.next(first, self._rounds(reads))
            kept = np.arange(count) if end_ns is None else np.flatnonzero(arrival_ns < end_ns)
            self._made_reads.append(reads[kept])
            self._made_rounds.append(self._rounds(reads)[kept])
            number = first + np.arange(count)
            columns = {"number": number, "session": session, "arrival": arrival_ns, "reads": reads}
            yield {name: values[kept] for name, values in columns.items()}, until_ns
            if end_ns is not None and until_ns >= end_ns:
                return
            first += count
            left = None if left is None else left - count

    def _drawn_reads(self, count: int) -> NDArray[np.int64]:
        """Return how many nodes each query reads."""
        config, over = self._context.config, BEYOND_LIST
        beyond = self._rng["expansions"].random(count) < over - int(over)
        visits = (config.search_list + int(over) + beyond) * self.index.visits_per_expansion
        drawn: NDArray[np.int64] = self._rng["reads"].binomial(visits, self._missed)
        return drawn

    def _rounds(self, reads: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the steps of queries: rounds of nodes, and those of the codes that follow them."""
        rounds = -(-reads // self._width)
        return rounds * 2 if self.index.reads_beside else rounds

    def _reads(
        self, queries: dict[str, NDArray[np.int64]], begin_ns: int
    ) -> dict[str, NDArray[Any]]:
        index, beside = self.index, self.index.reads_beside
        counts = queries["reads"] * (1 + beside)
        query = np.repeat(np.arange(len(counts)), counts)
        place = ranges(counts)
        node, code = (place // (1 + beside), place % (1 + beside)) if beside else (place, None)
        step = node // self._width
        if code is not None:
            step = 2 * step + (code > 0)
        target = self._targets(len(counts))[query]
        vector = _mixed(target + place.astype(np.uint64) * np.uint64(_STEP)) % np.uint64(
            index.vectors
        )
        offset, size = self._places(vector.astype(np.int64), code)
        round_ns = self._context.config.round_time
        return {
            "timestamp": begin_ns + queries["arrival"][query] + step * round_ns,
            "op": np.full(len(query), Op.READ, np.uint8),
            "size": size,
            "tier": np.full(len(query), Tier.NVME, np.uint8),
            "key": np.zeros(len(query), np.uint64),
            "phase": np.full(len(query), Phase.DECODE, np.uint8),
            "request": queries["number"][query].astype(np.uint64),
            "session": queries["session"][query].astype(np.uint64),
            "step": (1 + step).astype(np.uint16),
            "offset": offset.astype(np.uint64),
        }

    def _places(
        self, vector: NDArray[np.int64], code: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return offset and size of reads of nodes, or of codes where `code` is above 0."""
        index, shared = self.index, self.index.nodes_per_sector
        sector = vector // shared if shared else vector * index.sectors_per_node
        offset = (1 + sector) * SECTOR_BYTES
        size = np.full(len(vector), index.read_bytes, np.uint64)
        if code is not None:
            apart = index.codes_at + vector * index.code_bytes // SECTOR_BYTES * SECTOR_BYTES
            offset = np.where(code > 0, apart, offset)
            size[code > 0] = SECTOR_BYTES
        return offset, size

    def _targets(self, count: int) -> NDArray[np.uint64]:
        """Return what queries look for: equal ones read the same nodes; by `skew`, Zipf's law."""
        vectors, skew = self._context.config.vectors, self._context.config.skew
        drawn = self._rng["targets"].random(count)
        if skew == 0:
            rank = drawn * vectors
        elif skew == 1:
            rank = vectors**drawn
        else:
            rank = (1 + drawn * (float(vectors) ** (1 - skew) - 1)) ** (1 / (1 - skew))
        return _mixed(np.minimum(rank, vectors).astype(np.uint64))

    def _build(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the writes of the index, one behind the other."""
        total = self.index.size_bytes
        writes = -(-total // BUILD_BYTES)
        for first in range(0, writes, 1 << 16):
            number = np.arange(first, min(writes, first + (1 << 16)))
            offset = number * BUILD_BYTES
            zeros, known = np.zeros(len(number), np.uint64), np.ones(len(number), np.bool_)
            yield {
                "timestamp": offset * (S_NS // BUILD_BYTES_PER_S),
                "op": np.full(len(number), Op.WRITE, np.uint8),
                "size": np.minimum(BUILD_BYTES, total - offset).astype(np.uint64),
                "tier": np.full(len(number), Tier.NVME, np.uint8),
                "key": zeros,
                "phase": np.full(len(number), Phase.PREFILL, np.uint8),
                "request": np.ma.array(zeros, mask=known),
                "session": np.ma.array(zeros, mask=known),
                "step": np.ma.array(zeros.astype(np.uint16), mask=known),
                "offset": offset.astype(np.uint64),
            }


class _Clock:
    """When queries come: those of clients one after the other, others by an arrival process."""

    def __init__(self, source: VectorQueries) -> None:
        self._config = source._context.config
        self._rng = source._rng["arrivals"]
        self._even_ns = 0
        users = self._config.users
        self._free_ns = np.zeros(int(users) if users else 0, np.int64)

    def next(
        self, first: int, rounds: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Return session and arrival of the next queries, and when later ones come at earliest."""
        config, count = self._config, len(rounds)
        if not config.users:
            even = self._even_ns + np.cumsum(gaps_ns(config, self._rng, 1.0, count))
            self._even_ns = int(even[-1])
            arrival = of_the_day(config, even)
            return first + np.arange(count), arrival, int(arrival[-1])
        users = len(self._free_ns)
        session = (first + np.arange(count)) % users
        took = rounds * config.round_time
        arrival = np.empty(count, np.int64)
        for at in range(0, count, users):
            clients = session[at : at + users]
            arrival[at : at + users] = self._free_ns[clients]
            self._free_ns[clients] += took[at : at + users]
        return session, arrival, int(self._free_ns.min())


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers that look random. Source: SplitMix64 (public domain, Vigna)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(_MIX_1)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX_2)
    return mixed ^ (mixed >> np.uint64(31))


def _check(config: Any, index: VectorIndex) -> None:
    """Raise UsageError for what doesn't fit together."""
    if index.size_bytes > MAX_SIZE_BYTES:
        raise UsageError(
            "an index of too many bytes", where="source.vectors",
            got=f"{config.vectors}, {index.size_bytes} bytes",
            accepted=f"an object of up to {MAX_SIZE_BYTES} bytes",
        )  # fmt: skip
    sectors = config.beam_width * index.sectors_per_node
    if index.sectors_per_node > MAX_ROUND_SECTORS:
        raise UsageError(
            "nodes of too many sectors", where="source.degree",
            got=f"{config.degree}, {index.sectors_per_node} sectors",
            accepted=f"at most {MAX_ROUND_SECTORS} sectors, with source.dimensions and code_bytes",
        )  # fmt: skip
    if sectors > MAX_ROUND_SECTORS:
        raise UsageError(
            "a round of too many sectors", where="source.beam_width", got=sectors,
            accepted=f"at most {MAX_ROUND_SECTORS}: {MAX_ROUND_SECTORS // index.sectors_per_node} "
            f"nodes of {index.sectors_per_node} sectors",
        )  # fmt: skip
    if config.cached_nodes > config.vectors:
        raise UsageError(
            "more cached nodes than there are", where="source.cached_nodes",
            got=config.cached_nodes, accepted=f"at most source.vectors, {config.vectors}",
        )  # fmt: skip
    if (
        config.index == "hnsw-mmap"
        and config.beam_width != type(config).model_fields["beam_width"].default
    ):
        raise UsageError(
            "has no effect on index hnsw-mmap, which reads page by page", where="source.beam_width"
        )
    coded = config.index in ("aisaq-performance", "aisaq-scale")
    if config.code_bytes is not None and not coded:
        raise UsageError("has no effect without an index of AISAQ", where="source.code_bytes")
    if config.users == "auto":
        raise UsageError("are found for tiers only", where="source.users", got="auto")


def create(context: SourceContext) -> VectorQueries:
    """Return the source. Raises UsageError for an input, and for what doesn't fit together."""
    if context.inputs:
        raise UsageError("takes no input", where="source vdb", got=str(context.inputs[0]))
    return VectorQueries(context)
