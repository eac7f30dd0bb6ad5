"""Record the calls of a client of Mooncake's store, in a program that uses it directly.

    from kvtrace.capture.mooncake import RecordingStore
    store = RecordingStore(store, out="DIR", secret_file="FILE")

Of LMCache on Mooncake, record the adapter `mooncake_store` by `kvtrace.capture.lmcache`; of SGLang
on Mooncake, the back end `mooncake` by `kvtrace.capture.sglang`: they know ranks and blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.capture.errors import CaptureError
from kvtrace.capture.guard import release_once
from kvtrace.capture.mooncake_rows import HOOKS, MOVING, STILL, StoreWatch
from kvtrace.capture.proxy import observed
from kvtrace.capture.recorder import shared
from kvtrace.capture.settings import settings_of
from kvtrace.capture.versions import check, installed

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINE = "mooncake"
DISTRIBUTIONS = ("mooncake-transfer-engine", *(
    f"mooncake-transfer-engine-{kind}" for kind in ("non-cuda", "cuda13", "npu")
))  # fmt: skip


def version_of(distributions: Sequence[str] = DISTRIBUTIONS) -> str:
    """Return the version of the first of Mooncake's distributions that is installed.

    Raises CaptureError: none is.
    """
    for distribution in distributions[1:]:
        try:
            return installed("Mooncake", distribution)
        except CaptureError:
            continue
    return installed("Mooncake", distributions[0])


VERSION = version_of()
check("Mooncake", VERSION, first=(0, 3, 6), tested="0.3.13")


class RecordingStore:
    """A MooncakeDistributedStore that is recorded; whatever isn't recorded is the store's own."""

    def __init__(self, store: Any, **parameters: Any) -> None:
        """Begin to record; `parameters`: `out`, `secret_file` and others of a recording.

        Raises CaptureError: wrong parameters.
        """
        header = {
            "complete_is": {"object": "return of the call"},
            "not_visible": [
                "evictions by the master", "memory or SSD", "puts of keys that were there",
                "request ids", "objects of remove_all and remove_by_regex",
            ],
        }  # fmt: skip
        self._store = store
        self._recorder = shared(settings_of(parameters), ENGINE, VERSION, header=header)
        self._release = release_once(self._recorder)
        self._watch = StoreWatch(self._recorder.task)
        self._recorder.at_end(unrecorded_calls=lambda: dict(self._watch.unrecorded))

    def __getattr__(self, name: str) -> Any:
        if name in ("_store", "_recorder", "_watch"):  # not made yet
            raise AttributeError(name)
        inner = getattr(self._store, name)
        if name in HOOKS:
            hook = getattr(self._watch, HOOKS[name])
            inner = observed(inner, self._recorder.guard, hook)
            self.__dict__[name] = inner  # the next call finds it at once
        elif name.startswith(MOVING) and name not in STILL:
            self._recorder.guard(self._watch.passed, name)
        return inner

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the store and end the recording."""
        try:
            return self._store.close(*args, **kwargs)
        finally:
            self._recorder.guard(self._release)
