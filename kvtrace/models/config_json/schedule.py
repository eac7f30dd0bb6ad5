"""The kind of each layer: as a file lists it, checked, and turned into the layers' parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kvtrace.models.config_json.keys import Keys
    from kvtrace.models.config_json.parts import Part

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
LAYER_TYPES = "layer_types"


def schedule(keys: Keys, layers: int, key: str = LAYER_TYPES) -> list[str] | None:
    """Return the kind of each layer as the file lists them, or None. Raises for a wrong count."""
    listed = keys.words(key)
    if listed is None:
        return None
    if len(listed) != layers:
        raise keys.bad(key, f"{layers} kinds, one per layer")
    return listed


def stated_schedule(keys: Keys, layers: int, usual: str = LAYER_TYPES) -> list[str]:
    """Return the kind of each layer; raises TraceError without a list, naming the `usual` key."""
    kinds = schedule(keys, layers)
    if kinds is None:
        raise keys.missing(usual)
    return kinds


def check_kinds(
    keys: Keys, kinds: Iterable[str], known: Iterable[str], key: str = LAYER_TYPES
) -> None:
    """Raise TraceError for a kind of layer that this type of model isn't known to have."""
    known = tuple(known)
    for kind in kinds:
        if kind not in known:
            raise TraceError(
                f"unknown kind of layer in {keys.path}{key}",
                where=keys.where,
                got=repr(kind),
                accepted=", ".join(known),
            )


def by_kind(
    keys: Keys,
    kinds: list[str],
    makers: Mapping[str, Callable[[], Part]],
    key: str = LAYER_TYPES,
) -> list[list[Part]]:
    """Return the part of each layer by its kind; only the keys of kinds that occur are read."""
    check_kinds(keys, kinds, makers, key)
    made = {kind: makers[kind]() for kind in dict.fromkeys(kinds)}
    return [[made[kind]] for kind in kinds]


def indices(keys: Keys, key: str, layers: int, *, base: int = 0) -> set[int]:
    """Return the layers that a list names, counted from 0. Raises TraceError for others."""
    listed = keys.numbers(key)
    if listed is None:
        raise keys.missing(key)
    chosen = {index - base for index in listed}
    if len(chosen) != len(listed) or not chosen <= set(range(layers)):
        raise keys.bad(key, f"different layers from {base} to {layers - 1 + base}")
    return chosen
