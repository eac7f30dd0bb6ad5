"""The configuration of a recording: validated once, unknown keys refused, then passed down."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from kvtrace import arguments
from kvtrace.arguments import Checked, first_flaw
from kvtrace.errors import UsageError, unknown_name
from kvtrace.fields import (
    MAX_TOKENS,
    Bytes,
    DurationNs,
    Option,
    RatePerS,
    Ratio,
    Tokens,
    Warmup,
)
from kvtrace.options.layers import DEFAULT, OPTION, Layers, leaves, origin_of
from kvtrace.recording.tiers_config import (
    MODEL,
    RUN,
    TIERS,
    TIME,
    Eviction,
    SizingConfig,
    TiersConfig,
)
from kvtrace.requests.source_config import GENERATION_NS, STARTING, SourceConfig
from kvtrace.units import S_NS, exact_duration

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from pydantic import ValidationError


DEFAULT_DURATION_NS = 60 * S_NS
"""Virtual time of a synthetic recording that names neither duration nor requests."""


class RecordConfig(Checked):
    """All that determines a generated trace."""

    source: SourceConfig = Field(default_factory=SourceConfig)
    model: Annotated[
        str,
        Option("Model, TOML file or config.json; see `kvtrace list models`.", MODEL, takes="NAME"),
    ] = "llama3.1-8b"
    dtype: Annotated[
        str | None, Option("Data type of KV values.", MODEL, takes="NAME", unset="the model's")
    ] = None
    layers: Annotated[
        Annotated[int, Field(gt=0, le=1 << 14)] | None,
        Option("Keep only N layers of the model, for smaller objects.", MODEL, unset="all"),
    ] = None
    layout: Annotated[
        str, Option("Engine's layout of blocks; see `kvtrace list layouts`.", MODEL, takes="NAME")
    ] = "lmcache"
    block_tokens: Annotated[
        Tokens | None, Option("Tokens per block.", MODEL, unset="the layout's")
    ] = None
    ranks: Annotated[
        Literal["all", "one"] | None,
        Option("Emit the objects of all ranks or of one.", MODEL, unset="the layout's"),
    ] = None
    tensor_parallel: Annotated[
        int, Field(gt=0, le=1 << 14), Option("Number of GPUs that share a model.", MODEL)
    ] = 1
    num_gpus: Annotated[
        Annotated[int, Field(gt=0, le=1 << 14)] | None,
        Option("Number of GPUs of the node.", MODEL, unset="--tensor-parallel"),
    ] = None
    nodes: Annotated[
        int,
        Field(gt=0, le=1 << 14),
        Option("Number of nodes with tiers of their own; sessions stay on one.", MODEL),
    ] = 1
    tiers: TiersConfig = Field(default_factory=TiersConfig)
    eviction: Eviction = "lru"
    admission: Annotated[
        Literal["always", "second-use"],
        Option("Admit blocks to nvme always, or on their second use.", TIERS),
    ] = "always"
    write_policy: Annotated[
        Literal["waterfall", "write-through"],
        Option("Write new blocks to the fastest tier (waterfall) or to all tiers.", TIERS),
    ] = "waterfall"
    promotion: Annotated[
        Literal["none", "on-hit"] | None,
        Option(
            "Copy blocks to the fastest tier on a hit.",
            TIERS,
            unset="none; on-hit with write-through",
        ),
    ] = None
    touch_order: Annotated[
        Literal["tail-first", "in-order"],
        Option("Order in which a request touches its blocks.", TIERS),
    ] = "tail-first"
    store_generated: Annotated[
        Literal["auto", "yes", "no"],
        Option("Store generated tokens; auto: if source and layout can.", TIERS),
    ] = "auto"
    state_interval: Annotated[
        int,
        Field(ge=0, le=MAX_TOKENS),
        Option(
            "Hybrid models: store the state every N tokens too.",
            MODEL,
            unset="at prompts' ends only",
        ),
    ] = 0
    lookups: Annotated[bool, Option("Emit a look-up per key of a prompt.", MODEL)] = False
    role: Literal["both", "prefill", "decode"] = "both"
    warmup: Annotated[
        Warmup | None,
        Option(
            "Simulate without ops first: a time, a number of requests, or `steady` (until the "
            "slowest tier is full).",
            TIME,
            takes="TIME|N|steady",
        ),
    ] = None
    restart_at: Annotated[
        DurationNs | None,
        Option(
            "Restart the engine at this time: tiers gpu and cpu are emptied.", TIME, unset="never"
        ),
    ] = None
    duration: Annotated[
        DurationNs | None,
        Option(
            "Virtual time during which requests arrive, e.g. 1h.",
            TIME,
            unset=exact_duration(DEFAULT_DURATION_NS),
        ),
    ] = None
    requests: Annotated[
        Annotated[int, Field(gt=0, le=1 << 40)] | None,
        Option("Stop after N requests.", TIME, unset="no limit"),
    ] = None
    generation: Annotated[
        Literal["none", "fast", "realistic"],
        Option("Time per generated token: none, fast (2 ms) or realistic (30 ms).", TIME),
    ] = "realistic"
    decode_rate: Annotated[
        Annotated[RatePerS, Field(ge=0.01)] | None,
        Option("Tokens per second of each request; replaces --generation.", TIME),
    ] = None
    decode_batch: Annotated[
        Annotated[int, Field(gt=0, le=1 << 16)] | None,
        Option("Let at most N requests generate at once.", TIME, unset="no limit"),
    ] = None
    prefill_rate: Annotated[
        Annotated[RatePerS, Field(ge=1)] | None,
        Option("Prompt tokens per second of the node; requests queue.", TIME, unset="no limit"),
    ] = None
    prefill_slots: Annotated[
        int,
        Field(gt=0, le=1 << 10),
        Option("Compute N prompts at once, each at 1/N of --prefill-rate.", TIME),
    ] = 1
    seed: Annotated[int, Field(ge=0, lt=1 << 63), Option("Random seed.", RUN)] = 0
    sizing: SizingConfig = Field(default_factory=SizingConfig)
    fit: Annotated[
        Annotated[Bytes, Field(gt=0)] | None,
        Option("Shrink load, tiers and, if necessary, layers to fit nvme to this size.", RUN),
    ] = None
    scale: Annotated[
        Ratio | None, Option("Multiply load and tiers by this ratio, e.g. 0.1.", RUN, unset="1")
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sizing != SizingConfig() and self.source.users != "auto":
            raise ValueError("sizing has no effect without users: auto")
        if self.fit is not None and self.scale is not None:
            raise ValueError("fit (a device's size) and scale (a ratio) exclude each other")
        if self.nodes > 1 and (self.fit or self.scale):
            raise ValueError("fit and scale are of one node")
        if self.nodes > 1 and self.source.users == "auto":
            raise ValueError("users: auto is of one node: search first, then give users and nodes")
        if self.nodes > 1 and self.source.users and self.source.name in STARTING:
            # Which conversation a user is given next depends on all users.
            raise ValueError(f"users of source {self.source.name} are of one node: give a rate")
        if self.restart_at and self.duration and self.restart_at >= self.duration:
            raise ValueError("restart_at is behind the end of the recording")
        if self.prefill_slots > 1 and self.prefill_rate is None:
            raise ValueError("prefill_slots share a prefill_rate: give one")
        if self.decode_batch is not None and not self.generation_ns:
            raise ValueError("a decode_batch without time for generation has no effect")
        return self

    @property
    def input_paths(self) -> list[Path]:
        """The files and directories that a recording reads."""
        model = self.model if self.model.endswith((".toml", ".json")) else None
        names = (*self.source.input, self.source.tokenizer, model)
        return [Path(name) for name in names if name]

    @property
    def gpus(self) -> int:
        """GPUs of the node."""
        return self.num_gpus or self.tensor_parallel

    @property
    def promotes(self) -> bool:
        """Whether hits are promoted: by default they are under write-through only."""
        promotion = self.promotion or ("on-hit" if self.write_policy == "write-through" else "none")
        return promotion == "on-hit"

    @property
    def generation_ns(self) -> int:
        """Virtual time per generated token."""
        return (
            round(S_NS / self.decode_rate) if self.decode_rate else GENERATION_NS[self.generation]
        )

    @property
    def prefill_ps(self) -> int:
        """Virtual time of the node, in picoseconds, per prompt token that no tier had."""
        return round(S_NS * 1000 / self.prefill_rate) if self.prefill_rate else 0


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration, and where each value comes from that isn't the default, by dotted key."""

    config: RecordConfig
    origins: dict[str, str]


def load_config(
    file: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    sets: Iterable[str] = (),
    preset: str | None = None,
) -> RecordConfig:
    """Return the configuration that `resolve` makes.

    Raises UsageError for an argument, key or value that isn't accepted.
    """
    return resolve(
        None if file is None else arguments.path(file, "file"),
        arguments.options({} if options is None else options, "options"),
        arguments.texts(sets, "sets"),
        None if preset is None else arguments.text(preset, "preset"),
    ).config


def changed_config(config: RecordConfig, options: Mapping[str, Any]) -> RecordConfig:
    """Return a configuration with `options`, by dotted key, in place of its own values."""
    return resolve(None, dict(leaves(config.model_dump(mode="json"), WHOLE)) | dict(options)).config


def resolve(
    file: str | Path | None,
    options: Mapping[str, Any],
    sets: Iterable[str] = (),
    preset: str | None = None,
) -> Resolved:
    """Merge defaults, a preset, a YAML file, `sets` and options, in that order.

    `options`: by dotted key; None is left out. `sets`: `section.key=value`, value in YAML. Raises
    UsageError that names the key, and the nearest known one where it is unknown.
    """
    layers = Layers(WHOLE)
    if preset is not None:
        layers.lay(_preset(preset), f"preset {preset}")
    if file is not None:
        layers.read(file)
    layers.set(sets)
    layers.options(options)
    data, origins = layers.data, layers.origins
    _recognise_source(data, origins)
    try:
        return Resolved(RecordConfig.model_validate(data), origins)
    except UsageError as error:
        if (cause := arguments.invalid(error)) is None:
            raise
        raise _refusal(cause, origins) from cause


def _recognise_source(data: dict[str, Any], origins: dict[str, str]) -> None:
    """Put in the source's name where only its input is given. Raises UsageError."""
    source = data.get("source")
    if not isinstance(source, dict) or source.get("name") is not None:
        return
    inputs = source.get("input")
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(i, str) for i in inputs):
        from kvtrace.sources import recognised

        source["name"] = recognised(inputs)
        origins["source.name"] = "recognised by its input"


WHOLE = ("source.templates", "source.qos_mix")
"""Mappings that a later layer replaces as a whole."""


def preset_names() -> list[str]:
    """Return the names of the presets that come with kvtrace, sorted."""
    entries = files("kvtrace").joinpath("presets").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries)


def preset_summary(name: str) -> str:
    """Return the first line of a preset, which says what it is."""
    return _preset_text(name).partition("\n")[0].removeprefix("# ")


def _preset_text(name: str) -> str:
    return files("kvtrace").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")


def _preset(name: str) -> dict[str, Any]:
    import yaml

    if name not in preset_names():
        raise unknown_name("preset", name, preset_names(), where="--preset")
    data: dict[str, Any] = yaml.safe_load(_preset_text(name))
    return data


def _refusal(error: ValidationError, origins: Mapping[str, str]) -> UsageError:
    flaw = first_flaw(error)
    key = ".".join(flaw.place)
    # Of a choice of types, such as a number or `auto`, the location names the one that was tried.
    key = key.partition(".constrained-")[0].partition(".literal")[0]
    origin = origin_of(origins, key)
    where = key if origin in (DEFAULT, OPTION) else f"{origin}: {key}"
    if flaw.kind == "extra_forbidden":
        near = get_close_matches(key.rpartition(".")[2], _known_keys(RecordConfig), n=1)
        hint = f"did you mean {near[0]}?" if near else None
        return UsageError("unknown key", where=where, hint=hint)
    if not key:  # of the configuration as a whole: its values would fill a page
        return UsageError(flaw.problem, where="configuration")
    return UsageError(flaw.problem, where=where, got=flaw.got)


def _known_keys(model: type[BaseModel]) -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys.extend(_known_keys(info.annotation))
    return keys
