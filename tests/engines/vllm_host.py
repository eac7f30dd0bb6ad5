"""The device copies of vLLM's tiering on a machine without a device, so that the rest of it runs.

vLLM's own worker refuses a CPU. This one copies between the KV tensors and the shared region that
the scheduler's tiers read; scheduler, managers and tiers are vLLM's own.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from kvtrace.capture.vllm import RecordingTieringSpec


class HostWorker(OffloadingWorker):
    """Copies blocks at once, in the worker's thread."""

    def __init__(self, caches: Any, blocks_per_chunk: int, region: Any) -> None:
        self._region, self._per_chunk = region, blocks_per_chunk
        self._done: list[TransferResult] = []
        self._views = [
            (
                one.tensor.view(torch.int8).view(-1, one.page_size_bytes),
                region.create_next_worker_view(one.page_size_bytes * blocks_per_chunk),
                one.page_size_bytes,
            )
            for one in caches.tensors
        ]
        self._tensors = [[ref.tensor_idx for ref in group] for group in caches.group_data_refs]

    def _copy(self, job: int, gpu: Any, cpu: Any, *, store: bool) -> bool:
        start, copied, gpu_at, cpu_at = time.perf_counter(), 0, 0, 0
        groups = zip(gpu.group_sizes, gpu.block_indices, self._tensors, strict=True)
        for count, first, tensors in groups:
            skipped = first % self._per_chunk
            chunks = -(-(count + skipped) // self._per_chunk) if count else 0
            blocks = gpu.block_ids[gpu_at : gpu_at + count].tolist()
            places = cpu.block_ids[cpu_at : cpu_at + chunks].tolist()
            gpu_at, cpu_at = gpu_at + count, cpu_at + chunks
            for tensor in tensors:
                copied += self._copy_blocks(tensor, blocks, places, skipped, store=store)
        self._done.append(TransferResult(job, True, copied, time.perf_counter() - start))
        return True

    def _copy_blocks(
        self, tensor: int, blocks: list[int], places: list[int], skipped: int, *, store: bool
    ) -> int:
        device, host, page = self._views[tensor]
        for number, block in enumerate(blocks, start=skipped):
            chunk, within = divmod(number, self._per_chunk)
            place = host[places[chunk], within * page : (within + 1) * page]
            if store:
                place.copy_(device[block])
            else:
                device[block].copy_(place)
        return page * len(blocks)

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, src_spec, dst_spec, store=True)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, dst_spec, src_spec, store=False)

    def get_finished(self) -> list[TransferResult]:
        done, self._done = self._done, []
        return done

    def wait(self, job_ids: set[int]) -> None:
        pass

    def shutdown(self) -> None:
        self._views.clear()
        self._region.cleanup()


class _Host:
    def get_worker(self, kv_caches: Any) -> HostWorker:
        if not self._worker:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._worker = HostWorker(kv_caches, self.blocks_per_chunk, region)
        return self._worker


class HostSpec(_Host, TieringOffloadingSpec):
    """vLLM's tiering."""


class HostRecordingSpec(_Host, RecordingTieringSpec):
    """vLLM's tiering, recorded by the spec class."""
