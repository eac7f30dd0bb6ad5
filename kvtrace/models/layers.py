"""The kinds of layers, by what each keeps per token and per sequence on one rank."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from kvtrace.errors import UsageError
from kvtrace.trace.schema import MAX_SIZE_BYTES

Positive = Annotated[int, Field(gt=0, le=1 << 24)]
"""Heads, dimensions: far above any model's, and no product of them overflows."""
Amount = Annotated[int, Field(ge=0, le=MAX_SIZE_BYTES)]
Window = Annotated[int, Field(gt=0, le=1 << 31)]


class Held(NamedTuple):
    """Bytes that one rank holds: `own` differ from rank to rank, `shared` are the same on all.

    A store keeps shared bytes once and each rank's own; fractions come from rows that cover
    several tokens.
    """

    own: int | Fraction = 0
    shared: int | Fraction = 0

    @property
    def total(self) -> int | Fraction:
        """All bytes of one rank."""
        return self.own + self.shared

    def times(self, count: int) -> Held:
        """Return the bytes of `count` such layers."""
        return Held(self.own * count, self.shared * count)


class Cache(NamedTuple):
    """The type that the cache is kept in, and the one that the model computes in.

    `value_bytes` of a K or V value; `state_bytes` of a value of convolution or recurrent state
    without a type of its own. `fp8`: rows of 8-bit values, which some layers store with scales.
    """

    value_bytes: int
    state_bytes: int
    fp8: bool = False


class LayerGroup(BaseModel):
    """Layers that keep the same. `origin`: the keys of a configuration that said so."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    layers: Annotated[int, Field(gt=0, le=1 << 14)]
    origin: str = ""

    def token(self, cache: Cache, ranks: int) -> Held:
        """Return the bytes per token of context, of one layer on one of `ranks`."""
        return Held()

    def state(self, cache: Cache, ranks: int) -> Held:
        """Return the bytes per sequence, whatever its length, of one layer on one of `ranks`."""
        return Held()

    def windowed(self, cache: Cache, ranks: int) -> tuple[int, Held]:
        """Return a window's tokens and the bytes of each, of one layer; 0 tokens without one."""
        return 0, Held()

    def divided(self) -> tuple[str, int] | None:
        """Return the name and number of the heads that tensor parallelism divides, if any."""
        return None


class _Heads(LayerGroup):
    kv_heads: Positive
    head_dim: Positive
    v_head_dim: Positive | None = None

    def _row(self, cache: Cache, ranks: int) -> Held:
        """Return the bytes of one token: K and V of each head that one rank has."""
        width = self.head_dim + (self.v_head_dim or self.head_dim)
        return Held(own=-(-self.kv_heads // ranks) * width * cache.value_bytes)

    def keys(self, cache: Cache, ranks: int) -> int:
        """Return the bytes per token of one rank's keys, in one layer."""
        return -(-self.kv_heads // ranks) * self.head_dim * cache.value_bytes

    def divided(self) -> tuple[str, int]:
        """Return the number of KV heads."""
        return "KV heads", self.kv_heads


class FullAttention(_Heads):
    """MHA or GQA layers: K and V of every token.

    `indexer_bytes`: per token, of a sparse indexer's keys, which every rank holds.
    """

    kind: Literal["full"]
    indexer_bytes: Annotated[int, Field(ge=0, le=1 << 24)] = 0

    def token(self, cache: Cache, ranks: int) -> Held:
        """Return the bytes per token: divided K and V, replicated indexer keys."""
        return Held(self._row(cache, ranks).own, self.indexer_bytes)


class WindowAttention(_Heads):
    """Layers that see only the last `window` tokens (sliding or chunked)."""

    kind: Literal["window"]
    window: Window

    def windowed(self, cache: Cache, ranks: int) -> tuple[int, Held]:
        """Return the window and the bytes of each of its tokens."""
        return self.window, self._row(cache, ranks)


class LatentAttention(LayerGroup):
    """MLA layers: one latent vector per token, the same on every rank.

    `indexer_bytes`: per token, of a sparse indexer; its type is its own. `fp8_row_bytes`: the
    latent row of a cache in fp8 where engines store it with scales and a wider rotary part.
    """

    kind: Literal["mla"]
    kv_lora_rank: Positive
    qk_rope_head_dim: Positive
    indexer_bytes: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    fp8_row_bytes: Positive | None = None

    def token(self, cache: Cache, ranks: int) -> Held:
        """Return the bytes per token, all of them replicated."""
        row = (self.kv_lora_rank + self.qk_rope_head_dim) * cache.value_bytes
        if cache.fp8 and self.fp8_row_bytes is not None:
            row = self.fp8_row_bytes
        return Held(shared=row + self.indexer_bytes)


class CompressedAttention(LayerGroup):
    """Layers that keep a window of rows and, of what is older, one row per `ratio` tokens.

    `ratio` 0: only the window. `indexer_bytes`: per row, of a sparse indexer. `state_bytes`: per
    sequence, of the rows being made. Every rank holds all of it.
    Source: vLLM 0.32, models/deepseek_v4/attention.py and compressor.py.
    """

    kind: Literal["compressed"]
    head_dim: Positive
    window: Window
    ratio: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    indexer_bytes: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    state_bytes: Amount = 0
    fp8_row_bytes: Positive | None = None

    def _row(self, cache: Cache) -> int:
        if cache.fp8 and self.fp8_row_bytes is not None:
            return self.fp8_row_bytes
        return self.head_dim * cache.value_bytes

    def token(self, cache: Cache, ranks: int) -> Held:
        """Return the bytes per token: a share of a row."""
        if not self.ratio:
            return Held()
        return Held(shared=Fraction(self._row(cache) + self.indexer_bytes, self.ratio))

    def state(self, cache: Cache, ranks: int) -> Held:
        """Return the bytes of the rows being made."""
        return Held(shared=self.state_bytes)

    def windowed(self, cache: Cache, ranks: int) -> tuple[int, Held]:
        """Return the window and the bytes of each of its rows."""
        return self.window, Held(shared=self._row(cache))


class LinearAttention(LayerGroup):
    """Layers with a recurrent or convolution state, divided among the ranks.

    Per layer and sequence: `state_bytes` in types of their own, `state_values` in the type that
    the model computes in, and `groups` of `group_values` in that type, of which each rank has one
    at least. `heads`: how many of them tensor parallelism divides.
    """

    kind: Literal["linear"]
    state_bytes: Amount = 0
    state_values: Amount = 0
    groups: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    group_values: Amount = 0
    heads: Positive | None = None

    def state(self, cache: Cache, ranks: int) -> Held:
        """Return the state's bytes on one rank."""
        divided = self.state_bytes + self.state_values * cache.state_bytes
        grouped = -(-self.groups // ranks) * self.group_values * cache.state_bytes
        return Held(own=-(-divided // ranks) + grouped)

    def divided(self) -> tuple[str, int] | None:
        """Return the number of heads of the state, where it is known."""
        return None if self.heads is None else ("state heads", self.heads)


class StatelessLayers(LayerGroup):
    """Layers that keep nothing of their own; `why`: shared KV, cross-attention, no attention."""

    kind: Literal["none"]
    why: str


Layers = Annotated[
    FullAttention
    | WindowAttention
    | LatentAttention
    | CompressedAttention
    | LinearAttention
    | StatelessLayers,
    Field(discriminator="kind"),
]


def check_parallel(group: LayerGroup, ranks: int, where: object) -> int:
    """Return on how many ranks each head of `group` lies. Raises UsageError as engines refuse.

    Source: vLLM 0.32 and SGLang 0.5: heads are divided evenly, or each is copied to a whole
    number of ranks.
    """
    divided = group.divided()
    if divided is None:
        return 1
    name, heads = divided
    if heads % ranks == 0:
        return 1
    if name == "KV heads" and ranks % heads == 0:
        return ranks // heads
    accepted = [n for n in range(1, 2 * heads + 1) if heads % n == 0 or n % heads == 0]
    if name != "KV heads":
        accepted = [n for n in accepted if heads % n == 0]
    raise UsageError(
        f"{ranks} ranks can't share {heads} {name}",
        where=f"model {where}, --tensor-parallel",
        got=ranks,
        accepted=", ".join(map(str, accepted[:12])),
    )
