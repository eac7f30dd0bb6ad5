"""The configuration of where requests come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kvtrace.fields import (
    MAX_COUNT,
    MAX_FACTOR,
    Count,
    DurationNs,
    Factor,
    Option,
    Range,
    RatePerS,
    Ratio,
    Seconds,
    Section,
    Tokens,
)
from kvtrace.units import S_NS

GENERATION_NS = {"none": 0, "fast": 2_000_000, "realistic": 30_000_000}
"""Virtual time per generated token, as the MLPerf Storage KV benchmark has it."""


Share = Annotated[float, Field(ge=0, le=1)]


class Template(Section):
    """One kind of user: prompt tokens added per turn, generated tokens, think time in seconds."""

    context_tokens: Range
    generated_tokens: Range
    think_s: Seconds
    weight: Factor = 1.0


def _templates() -> dict[str, Template]:
    return {
        "chatbot": Template(
            context_tokens=(512, 4096), generated_tokens=(50, 200), think_s=(0.1, 0.5)
        ),
        "coding": Template(
            context_tokens=(4096, 25000), generated_tokens=(100, 500), think_s=(0.2, 1)
        ),
        "document": Template(
            context_tokens=(4096, 16384), generated_tokens=(200, 800), think_s=(0.3, 1.5)
        ),
    }


class SystemPrompts(Section):
    """Prompts that `probability` of all sessions begin with, one of `count`; tokens of each."""

    probability: Annotated[float, Field(ge=0, le=1)] = 0.2
    count: Annotated[int, Field(gt=0, lt=1 << 30)] = 3
    tokens: Range = (512, 2048)


class Rag(Section):
    """Documents: `probability` of all requests retrieve `top_k` chunks of one of them."""

    probability: Annotated[float, Field(gt=0, le=1)] = 0.1
    documents: Annotated[int, Field(gt=0, lt=1 << 20)] = 1000
    document_tokens: Range = (4096, 16384)
    chunk_tokens: Tokens = 512
    top_k: Count = 5
    popularity: Literal["zipfian", "uniform"] = "zipfian"
    zipf_exponent: Annotated[float, Field(gt=0, le=100)] = 1.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.popularity == "uniform" and self.zipf_exponent != 1.0:
            raise ValueError("zipf_exponent has no effect with popularity: uniform")
        return self


DEFAULT_USERS = 10
QOS_MIX = {"interactive": 0.15, "responsive": 0.35, "batch": 0.5}


DEFAULT_RATE_PER_S = 1.0
"""Of the sources of `ARRIVING`, whose files don't tell when sessions begin."""
ARRIVING = ("sharegpt", "weka")
STARTING = (*ARRIVING, "tracelab")
"""Sources whose sessions can begin at a rate, or with users who wait for their last one."""


SOURCE = "Source"
"""Heading of the help of `kvtrace record`."""


class SourceConfig(Section):
    """Where requests come from. Each source says which keys have an effect on it (its `KEYS`)."""

    name: Annotated[
        str,
        Option(
            "Source; see `kvtrace list sources`.",
            SOURCE,
            name="source",
            takes="NAME",
            unset="synthetic; with --input: detected",
        ),
    ] = "synthetic"
    input: Annotated[
        tuple[str, ...], Option("Read requests from this file or directory.", SOURCE, takes="PATH")
    ] = ()
    speed: Annotated[Factor, Option("Divide a file's arrival or think times by X.", SOURCE)] = 1.0
    users: Annotated[
        Count | Literal["auto"] | None,
        Option(
            "Simulate N users in a closed loop with think time; auto: as many as the tiers serve "
            "within the `sizing` targets.",
            SOURCE,
            unset=str(DEFAULT_USERS),
        ),
    ] = None
    rate: Annotated[
        RatePerS | None,
        Option("Start sessions in an open loop at this mean request rate, e.g. 10/s.", SOURCE),
    ] = None
    arrival: Annotated[
        Literal["constant", "poisson", "gamma", "diurnal"],
        Option("Arrivals with --rate; gamma is bursty, diurnal a daily cycle.", SOURCE),
    ] = "poisson"
    gamma_shape: Annotated[float, Field(ge=1e-3, le=1e6)] = 0.5
    diurnal_amplitude: Annotated[float, Field(ge=0, lt=1)] = 0.5
    diurnal_period: DurationNs = 24 * 3600 * S_NS
    multi_turn: Annotated[bool, Option("Let sessions have several turns, or one.", SOURCE)] = True
    end_probability: Ratio = 0.2
    max_turns: Count = 50
    max_context_tokens: Annotated[int, Field(gt=1, lt=1 << 24)] = 131_072
    templates: dict[str, Template] = Field(default_factory=_templates, min_length=1)
    prefix_caching: Annotated[
        bool, Option("Share system prompts between sessions or not.", SOURCE)
    ] = True
    system_prompts: SystemPrompts = Field(default_factory=SystemPrompts)
    rag: Rag | None = None
    qos_mix: dict[str, Annotated[float, Field(ge=0, le=MAX_FACTOR)]] = QOS_MIX
    timing: Annotated[
        Literal["recorded", "think"] | None,
        Option(
            "Let requests arrive when they were recorded (open loop), or after the answer before "
            "them and the recorded think time (closed loop): dynamo, litellm, tracelab, weka.",
            SOURCE,
            unset="recorded; tracelab, weka: think",
        ),
    ] = None
    start_ratio: tuple[Share, Share] | None = None
    warmup_requests: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    idle_max: DurationNs | None = None
    own_plays: bool = False
    cycles: Annotated[Count, Option("Repeat a file's requests N times.", SOURCE)] = 1
    scale_sessions: Annotated[
        float,
        Field(gt=0, le=1000),
        Option("Scale a file's number of sessions: sample below 1, copy above 1.", SOURCE),
    ] = 1.0
    dequantise: Annotated[
        DurationNs | None,
        Option("Spread a file's times over its clock tick, e.g. 3s.", SOURCE, unset="off"),
    ] = None
    invent_sessions: Annotated[
        Annotated[float, Field(ge=0, lt=1)] | None,
        Option(
            "azure, burstgpt: invent sessions that continue with probability X.",
            SOURCE,
            unset="off",
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        Option("sharegpt: count tokens with this tokenizer.json.", SOURCE, unset="characters / 4"),
    ] = None
    block_tokens: Annotated[
        Tokens | None,
        Option(
            "mooncake, bailian, litellm: tokens per block id in the file.",
            SOURCE,
            name="source-block-tokens",
            unset="512, bailian 16, litellm as the logs say",
        ),
    ] = None
    think_s: Seconds = (0.1, 0.5)
    index: Literal["diskann", "aisaq-performance", "aisaq-scale", "hnsw-mmap"] = "diskann"
    vectors: Annotated[int, Field(gt=0, le=1 << 40)] = 10_000_000
    dimensions: Annotated[int, Field(gt=0, le=1 << 16)] = 768
    vector_type: Literal["float32", "float16", "int8"] = "float32"
    degree: Annotated[int, Field(gt=0, le=1 << 12)] = 56
    search_list: Annotated[int, Field(gt=0, le=1 << 12)] = 100
    beam_width: Annotated[int, Field(gt=0, le=1 << 7)] = 2
    cached_nodes: Annotated[int, Field(ge=0, le=1 << 40)] = 0
    code_bytes: Annotated[int, Field(gt=0, le=1 << 16)] | None = None
    skew: Annotated[float, Field(ge=0, le=10)] = 0.0
    round_time: DurationNs = 20_000
    build: bool = False

    @model_validator(mode="before")
    @classmethod
    def _default_users(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        name = data.get("name", "synthetic")
        if data.get("users") is None and data.get("rate") is None:
            if name in ("synthetic", "vdb"):
                return data | {"users": DEFAULT_USERS}
            if name in ARRIVING:
                return data | {"rate": DEFAULT_RATE_PER_S}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.users is not None and self.rate is not None:
            raise ValueError("users (closed loop) and rate (open arrivals) exclude each other")
        ranges: dict[str, tuple[float, float]] = {
            "system_prompts.tokens": self.system_prompts.tokens, "think_s": self.think_s
        }  # fmt: skip
        if self.start_ratio is not None:
            ranges["start_ratio"] = self.start_ratio
        if self.rag is not None:
            ranges["rag.document_tokens"] = self.rag.document_tokens
        for name, template in self.templates.items():
            for key in ("context_tokens", "generated_tokens", "think_s"):
                ranges[f"template {name}: {key}"] = getattr(template, key)
        for name, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"{name}: range {low} to {high} runs backwards")
        if set(self.qos_mix) != set(QOS_MIX) or not sum(self.qos_mix.values()) > 0:
            raise ValueError(f"qos_mix needs a weight for each of {', '.join(QOS_MIX)}")
        return self

    @model_validator(mode="after")
    def _check_effects(self) -> Self:
        """Refuse a key that was set, and not to its default, but is idle beside the others.

        What has no effect on a source at all, the source refuses.
        """
        if self.name not in ("synthetic", "vdb", *STARTING):
            return self
        diurnal, shared = self.arrival == "diurnal", self.system_prompts.probability > 0
        for key, effective, wanted in (
            ("arrival", self.rate is not None, "a rate"),
            ("gamma_shape", self.arrival == "gamma", "arrival: gamma"),
            ("diurnal_amplitude", diurnal, "arrival: diurnal"),
            ("diurnal_period", diurnal, "arrival: diurnal"),
            ("end_probability", self.multi_turn, "multi_turn"),
            ("max_turns", self.multi_turn, "multi_turn"),
            ("prefix_caching", shared, "system_prompts.probability above 0"),
        ):
            default = type(self).model_fields[key].default
            if getattr(self, key) != default and not effective:
                raise ValueError(f"{key} has no effect without {wanted}")
        return self
