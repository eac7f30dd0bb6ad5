"""Bytes of a model's KV state: per token, per sequence, per rank."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from kvtrace import arguments
from kvtrace.arguments import Checked, invalid
from kvtrace.errors import TraceError, UsageError
from kvtrace.models.compute import Compute
from kvtrace.models.dtypes import DTYPE_BYTES, dtype_bytes
from kvtrace.models.layers import (
    Cache,
    CompressedAttention,
    FullAttention,
    Held,
    Layers,
    check_parallel,
)
from kvtrace.trace.schema import MAX_SIZE_BYTES

if TYPE_CHECKING:
    from fractions import Fraction

MAX_RANKS = 1 << 14


class Model(Checked):
    """A model's KV geometry, with where it was read and what it must come to.

    `dtype` is the type that the file states, "" where it states none. `notes` are what a reader
    of its sizes should know, `cache_note` what the file says of a cache in another type.
    `query_heads`: heads of attention, which ranks divide, where they are known. `compute`: what a
    prefill multiplies, where it is known.
    `expected_bytes_per_token` and `expected_bytes_per_sequence` are of all ranks at TP 1 in
    `dtype`: a statement of the file that its geometry is held to.
    """

    name: str
    source: str
    date: str
    dtype: str = "bf16"
    notes: tuple[str, ...] = ()
    cache_note: str = ""
    query_heads: Annotated[int, Field(gt=0)] | None = None
    compute: Compute | None = None
    expected_bytes_per_token: int | None = None
    expected_bytes_per_sequence: int | None = None
    attention: tuple[Layers, ...] = Field(min_length=1)

    def __repr__(self) -> str:
        layers = sum(group.layers for group in self.attention)
        return f"<Model {self.name}: {layers:,} layers>"

    __str__ = __repr__

    def cache(self, dtype: str | None = None) -> Cache:
        """Return the types that the model keeps its cache and its state in.

        Raises UsageError where neither the file nor `dtype` names one that is known.
        """
        if dtype is not None:
            arguments.text(dtype, "dtype")
        asked = dtype or self.dtype
        if not asked:
            raise UsageError(
                "the file states no dtype",
                where=f"model {self.name}",
                accepted=", ".join(DTYPE_BYTES),
                hint="give one with --dtype",
            )
        value_bytes = dtype_bytes(asked, where=f"model {self.name}, dtype (--dtype settles it)")
        own = DTYPE_BYTES.get(self.dtype, value_bytes)
        return Cache(value_bytes, max(own, 2), asked.startswith(("fp8", "float8")))

    def token(self, ranks: int = 1, dtype: str | None = None) -> Held:
        """Return the bytes of one token on one of `ranks` ranks."""
        arguments.count(ranks, "ranks", most=MAX_RANKS)
        cache = self.cache(dtype)
        return _sum(group.token(cache, ranks).times(group.layers) for group in self.attention)

    def rank_bytes_per_token(self, ranks: int = 1, dtype: str | None = None) -> int | Fraction:
        """Return the bytes of one token on one rank; a fraction where rows cover several tokens."""
        return _whole(self.token(ranks, dtype).total)

    def rank_bytes_per_sequence(self, ranks: int = 1, dtype: str | None = None) -> int:
        """Return the constant bytes of one sequence on one rank, with full windows."""
        constant, windows = self._state(ranks, dtype)
        return int(constant.total + sum(tokens * row.total for tokens, row in windows.items()))

    def layer_tokens(self, ranks: int, dtype: str | None = None) -> tuple[Held, ...]:
        """Return the bytes per token on one rank of each layer that keeps any."""
        arguments.count(ranks, "ranks", most=MAX_RANKS)
        cache = self.cache(dtype)
        return tuple(
            group.token(cache, ranks)
            for group in self.attention
            for _ in range(group.layers)
            if group.token(cache, ranks).total
        )

    def key_token_bytes(self, ranks: int, dtype: str | None = None) -> int:
        """Return how many of one rank's bytes per token are keys; 0 where K and V aren't apart."""
        cache = self.cache(dtype)
        if self.token(ranks, dtype).shared:
            return 0
        return sum(
            group.layers * group.keys(cache, ranks)
            for group in self.attention
            if isinstance(group, FullAttention)
        )

    def state(self, ranks: int, dtype: str | None = None) -> tuple[Held, Held, int]:
        """Return one rank's state of a sequence: constant, per token of the window, its tokens.

        Raises UsageError for windows of several lengths.
        """
        constant, windows = self._state(ranks, dtype)
        if len(windows) > 1:
            raise UsageError(
                "windows of several lengths", where=self.name, got=sorted(windows), accepted="one"
            )
        for tokens, row in windows.items():
            return constant, row, tokens
        return constant, Held(), 0

    def _state(self, ranks: int, dtype: str | None) -> tuple[Held, dict[int, Held]]:
        """Return the constant state on one rank, and per window length the bytes of a token."""
        arguments.count(ranks, "ranks", most=MAX_RANKS)
        cache = self.cache(dtype)
        constant = _sum(group.state(cache, ranks).times(group.layers) for group in self.attention)
        windows: dict[int, Held] = {}
        for group in self.attention:
            tokens, row = group.windowed(cache, ranks)
            if tokens:
                windows[tokens] = _sum((windows.get(tokens, Held()), row.times(group.layers)))
        return constant, windows

    @property
    def layers(self) -> int:
        """Layers of all groups, those without a cache among them."""
        return sum(group.layers for group in self.attention)

    def thinned(self, layers: int) -> Model:
        """Return the model with as many layers, at least one of each group, and a note of it.

        Raises UsageError for more layers than it has.
        """
        if layers > self.layers:
            raise UsageError(
                "more than the model has", where=f"model {self.name}, layers", got=layers,
                accepted=f"up to {self.layers}",
            )  # fmt: skip
        groups = tuple(
            group.model_copy(update={"layers": max(1, round(group.layers * layers / self.layers))})
            for group in self.attention
        )
        left = sum(group.layers for group in groups)
        note = f"thinned to {left} of {self.layers} layers: objects are shorter by as much"
        return self.model_copy(
            update={
                "attention": groups,
                "notes": (*self.notes, note),
                "compute": None,
                "expected_bytes_per_token": None,
                "expected_bytes_per_sequence": None,
            }
        )

    @property
    def row_tokens(self) -> int:
        """Tokens for which the cache has whole rows: 1 but for compressed ones."""
        ratios = (group.ratio for group in self.attention if isinstance(group, CompressedAttention))
        return lcm(*(ratio for ratio in ratios if ratio))

    @property
    def replicated(self) -> bool:
        """Whether all ranks hold the same of each token (MLA), so that engines store it once."""
        kept = [group for group in self.attention if group.token(Cache(2, 2), 1).total]
        return bool(kept) and all(not group.token(Cache(2, 2), 1).own for group in kept)

    def notes_on(self, ranks: int, dtype: str | None = None) -> list[str]:
        """Return what to know of sizes on `ranks` ranks in `dtype`, None for the file's own type.

        Raises UsageError if the ranks can't share the model.
        """
        cache = [self.cache_note] if self.cache_note and dtype is None else []
        return [*self.notes, *cache, *self.check_parallel(ranks)]

    def check_parallel(self, ranks: int) -> list[str]:
        """Return what dividing the model among `ranks` copies. Raises UsageError if it can't be."""
        arguments.count(ranks, "ranks", most=MAX_RANKS)
        if self.query_heads is not None and self.query_heads % ranks:
            divisors = [n for n in range(1, 129) if self.query_heads % n == 0]
            raise UsageError(
                f"{ranks} ranks can't share {self.query_heads} attention heads",
                where=f"model {self.name}, --tensor-parallel",
                got=ranks,
                accepted=", ".join(map(str, divisors)),
            )
        copied = {}
        for group in self.attention:
            times = check_parallel(group, ranks, self.name)
            if times > 1:
                copied[group.divided()] = times
        return [
            f"{ranks} ranks share {heads[1]} {heads[0]}: each head is kept {times} times"
            for heads, times in copied.items()
            if heads is not None
        ]

    def check(self, where: object) -> Model:
        """Return self if the geometry comes to what the file states. Raises TraceError."""
        if self.dtype and self.dtype not in DTYPE_BYTES:
            return self
        dtype = self.dtype or "fp32"
        for name, got, expected in (
            (
                "bytes per token",
                self.rank_bytes_per_token(1, dtype),
                self.expected_bytes_per_token,
            ),
            (
                "bytes per sequence",
                self.rank_bytes_per_sequence(1, dtype),
                self.expected_bytes_per_sequence,
            ),
        ):
            if got > MAX_SIZE_BYTES:
                raise TraceError(
                    f"too many {name}", where=where, got=got, accepted=f"up to {MAX_SIZE_BYTES}"
                )
            if expected is not None and got != expected:
                raise TraceError(
                    f"geometry doesn't come to the stated {name}",
                    where=where,
                    got=got,
                    accepted=expected,
                    hint="correct the layers or the expected value",
                )
        return self


def validated(data: dict[str, Any], where: object) -> Model:
    """Return the model that `data` describes. Raises TraceError naming the key that is wrong."""
    try:
        model = Model.model_validate(data)
    except UsageError as error:
        if (cause := invalid(error)) is None:
            raise
        first = cause.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TraceError(f"bad model: {place}: {first['msg']}", where=where) from error
    return model.check(where)


def _sum(parts: Any) -> Held:
    own: int | Fraction = 0
    shared: int | Fraction = 0
    for part in parts:
        own, shared = own + part.own, shared + part.shared
    return Held(own, shared)


def _whole(value: int | Fraction) -> int | Fraction:
    return int(value) if value == int(value) else value
