"""The configuration of a recording: validated once, unknown keys refused, then passed down."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, Field, model_validator

from kvtrace import arguments, plugins
from kvtrace.arguments import Checked
from kvtrace.errors import UsageError, unknown_name
from kvtrace.fields import (
    MAX_TOKENS,
    Bandwidth,
    Bytes,
    DurationNs,
    RatePerS,
    Ratio,
    Section,
    Tokens,
    Warmup,
)
from kvtrace.files.documents import MAX_CONFIG_BYTES, parse_yaml, read_document
from kvtrace.requests.source_config import ARRIVING, GENERATION_NS, SourceConfig
from kvtrace.show.printable import printable
from kvtrace.units import GIB, S_NS, TIB

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic import ValidationError

    from kvtrace.trace.schema import Tier


def _known_policy(name: str) -> str:
    known = plugins.names(plugins.POLICY)
    if name not in known:
        raise ValueError(str(unknown_name("policy", name, known)))
    return name


Eviction = Annotated[str, AfterValidator(_known_policy)]


class TierConfig(Section):
    """One tier: capacity in bytes (of gpu: per GPU; 0: absent), watermarks, policy if its own."""

    capacity: Bytes
    high_watermark: Ratio = 1.0
    low_watermark: Ratio = 1.0
    eviction: Eviction | None = None


class _Gpu(TierConfig):
    capacity: Bytes = 16 * GIB


class _Cpu(TierConfig):
    capacity: Bytes = 64 * GIB


class _Nvme(TierConfig):
    capacity: Bytes = 2 * TIB


class _Object(TierConfig):
    capacity: Bytes = 0


class TiersConfig(Section):
    """The tiers, fastest first."""

    gpu: _Gpu = _Gpu()
    cpu: _Cpu = _Cpu()
    nvme: _Nvme = _Nvme()
    object: _Object = _Object()

    def of(self, tier: Tier) -> TierConfig:
        """Return the configuration of `tier`."""
        config: TierConfig = getattr(self, tier.label)
        return config


class ServiceConfig(Section):
    """How a tier serves: bytes per second, and the latency of an op."""

    bandwidth: Bandwidth
    latency: DurationNs


class _GpuService(ServiceConfig):
    bandwidth: Bandwidth = 2 * 10**12
    latency: DurationNs = 2_000


class _CpuService(ServiceConfig):
    bandwidth: Bandwidth = 50 * 10**9
    latency: DurationNs = 10_000


class _NvmeService(ServiceConfig):
    bandwidth: Bandwidth = 7 * 10**9
    latency: DurationNs = 100_000


class _ObjectService(ServiceConfig):
    bandwidth: Bandwidth = 2 * 10**9
    latency: DurationNs = 20_000_000


class _Targets(Section):
    interactive: DurationNs = S_NS // 2
    responsive: DurationNs = S_NS
    batch: DurationNs = 5 * S_NS


class SizingConfig(Section):
    """What `users: auto` holds the number of users to: tiers' service, P95 of loads per class."""

    gpu: _GpuService = _GpuService()
    cpu: _CpuService = _CpuService()
    nvme: _NvmeService = _NvmeService()
    object: _ObjectService = _ObjectService()
    targets: _Targets = _Targets()
    max_users: Annotated[int, Field(gt=0, le=1 << 20)] = 10_000

    def of(self, tier: Tier) -> ServiceConfig:
        """Return how `tier` serves."""
        config: ServiceConfig = getattr(self, tier.label)
        return config


class RecordConfig(Checked):
    """All that determines a generated trace."""

    source: SourceConfig = SourceConfig()
    model: str = "llama3.1-8b"
    dtype: str | None = None
    layers: Annotated[int, Field(gt=0, le=1 << 14)] | None = None
    layout: str = "lmcache"
    block_tokens: Tokens | None = None
    ranks: Literal["all", "one"] | None = None
    tensor_parallel: Annotated[int, Field(gt=0, le=1 << 14)] = 1
    num_gpus: Annotated[int, Field(gt=0, le=1 << 14)] | None = None
    nodes: Annotated[int, Field(gt=0, le=1 << 14)] = 1
    tiers: TiersConfig = TiersConfig()
    eviction: Eviction = "lru"
    admission: Literal["always", "second-use"] = "always"
    write_policy: Literal["waterfall", "write-through"] = "waterfall"
    promotion: Literal["none", "on-hit"] | None = None
    touch_order: Literal["tail-first", "in-order"] = "tail-first"
    store_generated: Literal["auto", "yes", "no"] = "auto"
    state_interval: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    lookups: bool = False
    role: Literal["both", "prefill", "decode"] = "both"
    warmup: Warmup | None = None
    duration: DurationNs | None = None
    requests: Annotated[int, Field(gt=0, le=1 << 40)] | None = None
    generation: Literal["none", "fast", "realistic"] = "realistic"
    decode_rate: Annotated[RatePerS, Field(ge=0.01)] | None = None
    decode_batch: Annotated[int, Field(gt=0, le=1 << 16)] | None = None
    prefill_rate: Annotated[RatePerS, Field(ge=1)] | None = None
    prefill_slots: Annotated[int, Field(gt=0, le=1 << 10)] = 1
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    sizing: SizingConfig = SizingConfig()
    fit: Annotated[Bytes, Field(gt=0)] | None = None
    scale: Ratio | None = None

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
        if self.nodes > 1 and self.source.users and self.source.name in ARRIVING:
            # Which conversation a user is given next depends on all users.
            raise ValueError(f"users of source {self.source.name} are of one node: give a rate")
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
    return resolve(None, dict(_leaves(config.model_dump(mode="json"))) | dict(options)).config


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
    data: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def lay(layer: Mapping[str, Any], origin: str) -> None:
        for key, value in _leaves(layer):
            _put(data, key, value)
            origins[key] = origin

    if preset is not None:
        lay(_preset(preset), f"preset {preset}")
    if file is not None:
        lay(_read(Path(file)), str(file))
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError("not key=value", where="--set", got=repr(text))
        _put(data, key.strip(), parse_yaml(value, f"--set {key}", error=UsageError))
        origins[key.strip()] = "--set"
    for key, value in options.items():
        if value is not None:
            _put(data, key, value)
            origins[key] = "option"
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


def _leaves(layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in layer.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in WHOLE:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


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
    if name not in preset_names():
        raise unknown_name("preset", name, preset_names(), where="--preset")
    data: dict[str, Any] = yaml.safe_load(_preset_text(name))
    return data


def _read(path: Path) -> dict[str, Any]:
    data = parse_yaml(
        read_document(path, "the configuration", error=UsageError, most=MAX_CONFIG_BYTES),
        path,
        error=UsageError,
    )
    if not isinstance(data, dict):
        raise UsageError("not a configuration", where=path, accepted="a YAML mapping")
    return data


def _put(data: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = data.setdefault(section, {})
        if inner is None:
            inner = data[section] = {}
        if not isinstance(inner, dict):
            raise UsageError("not a section", where=key, got=repr(inner))
        data = inner
    data[last] = value


def origin_of(origins: Mapping[str, str], key: str) -> str:
    """Return where a value comes from: its own key was set, or one within it."""
    within = [origin for other, origin in origins.items() if f"{other}.".startswith(f"{key}.")]
    return printable(within[-1]) if within else "default"


def _refusal(error: ValidationError, origins: Mapping[str, str]) -> UsageError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    # Of a choice of types, such as a number or `auto`, the location names the one that was tried.
    key = key.partition(".constrained-")[0].partition(".literal")[0]
    origin = origin_of(origins, key)
    where = key if origin in ("default", "option") else f"{origin}: {key}"
    if first["type"] == "extra_forbidden":
        near = get_close_matches(key.rpartition(".")[2], _known_keys(RecordConfig), n=1)
        hint = f"did you mean {near[0]}?" if near else None
        return UsageError("unknown key", where=where, hint=hint)
    problem = first["msg"].removeprefix("Value error, ")
    if not key:  # of the configuration as a whole: its values would fill a page
        return UsageError(problem, where="configuration")
    return UsageError(problem, where=where, got=None if "got " in problem else repr(first["input"]))


def _known_keys(model: type[BaseModel]) -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys.extend(_known_keys(info.annotation))
    return keys
