"""The configuration of tiers: capacities, watermarks, and how they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from kvtrace import plugins
from kvtrace.errors import unknown_name
from kvtrace.fields import Bandwidth, Bytes, DurationNs, Option, Ratio, Section
from kvtrace.units import GIB, S_NS, TIB

if TYPE_CHECKING:
    from kvtrace.trace.schema import Tier

MODEL, TIERS, TIME, RUN = (
    "Model and layout",
    "Tiers and policies",
    "Length and timing",
    "Run and output",
)
"""Headings of the help of `kvtrace record`."""


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
    capacity: Annotated[
        Bytes, Option("KV-cache memory per GPU; 0 removes the tier.", TIERS, name="gpu-mem")
    ] = 16 * GIB


class _Cpu(TierConfig):
    capacity: Annotated[
        Bytes, Option("Capacity of tier cpu; 0 removes it.", TIERS, name="cpu-mem")
    ] = 64 * GIB


class _Nvme(TierConfig):
    capacity: Annotated[
        Bytes,
        Option("Capacity of tier nvme, or `unlimited`; 0 removes it.", TIERS, name="nvme-capacity"),
    ] = 2 * TIB


class _Object(TierConfig):
    capacity: Annotated[
        Bytes,
        Option(
            "Capacity of tier object, or `unlimited`; 0: no such tier.",
            TIERS,
            name="object-capacity",
        ),
    ] = 0


class TiersConfig(Section):
    """The tiers, fastest first."""

    gpu: _Gpu = Field(default_factory=_Gpu)
    cpu: _Cpu = Field(default_factory=_Cpu)
    nvme: _Nvme = Field(default_factory=_Nvme)
    object: _Object = Field(default_factory=_Object)

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

    gpu: _GpuService = Field(default_factory=_GpuService)
    cpu: _CpuService = Field(default_factory=_CpuService)
    nvme: _NvmeService = Field(default_factory=_NvmeService)
    object: _ObjectService = Field(default_factory=_ObjectService)
    targets: _Targets = Field(default_factory=_Targets)
    max_users: Annotated[int, Field(gt=0, le=1 << 20)] = 10_000

    def of(self, tier: Tier) -> ServiceConfig:
        """Return how `tier` serves."""
        config: ServiceConfig = getattr(self, tier.label)
        return config
