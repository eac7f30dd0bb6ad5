"""What reading requests costs: requests per CPU-second of each kind of file, and memory.

Files are made here, with ids and lengths like those of the public traces. Each figure is of a
process of its own that reads the file twice, as `record` does, without simulating it; the first
time imports and isn't counted. Medians of `--repeats` runs, with the range.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgpack
import numpy as np

from kvtrace import sources
from kvtrace.recording.config import load_config
from kvtrace.sources import SourceContext

IDS = 24
"""Ids of a request: of 512 tokens each as in Mooncake's traces, which have 23 on average."""
REQUESTS = {
    "mooncake": 50_000,
    "bailian": 50_000,
    "dynamo": 50_000,
    "litellm": 50_000,
    "tracelab": 300_000,
    "tracelab, JSONL": 50_000,
    "kv-events": 30_000,
    "azure": 1_000_000,
    "burstgpt": 1_000_000,
    "weka": 20_000,
    "sharegpt": 100_000,
    "lmcache": 20_000,
}


def ids_of(rng: np.random.Generator) -> list[int]:
    """Return the ids of a request."""
    first = int(rng.integers(0, 1 << 40))
    return list(range(first, first + IDS))


def make_lines(path: Path, name: str, count: int) -> None:
    """Write a file of mooncake or bailian."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for number in range(count):
            tokens = IDS * (512 if name == "mooncake" else 16) - 5
            fields = {"timestamp": number, "input_length": tokens, "output_length": 200}
            if name == "bailian":
                parent = number - 50 if number % 3 else -1
                fields |= {"chat_id": number, "parent_chat_id": max(parent, -1), "turn": 1}
            file.write(json.dumps(fields | {"hash_ids": ids_of(rng)}) + "\n")


def make_dynamo(path: Path, count: int) -> None:
    """Write records of requests of 64-token blocks, 500 sessions among them."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for number in range(count):
            hashes = rng.integers(0, 1 << 64, IDS, np.uint64).tolist()
            replay = {"trace_block_size": 64, "input_length": 64 * IDS - 5,
                      "input_sequence_hashes": hashes}  # fmt: skip
            request = {"request_id": str(number), "request_received_ms": number,
                       "output_tokens": 200, "replay": replay}  # fmt: skip
            record = {"schema": "dynamo.request.trace.v1", "event_type": "request_end",
                      "event_time_unix_ms": number + 900,
                      "agent_context": {"session_id": f"s{number % 500}"},
                      "request": request}  # fmt: skip
            file.write(json.dumps(record, separators=(",", ":")) + "\n")


def make_litellm(path: Path, count: int) -> None:
    """Write spend logs of requests of 64-token blocks, one to a line."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for number in range(count):
            ids = [f"{value:016x}" for value in rng.integers(0, 1 << 64, IDS, np.uint64).tolist()]
            log = {"request_id": f"c{number}", "call_type": "acompletion", "status": "success",
                   "startTime": f"2026-11-16T{number // 3600:02}:{number // 60 % 60:02}"
                                f":{number % 60:02}.000Z",
                   "endTime": "2026-11-17T00:00:00Z", "prompt_tokens": 64 * IDS - 5,
                   "completion_tokens": 200, "session_id": f"s{number % 500}",
                   "metadata": {"prefix_block_hashes": {"block_size": 64, "hash_ids": ids}},
                   }  # fmt: skip
            file.write(json.dumps(log, separators=(",", ":")) + "\n")


def make_tracelab(path: Path, count: int) -> None:
    """Write rounds of sessions of 60, as the session runner's CSV; every tenth context is cut."""
    with path.open("w") as file:
        file.write("session_id,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms\n")
        for number in range(count):
            turn = number % 60
            prefix = 1500 * turn - (900 if turn % 10 == 9 else 0)
            file.write(f"{number // 60},{turn},{prefix},1200,300,1500\n")


def make_tracelab_lines(path: Path, count: int) -> None:
    """Write rounds of sessions of 60 with five events, as TraceLab's JSONL has them."""
    kinds = ("tool_result", "reasoning", "text", "tool_call", "usage_report")
    with path.open("w") as file:
        for number in range(count):
            turn = number % 60
            events = [
                {"event_type": kind, "source": "codex", "content_chars": 400,
                 "timestamp": f"2026-06-25T{number // 60 % 24:02}:{turn:02}:{10 * at:02}.250Z"}
                for at, kind in enumerate(kinds)
            ]  # fmt: skip
            fields = {"provider": "codex", "session_id": f"codex:{number // 60}",
                      "round_index": turn, "prefix_tokens": 1500 * turn - 900 * (turn % 10 == 9),
                      "newly_append_tokens": 1200, "output_tokens": 300, "timing_events": events,
                      "tools": [{"tool_name": "shell", "result_chars": 900}]}  # fmt: skip
            file.write(json.dumps(fields) + "\n")


def make_kv_events(path: Path, count: int) -> None:
    """Write batches of one event each: 8 blocks of 16 tokens, every third behind the one before."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        hashes: list[int] = []
        for number in range(count):
            parent = hashes[-1] if number % 3 else None
            hashes = rng.integers(0, 1 << 64, 8, np.uint64).tolist()
            event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent,
                     "token_ids": [1000] * 128, "block_size": 16, "medium": "GPU"}  # fmt: skip
            batch = [number / 1000, [event], 0]
            file.write(json.dumps({"topic": "", "seq": number, "batch": batch}) + "\n")


def make_csv(path: Path, name: str, count: int) -> None:
    """Write a file of azure or burstgpt."""
    with path.open("w") as file:
        if name == "azure":
            file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
            for number in range(count):
                minute, second = number // 60 % 60, number % 60
                hour = f"{16 + number // 86400:02} {number // 3600 % 24:02}"
                file.write(f"2023-11-{hour}:{minute:02}:{second:02}.9799600,2048,27\n")
        else:
            file.write("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n")
            for number in range(count):
                file.write(f"{number},ChatGPT,472,{number % 9},490,Conversation log\n")


def make_weka(path: Path, count: int) -> None:
    """Write conversations of 50 requests, whose contexts grow to 2,000 ids."""
    with path.open("w") as file:
        for conversation in range(count // 50):
            requests = [
                {"t": 30 * turn, "type": "n", "in": 64 * 40 * (turn + 1), "out": 200,
                 "hash_ids": list(range(1, 40 * (turn + 1) + 1)), "think_time": 12.0}
                for turn in range(50)
            ]  # fmt: skip
            fields = {"id": str(conversation), "block_size": 64, "hash_id_scope": "local"}
            file.write(json.dumps(fields | {"requests": requests}) + "\n")


def make_sharegpt(path: Path, count: int) -> None:
    """Write conversations of four turns of 300 and 1,200 characters."""
    said = [{"from": "human", "value": "q" * 300}, {"from": "gpt", "value": "a" * 1200}] * 4
    entry = json.dumps({"id": "x", "conversations": said})
    path.write_text("[" + ",\n".join([entry] * (count // 4)) + "]")


def make_lct(path: Path, count: int) -> None:
    """Write a recording of look-ups alone."""
    rng = np.random.default_rng(0)
    header = {"type": "header", "magic": b"LMCT", "format_version": 1, "t_wall_start": 1.0}
    layout = {"v": {"shapes": [[2, 32, 256, 1024]], "dtypes": ["torch.bfloat16"]}}
    name = "lmcache.v1.distributed.storage_manager.StorageManager.submit_prefetch_task"
    with path.open("wb") as file:
        for number in range(count + 1):
            hashes = [rng.bytes(32) for _ in range(IDS)]
            keys = [{"v": {"chunk_hash": value, "model_name": "m"}} for value in hashes]
            spec = {"v": {"key_groups": [{"v": {"keys": keys, "layout_desc": layout}}]}}
            arguments = {"spec": spec, "external_request_id": str(number)}
            record = {"type": "record", "t_mono": number, "qualname": name, "args": arguments}
            frame = msgpack.packb(record if number else header)
            file.write(len(frame).to_bytes(4, "big") + frame)


def make(path: Path, name: str) -> None:
    """Write the file of source `name`."""
    count = REQUESTS[name]
    if name in ("mooncake", "bailian"):
        make_lines(path, name, count)
    elif name in ("azure", "burstgpt"):
        make_csv(path, name, count)
    else:
        {
            "dynamo": make_dynamo,
            "litellm": make_litellm,
            "tracelab": make_tracelab,
            "tracelab, JSONL": make_tracelab_lines,
            "kv-events": make_kv_events,
            "weka": make_weka,
            "sharegpt": make_sharegpt,
            "lmcache": make_lct,
        }[name](path, count)


def measured(name: str, path: Path) -> dict[str, float]:
    """Read the file once in this process; return requests, CPU seconds and peak memory."""
    config = load_config(None, {"source.name": name.partition(",")[0]}).source
    cpu = time.process_time()
    source = sources.create(
        SourceContext(config, (path,), seed=0, end_ns=1 << 62, by_turn=False, workers=1)
    )
    requests = sum(len(batch) for batch in source.batches())
    return {
        "requests": requests,
        "cpu_s": time.process_time() - cpu,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_child(name: str, path: Path) -> dict[str, float]:
    """Return `measured` of a fresh process."""
    command = [sys.executable, __file__, "--child", name, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, path = arguments.child
        measured(name, Path(path))
        print(json.dumps(measured(name, Path(path))))
        return
    for name in REQUESTS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            make(path, name)
            in_child(name, path)  # warms the file cache
            runs = [in_child(name, path) for _ in range(arguments.repeats)]
            rates = [run["requests"] / run["cpu_s"] for run in runs]
            megabytes = path.stat().st_size / 1e6
            print(
                f"{name:15} {runs[0]['requests']:>9,.0f} requests, {megabytes:6.1f} MB: "
                f"{statistics.median(rates):>10,.0f} requests per CPU-second "
                f"({min(rates):,.0f} … {max(rates):,.0f}), "
                f"{max(run['rss_mib'] for run in runs):.0f} MiB"
            )


if __name__ == "__main__":
    main()
