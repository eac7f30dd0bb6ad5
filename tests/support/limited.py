"""`python -m tests.support.limited …`: the command line, then the most memory it has had."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from kvtrace.cli.main import main


def most_bytes() -> int:
    """Return the most memory of this program, in bytes.

    What getrusage tells also counts the process that started it, up to its start.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) << 10


if __name__ == "__main__":
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    print(most_bytes())  # noqa: T201
    sys.exit(code if isinstance(code, int) else 0)
