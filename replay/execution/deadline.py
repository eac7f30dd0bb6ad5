"""Ends a run when its time is over, whatever else goes on: a thread that waits for that moment."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from kvtrace.units import S_NS
from replay import clock

if TYPE_CHECKING:
    from replay.ops.contract import Control
    from replay.watch import Stop

_POLL_S = 0.02
"""Interval of polling for the clock's start; the end itself is met more exactly."""


class Deadline:
    """Lets a loop submit nothing more `after_ns` behind its clock's zero; None: never."""

    def __init__(self, control: Control, stop: Stop, after_ns: int | None) -> None:
        self._control, self._stop, self._after_ns = control, stop, after_ns
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="kvtrace-deadline", daemon=True)
        self.passed = False
        """Whether it ended the run."""

    def __enter__(self) -> Self:
        if self._after_ns is not None:
            self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._cancelled.set()
        if self._thread.is_alive():
            self._thread.join()

    def _wait(self) -> None:
        assert self._after_ns is not None
        while not self._cancelled.is_set():
            start_ns = int(self._control.start_ns[0])
            left_s = (start_ns + self._after_ns - clock.now_ns()) / S_NS if start_ns else _POLL_S
            if left_s <= 0:
                if not self._stop.flag[0]:
                    self.passed = True
                    self._stop.end()
                return
            self._cancelled.wait(left_s)
