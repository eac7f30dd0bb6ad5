"""The folder of `policy.h`, printed for compilers: `cc -I "$(python -m kvtrace.policies)" …`."""

from __future__ import annotations

import sys

from kvtrace.policies import HEADERS

sys.stdout.write(f"{HEADERS}\n")
