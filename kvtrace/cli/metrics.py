"""Metrics of a run from the command line: a port, a text file, what stays when it is over."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from kvtrace.cli.console import say
from kvtrace.cli.parsing import parsed
from kvtrace.cli.running import handling
from kvtrace.errors import UsageError
from kvtrace.show.printable import printable
from kvtrace.units import S_NS, format_duration_ns, parse_duration_ns
from replay import TargetSpec
from replay.metrics.prometheus import Ended, Metrics, MetricsPort, check_package, parse_address
from replay.metrics.textfile import MetricsFile
from replay.watch import Together

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from replay import Result, Watcher
    from replay.targets import Target

PORT, TEXTFILE = "--metrics-port", "--metrics-textfile"
HOLD, RUN = "--metrics-hold", "--metrics-run"


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """What the command line asks for."""

    port: str | None
    hold: str | None
    textfile: Path | None
    run: str | None
    force: bool = False


class Exposure:
    """Metrics of one run, open from before its first check until `hold` is over."""

    def __init__(
        self, asked: MetricsOptions, trace: Path, specs: Iterable[TargetSpec | Target]
    ) -> None:
        hold_ns = parsed(HOLD, parse_duration_ns, asked.hold)
        if hold_ns is not None and asked.port is None:
            raise UsageError(f"needs {PORT}", where=HOLD, hint="a text file stays anyway")
        self._hold_ns = hold_ns or 0
        run = asked.run or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        asked_for = [each if isinstance(each, TargetSpec) else each.spec for each in specs]
        devices = {tier: _device(spec) for spec in asked_for for tier in spec.tiers}
        self._metrics = Metrics(printable(run), printable(trace), devices)
        self._port = self._file = None
        if asked.port is not None:
            check_package(PORT)
            self._port = MetricsPort(self._metrics, *parse_address(asked.port))
        if asked.textfile is not None:
            self._file = MetricsFile(self._metrics, asked.textfile, force=asked.force)
        self._interrupted = False
        self._over = threading.Event()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            if self._file is not None:
                opened.enter_context(self._file)
            if self._port is not None:
                opened.enter_context(self._port)
                say(f"metrics on port {self._port.port}", err=True)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        if any(raised):
            self._metrics.finish(Ended(None))
        self._open.close()

    def watched_by(self, watcher: Watcher) -> Watcher:
        """Return what tells `watcher` and, if there are any, the metrics."""
        none = self._port is None and self._file is None
        return watcher if none else Together(watcher, self._metrics)

    def finish(self, result: Result) -> None:
        """Take the verdict."""
        codes = tuple(reason.code for reason in result.verdict.reasons)
        self._interrupted = "interrupted" in codes
        if self._hold_ns and self._port is not None and not self._interrupted:
            # From here on a signal ends the wait, and the exit code is that of the verdict.
            self._open.enter_context(handling(lambda *_: self._over.set()))
        self._metrics.finish(Ended(result.verdict.word, codes))

    def hold(self) -> None:
        """Keep the port open for a last scrape; a signal since `finish` ends that at once."""
        if not self._hold_ns or self._port is None or self._interrupted:
            return
        length = format_duration_ns(self._hold_ns)
        say(f"metrics stay on port {self._port.port} for {length}; Ctrl-C ends it", err=True)
        self._over.wait(self._hold_ns / S_NS)


def _device(spec: TargetSpec) -> str:
    return printable(spec.path) if spec.path is not None else spec.unit or spec.name


def trial_words(words: Sequence[str], folder: str, number: int, trials: int) -> list[str]:
    """Return the options of one trial's replay: its metrics have its name, the last one's stay."""
    if not any(word.partition("=")[0] in (PORT, TEXTFILE) for word in words):
        return list(words)
    rest, run, last = list[str](), folder, number == trials
    coming = iter(words)
    for word in coming:
        name, equals, value = word.partition("=")
        if name not in (HOLD, RUN):
            rest.append(word)
            continue
        value = value if equals else next(coming, "")
        if name == RUN:
            run = value
        elif last:
            rest += [HOLD, value]
    return [*rest, RUN, f"{run} trial {number}"]
