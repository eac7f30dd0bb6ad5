"""What-if analysis: hit ratios and bytes of other tiers for the same requests, without I/O.

`kvtrace.whatif(...)` asks: this package stands under the function's name, and is called as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvtrace.whatif.ask import WhatIf


class _Asked(ModuleType):
    """A package that can be called: an import of anything in it puts it under the name."""

    def __call__(
        self,
        requests: Any,
        choices: Any = None,
        *,
        curves: Any = False,
        gpu: Any = None,
        gpus: Any = None,
        flops: Any = None,
        mfu: Any = None,
        drive_bandwidth: Any = None,
    ) -> WhatIf:
        """Return what `ask.whatif` does."""
        from kvtrace.whatif.ask import whatif

        return whatif(
            requests, choices, curves=curves, gpu=gpu, gpus=gpus, flops=flops, mfu=mfu,
            drive_bandwidth=drive_bandwidth,
        )  # fmt: skip


sys.modules[__name__].__class__ = _Asked
