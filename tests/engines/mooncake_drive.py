"""Use Mooncake's store, master and client, on the loopback interface of a network of its own.

Runs in the engines' environment, as `unshare -n python mooncake_drive.py JSON`, with `folder`, and
`capture`, `faults` if wanted. The last line that it prints is JSON: `results` of all calls, and
`counts` of the master.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import mooncake
import numpy as np
from faults import inject
from mooncake.store import MooncakeDistributedStore

MASTER, METRICS_PORT = "127.0.0.1:15051", 19003
SET_FLAGS, UP_RUNNING_LOOPBACK = 0x8914, 0x49
OBJECTS, SIZE = 100, 16 << 10


def loopback_up() -> None:
    """Let the network namespace have its loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", UP_RUNNING_LOOPBACK)
        fcntl.ioctl(any_socket, SET_FLAGS, request)


def master(folder: Path) -> subprocess.Popen[bytes]:
    program = Path(mooncake.__file__).parent / "mooncake_master"
    program.chmod(0o755)
    log = (folder / "master.log").open("wb")
    return subprocess.Popen(
        [program, f"--rpc_address={MASTER.split(':')[0]}", f"--rpc_port={MASTER.split(':')[1]}",
         f"--metrics_port={METRICS_PORT}"],
        stdout=log, stderr=log,
    )  # fmt: skip


def client() -> Any:
    """Return a client, once the master answers."""
    for _ in range(50):
        made = MooncakeDistributedStore()
        code = made.setup({
            "local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE",
            "global_segment_size": str(64 << 20), "local_buffer_size": str(16 << 20),
            "protocol": "tcp", "master_server_addr": MASTER,
        })  # fmt: skip
        if code == 0:
            return made
        time.sleep(0.2)
    raise RuntimeError(f"no master: {code}")


def counts() -> dict[str, float]:
    """Return the master's own counts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.split() for line in lines if line.startswith("master_") and "{" not in line]
    return {name.removeprefix("master_"): float(value) for name, value in pairs}


def use(store: Any) -> list[Any]:
    """Call every recorded way of storing and loading; return all results."""
    keys = [f"key-{number}" for number in range(OBJECTS)]
    data = [bytes([number]) * SIZE for number in range(OBJECTS)]
    memory = np.zeros(1 << 20, np.uint8)
    at = memory.ctypes.data
    results: list[Any] = [store.put(key, value) for key, value in zip(keys, data, strict=True)]
    results.append(store.put_batch(["b-1", "b-2"], [b"1" * 1000, b"2" * 2000]))
    results.append(store.put_parts("parts", b"1" * 10, b"2" * 20))
    results.append(store.register_buffer(at, memory.nbytes))
    results.append(store.put_from("from", at, 4096))
    results.append(store.batch_put_from(["f-1", "f-2"], [at, at], [4096, 8192]))
    results.append(store.batch_put_from_multi_buffers(["m"], [[at, at + 4096]], [[4096, 4096]]))
    results += [store.get(key) == value for key, value in zip(keys, data, strict=True)]
    results.append(store.get("none"))
    results.append([len(value) for value in store.get_batch(["b-1", "none"])])
    results.append([store.get_buffer("b-2").size(), store.get_buffer("none")])
    results.append([bool(handle) for handle in store.batch_get_buffer(["b-1", "none"])])
    results.append([store.get_into("from", at, 4096), store.get_into("none", at, 4096)])
    results.append(store.batch_get_into(["f-1", "none"], [at, at + 8192], [4096, 4096]))
    parts = [at, at + 4096]
    results.append(
        store.batch_get_into_multi_buffers(["m", "none"], [parts, parts], [[4096, 4096]] * 2)
    )
    results.append([store.is_exist("m"), store.is_exist("none")])
    results.append(store.batch_is_exist([*keys, "none"]))
    results.append([store.remove("b-1", True), store.remove("none")])
    results.append(store.batch_remove(["b-2", "none"], True))
    results.append(store.put("much", b"x" * (100 << 20)))
    return [value.decode() if isinstance(value, bytes) else value for value in results]


def main() -> None:
    plan = json.loads(sys.argv[1])
    loopback_up()
    if plan.get("faults"):
        from kvtrace.capture.mooncake_rows import StoreWatch

        inject(StoreWatch)
    server = master(Path(plan["folder"]))
    try:
        store = client()
        if "capture" in plan:
            from kvtrace.capture.mooncake import RecordingStore

            store = RecordingStore(store, **plan["capture"])
        results = use(store)
        facts = {"results": results, "counts": counts()}
        removed = store.remove_all(True)
        facts["removed"] = removed
        store.close()
    finally:
        server.terminate()
        server.wait(10)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
