"""Run vLLM on a CPU with tiers, twice over the same prompts; print what it says itself.

Runs in the engines' environment: `python vllm_drive.py JSON`, with `model`, `extra` (the
connector's configuration), and `events`, `requests`, `faults` if wanted. The last line that it
prints is JSON: `outputs` of both passes, `cached` tokens, `held` chunks, `metrics`, a `prompt`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

from faults import inject

os.environ.update(
    HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="WARNING", VLLM_NO_USAGE_STATS="1",
)  # fmt: skip

SYSTEM_PROMPTS, SYSTEM_TOKENS, WORDS = 8, 512, 1000
METRIC = "vllm:kv_offload_tiering_"


def prompts(count: int) -> list[list[int]]:
    """Return prompts of tokens, many of which begin alike."""
    rng = random.Random(1)
    system = [
        [rng.randrange(3, WORDS) for _ in range(SYSTEM_TOKENS)] for _ in range(SYSTEM_PROMPTS)
    ]
    return [
        rng.choice(system) + [rng.randrange(3, WORDS) for _ in range(rng.randrange(40, 300))]
        for _ in range(count)
    ]


def engine(plan: dict[str, Any]) -> Any:
    """Return vLLM with the tiers of a plan."""
    from vllm import LLM

    events = plan.get("events")
    return LLM(
        model=plan["model"], load_format="dummy", enforce_eager=True, max_model_len=2048,
        max_num_seqs=8, block_size=32, dtype="bfloat16", seed=0, disable_log_stats=False,
        num_gpu_blocks_override=plan.get("gpu_blocks", 200),
        kv_transfer_config={
            "kv_connector": "OffloadingConnector", "kv_role": "kv_both",
            "kv_connector_extra_config": plan["extra"],
        },
        kv_events_config={
            "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": events,
        } if events else None,
    )  # fmt: skip


def run(llm: Any, count: int) -> tuple[list[Any], list[int]]:
    """Return the outputs and the cached tokens of each request of a pass."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    sampling = SamplingParams(max_tokens=8, ignore_eos=True, temperature=0)
    outputs, cached, all_prompts = [], [], prompts(count)
    for begin in range(0, count, 4):
        batch = [TokensPrompt(prompt_token_ids=p) for p in all_prompts[begin : begin + 4]]
        for output in llm.generate(batch, sampling, use_tqdm=False):
            outputs.append(list(output.outputs[0].token_ids))
            cached.append(output.num_cached_tokens)
    return outputs, cached


def metrics(llm: Any) -> dict[str, float]:
    """Return vLLM's own counts of its tiers, by name and tier."""
    return {
        f"{one.name.removeprefix(METRIC)} {one.labels.get('tier', '')}".strip(): one.value
        for one in llm.get_metrics()
        if one.name.startswith(METRIC) and hasattr(one, "value")
    }


def settle(llm: Any, manager: Any) -> None:
    """Step until no copy is in flight: a generation ends when its last token is known."""
    core = llm.llm_engine.engine_core.engine_core
    while manager.has_pending_work() or core.scheduler.has_requests():
        core.step()
    time.sleep(1)  # the publisher has a thread of its own


def main() -> None:
    plan = json.loads(sys.argv[1])
    if plan.get("faults"):
        from kvtrace.capture.vllm_rows import CpuWatch, TierWatch

        for watch in (CpuWatch, TierWatch):
            inject(watch, but=("closed",))
    llm = engine(plan)
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    manager = scheduler.connector.connector_scheduler.manager
    passes = [run(llm, plan.get("requests", 50)) for _ in range(2)]
    settle(llm, manager)
    primary = manager.primary_tier
    facts = {
        "outputs": [outputs for outputs, _ in passes],
        "cached": [sum(cached) for _, cached in passes],
        "held": primary._num_allocated_chunks - len(primary._free_list),
        "chunk_bytes": primary.get_kv_memoryview().strides[0],
        "metrics": metrics(llm),
        "prompt": prompts(1)[0],
    }
    llm.llm_engine.engine_core.shutdown()
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
