"""Let every hook of an adapter raise two times out of three, in the engine's own process."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


def inject(watch: type, *, but: Collection[str] = ()) -> None:
    """Make all public methods of a watch faulty: each succeeds at every third call only."""
    for name, hook in list(vars(watch).items()):
        if not name.startswith("_") and callable(hook) and name not in but:
            setattr(watch, name, _faulty(name, hook))


def _faulty(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    calls = count(1)

    def faulty(*args: Any, **kwargs: Any) -> Any:
        if next(calls) % 3:
            raise RuntimeError(f"a fault injected in {name}")
        return hook(*args, **kwargs)

    faulty.__name__ = name
    return faulty
