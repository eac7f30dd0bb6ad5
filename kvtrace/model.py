"""How many bytes of KV state a model keeps: per token, per sequence, per rank."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvtrace.documents import parse_json, parse_toml, read_document
from kvtrace.errors import TraceError, UsageError, unknown_name
from kvtrace.schema import MAX_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

DTYPE_BYTES = {
    "bf16": 2,
    "bfloat16": 2,
    "fp16": 2,
    "float16": 2,
    "fp32": 4,
    "float32": 4,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "int8": 1,
}
"""Bytes of one value of the KV cache, by the name of its type."""

Positive = Annotated[int, Field(gt=0, le=1 << 24)]
"""Heads, dimensions: far above any model's, and no product of them overflows."""


def dtype_bytes(dtype: str, *, where: object = None) -> int:
    """Return the bytes of one value of type `dtype`. Raises UsageError: never guessed."""
    if dtype not in DTYPE_BYTES:
        raise unknown_name("dtype", dtype, DTYPE_BYTES, where=where)
    return DTYPE_BYTES[dtype]


class _Layers(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: Annotated[int, Field(gt=0, le=1 << 14)]

    def token_bytes(self, value_bytes: int, tensor_parallel: int) -> int:
        """Bytes that one rank keeps per token of context, in all these layers."""
        return 0

    def sequence_bytes(self, value_bytes: int, tensor_parallel: int) -> int:
        """Bytes that one rank keeps per sequence however long it is, in all these layers."""
        return 0


class _Heads(_Layers):
    kv_heads: Positive
    head_dim: Positive
    v_head_dim: Positive | None = None

    def _cell_bytes(self, value_bytes: int, tensor_parallel: int) -> int:
        """Bytes of one token in one layer on one rank: ceil(kv_heads / TP) heads of K and V."""
        heads = -(-self.kv_heads // tensor_parallel)
        return heads * (self.head_dim + (self.v_head_dim or self.head_dim)) * value_bytes


class FullAttention(_Heads):
    """MHA or GQA layers: K and V of every token."""

    kind: Literal["full"]

    def token_bytes(self, value_bytes: int, tensor_parallel: int) -> int:
        """Bytes per token on one rank, in all these layers."""
        return self.layers * self._cell_bytes(value_bytes, tensor_parallel)


class WindowAttention(_Heads):
    """Layers that see only the last `window` tokens (sliding or chunked)."""

    kind: Literal["window"]
    window: Annotated[int, Field(gt=0, le=1 << 31)]

    def sequence_bytes(self, value_bytes: int, tensor_parallel: int) -> int:
        """Bytes per sequence on one rank, in all these layers."""
        return self.layers * self.window * self._cell_bytes(value_bytes, tensor_parallel)


class LatentAttention(_Layers):
    """MLA layers: one latent vector per token, the same on every rank.

    `indexer_bytes`: per layer and token, for a sparse indexer; its type is its own.
    """

    kind: Literal["mla"]
    kv_lora_rank: Positive
    qk_rope_head_dim: Positive
    indexer_bytes: int = Field(0, ge=0, le=1 << 24)

    def token_bytes(self, value_bytes: int, tensor_parallel: int) -> int:
        """Bytes per token on one rank, in all these layers."""
        latent_bytes = (self.kv_lora_rank + self.qk_rope_head_dim) * value_bytes
        return self.layers * (latent_bytes + self.indexer_bytes)


class LinearAttention(_Layers):
    """Layers with a recurrent state; `state_bytes` per layer and sequence, sharded by TP."""

    kind: Literal["linear"]
    state_bytes: Annotated[int, Field(gt=0, le=MAX_SIZE_BYTES)]

    def sequence_bytes(self, value_bytes: int, tensor_parallel: int) -> int:
        """Bytes per sequence on one rank, in all these layers."""
        return self.layers * -(-self.state_bytes // tensor_parallel)


Layers = Annotated[
    FullAttention | WindowAttention | LatentAttention | LinearAttention,
    Field(discriminator="kind"),
]


class Model(BaseModel):
    """A model's KV geometry, with where it was read and what it must come to.

    `expected_bytes_per_token` and `expected_bytes_per_sequence` are of all ranks at TP 1 in
    `dtype`: a statement of the file that its geometry is held to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    date: str
    dtype: str = "bf16"
    expected_bytes_per_token: int | None = None
    expected_bytes_per_sequence: int | None = None
    attention: tuple[Layers, ...] = Field(min_length=1)

    @property
    def layers(self) -> int:
        """Layers that keep KV state or a recurrent one."""
        return sum(part.layers for part in self.attention)

    @property
    def replicated(self) -> bool:
        """Whether all ranks hold the same bytes (pure MLA), so that engines store them once."""
        return all(isinstance(part, LatentAttention) for part in self.attention)

    def rank_bytes_per_token(self, tensor_parallel: int = 1, dtype: str | None = None) -> int:
        """Return the bytes of one token that one rank of `tensor_parallel` keeps."""
        value_bytes = dtype_bytes(dtype or self.dtype, where=self.name)
        return sum(part.token_bytes(value_bytes, tensor_parallel) for part in self.attention)

    def rank_bytes_per_sequence(self, tensor_parallel: int = 1, dtype: str | None = None) -> int:
        """Return the constant bytes of one sequence that one rank keeps (full windows)."""
        value_bytes = dtype_bytes(dtype or self.dtype, where=self.name)
        return sum(part.sequence_bytes(value_bytes, tensor_parallel) for part in self.attention)

    def layer_token_bytes(self, tensor_parallel: int, dtype: str | None = None) -> tuple[int, ...]:
        """Return the bytes per token that one rank keeps in each layer that keeps any."""
        value_bytes = dtype_bytes(dtype or self.dtype, where=self.name)
        return tuple(
            part.token_bytes(value_bytes, tensor_parallel) // part.layers
            for part in self.attention
            for _ in range(part.layers)
            if part.token_bytes(value_bytes, tensor_parallel)
        )

    def key_token_bytes(self, tensor_parallel: int, dtype: str | None = None) -> int:
        """Return how many of one rank's bytes per token are keys; 0 where K and V aren't apart."""
        value_bytes = dtype_bytes(dtype or self.dtype, where=self.name)
        if any(isinstance(part, LatentAttention) for part in self.attention):
            return 0
        return sum(
            part.layers * -(-part.kv_heads // tensor_parallel) * part.head_dim * value_bytes
            for part in self.attention
            if isinstance(part, FullAttention)
        )

    def state(self, tensor_parallel: int, dtype: str | None = None) -> tuple[int, int, int]:
        """Return one rank's state of a sequence: bytes, bytes per token of a window, its tokens.

        Raises UsageError for windows of several lengths.
        """
        value_bytes = dtype_bytes(dtype or self.dtype, where=self.name)
        windows = [part for part in self.attention if isinstance(part, WindowAttention)]
        lengths = sorted({part.window for part in windows})
        if len(lengths) > 1:
            raise UsageError(
                "windows of several lengths", where=self.name, got=lengths, accepted="one"
            )
        per_token = sum(part.sequence_bytes(value_bytes, tensor_parallel) for part in windows)
        window = lengths[0] if lengths else 0
        whole = self.rank_bytes_per_sequence(tensor_parallel, dtype)
        return whole - per_token, per_token // max(1, window), window

    def copies(self, tensor_parallel: int) -> int:
        """Return how many ranks' bytes a store must keep for one token: 1 if replicated."""
        return 1 if self.replicated else tensor_parallel

    def check(self, where: object) -> Model:
        """Return self if the geometry comes to what the file states. Raises TraceError."""
        for name, got, expected in (
            ("bytes per token", self.rank_bytes_per_token(), self.expected_bytes_per_token),
            (
                "bytes per sequence",
                self.rank_bytes_per_sequence(),
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


def model_names() -> list[str]:
    """Return the names of the models that come with kvtrace, sorted."""
    folder = files("kvtrace").joinpath("models")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def models() -> Iterator[Model]:
    """Yield the models that come with kvtrace, in order of name."""
    for name in model_names():
        yield load_model(name)


def load_model(name: str) -> Model:
    """Return the model called `name`, or the one in a file: ours (.toml) or a config.json.

    Raises UsageError for a name nobody knows, TraceError for a bad file.
    """
    if name in model_names():
        text = files("kvtrace").joinpath("models", f"{name}.toml").read_text(encoding="utf-8")
        return _from_toml(text, where=f"model {name}")
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        raise unknown_name("model", name, model_names())
    text = read_document(path, "the model")
    return _from_toml(text, where=path) if path.suffix == ".toml" else _from_json(text, path)


def _from_toml(text: str, where: object) -> Model:
    return _validated(parse_toml(text, where), where)


def _from_json(text: str, path: Path) -> Model:
    from kvtrace.hf_config import geometry

    config = parse_json(text, path)
    if not isinstance(config, dict):
        raise TraceError("not a model configuration", where=path, accepted="a JSON object")
    return _validated(geometry(config, path), path)


def _validated(data: dict[str, Any], where: object) -> Model:
    try:
        model = Model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TraceError(f"bad model: {place}: {first['msg']}", where=where) from error
    try:
        dtype_bytes(model.dtype)
    except UsageError as error:
        raise TraceError(str(error), where=where) from error
    return model.check(where)
