"""Stand-ins reach the inner object with whatever the engine gives, and let nothing of ours out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pytest

from kvtrace.capture.guard import Guard
from kvtrace.capture.proxy import forwarding, hooked, observed


class Base(ABC):
    """An engine's interface, with a default that a stand-in must not answer for."""

    medium = "none"

    @abstractmethod
    def store(self, key: str) -> str: ...

    def pending(self, *_: Any, **__: Any) -> str:
        return "default"


class Inner(Base):
    medium = "storage"

    def store(self, key: str, **more: Any) -> str:
        return f"stored {key} {more}"

    def pending(self, *args: Any, **kwargs: Any) -> str:
        return f"inner {args} {kwargs}"


class Watch:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def stored(self, start_ns: int, result: str, *args: Any, **kwargs: Any) -> None:
        self.seen.append((start_ns > 0, result, args, kwargs))


@forwarding(Base)
class StandIn(Base):
    def __init__(self, inner: Inner) -> None:
        self.inner, self.watch, self.guard = inner, Watch(), Guard()

    store = hooked("store", "stored")


def test_methods_that_arent_hooked_are_the_inner_objects() -> None:
    """A default of the base never hides the inner object's answer, with arguments of any kind."""
    assert StandIn(Inner()).pending(1, new=2) == "inner (1,) {'new': 2}"


def test_attributes_are_the_inner_objects_both_ways() -> None:
    """Reading and writing reach the inner object."""
    stand_in = StandIn(Inner())
    assert stand_in.medium == "storage"
    stand_in.medium = "other"
    assert stand_in.inner.medium == "other"


def test_a_hook_sees_call_and_result() -> None:
    """The result is the inner object's; the hook gets start, result and all arguments."""
    stand_in = StandIn(Inner())
    assert stand_in.store("k", new=1) == "stored k {'new': 1}"
    assert stand_in.watch.seen == [(True, "stored k {'new': 1}", ("k",), {"new": 1})]


def test_a_hook_that_raises_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine gets its result all the same."""

    def stored(*_: Any, **__: Any) -> None:
        raise ValueError

    stand_in = StandIn(Inner())
    monkeypatch.setattr(stand_in.watch, "stored", stored)
    assert stand_in.store("k") == "stored k {}"
    assert stand_in.guard.errors == {"stored": 1}


def test_the_inner_objects_errors_are_the_engines() -> None:
    """They pass as they are, and no hook is called."""
    watch = Watch()

    def fail() -> None:
        raise OSError("inner")

    with pytest.raises(OSError, match="inner"):
        observed(fail, Guard(), watch.stored)()
    assert not watch.seen
