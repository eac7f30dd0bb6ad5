"""Stand-ins for an engine's objects: the inner object is called first, then a guarded hook sees it.

Whatever isn't hooked reaches the inner object with its arguments as they are, methods of newer
versions too: a stand-in never decides what the engine may call.
"""

from __future__ import annotations

import abc
import inspect
from typing import TYPE_CHECKING, Any

from kvtrace.capture.moment import monotonic_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvtrace.capture.guard import Guard

    Hook = Callable[..., None]


def observed(inner: Callable[..., Any], guard: Guard, hook: Hook) -> Callable[..., Any]:
    """Return a function that calls `inner`, then `hook(start_ns, result, *args, **kwargs)`.

    An exception of `inner` is the engine's: it passes, and the hook isn't called.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        start_ns = monotonic_ns()
        result = inner(*args, **kwargs)
        guard(hook, start_ns, result, *args, **kwargs)
        return result

    return call


def hooked(name: str, hook: str) -> Callable[..., Any]:
    """Return a method that calls `self.inner.name`, then `self.watch.hook`, under `self.guard`."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        start_ns = monotonic_ns()
        result = getattr(self.inner, name)(*args, **kwargs)
        self.guard(getattr(self.watch, hook), start_ns, result, *args, **kwargs)
        return result

    call.__name__ = name
    return call


def forwarding(base: type) -> Callable[[type], type]:
    """Return a class decorator: all public of `base` that the class doesn't define is `inner`'s.

    `base` has defaults for most of it, so that `__getattr__` alone would never be asked.
    """

    def decorate(cls: type) -> type:
        own = {name for each in cls.__mro__ if each not in base.__mro__ for name in vars(each)}
        for name in dir(base):
            value = inspect.getattr_static(base, name)
            if name.startswith("_") or name in own or isinstance(value, classmethod | staticmethod):
                continue
            setattr(cls, name, _method(name) if inspect.isfunction(value) else _attribute(name))
        return abc.update_abstractmethods(cls)

    return decorate


def _method(name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, name)(*args, **kwargs)

    call.__name__ = name
    return call


def _attribute(name: str) -> property:
    def read(self: Any) -> Any:
        return getattr(self.inner, name)

    def write(self: Any, value: Any) -> None:
        setattr(self.inner, name, value)

    return property(read, write)
