"""`python -m tests.support.limited …`: the command line, then the most memory it has had."""

from __future__ import annotations

import resource
import sys

from kvtrace.cli.main import main

if __name__ == "__main__":
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)  # noqa: T201
    sys.exit(code if isinstance(code, int) else 0)
