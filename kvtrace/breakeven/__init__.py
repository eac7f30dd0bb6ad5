"""Break-even: loading KV state from a tier against computing it again.

`kvtrace.breakeven(...)` asks: this package stands under the function's name, and is called as it
is.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvtrace.breakeven.ask import BreakEven


class _Asked(ModuleType):
    """A package that can be called: an import of anything in it puts it under the name."""

    def __call__(self, trace: Any = None, **options: Any) -> BreakEven:
        """Return what `ask.breakeven` does."""
        from kvtrace.breakeven.ask import breakeven

        return breakeven(trace, **options)


sys.modules[__name__].__class__ = _Asked
