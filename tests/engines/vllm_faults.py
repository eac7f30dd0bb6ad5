"""Let every hook of the vLLM adapter raise two times out of three, in the engine's own process."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from kvtrace.capture.vllm_rows import CpuWatch, TierWatch

if TYPE_CHECKING:
    from collections.abc import Callable


def inject() -> None:
    """Make all public methods of the watches faulty."""
    for watch in (CpuWatch, TierWatch):
        for name, hook in list(vars(watch).items()):
            if not name.startswith("_") and name != "closed":
                setattr(watch, name, _faulty(name, hook))


def _faulty(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    calls = count()

    def faulty(*args: Any, **kwargs: Any) -> Any:
        if next(calls) % 3:
            raise RuntimeError(f"a fault injected in {name}")
        return hook(*args, **kwargs)

    faulty.__name__ = name
    return faulty
