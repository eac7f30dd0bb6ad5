"""Recording of a source that makes rows itself: no model, layout or simulated tiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kvtrace import sources
from kvtrace.errors import UsageError
from kvtrace.requests.paths import input_files
from kvtrace.sources import SourceContext
from kvtrace.trace.header import RESIDENT_DTYPE, Header, Producer, SourceInfo
from kvtrace.units import UNLIMITED
from kvtrace.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.recording.config import RecordConfig

ACCEPTED = frozenset({"source", "seed", "requests", "duration"})
"""Keys of a configuration that have an effect on such a source."""


class RowSource(Protocol):
    """A source that makes the rows of a trace. `complete`: no value of theirs is unknown."""

    columns: tuple[str, ...]
    complete: bool

    @property
    def info(self) -> SourceInfo:
        """Name and parameters, for the header; what was invented."""
        ...

    def resident(self) -> list[tuple[int, int, int]]:
        """Return tier, key and size of each object that is there at the start."""
        ...

    def rows(self, most: int | None, end_ns: int | None) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the rows of the first requests, up to a number and before `end_ns`."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Return what was made, for the header; once all rows were."""
        ...


class RowRecording:
    """A recording of such a source. Raises UsageError for a key that has no effect on it."""

    def __init__(self, config: RecordConfig) -> None:
        fields = type(config).model_fields
        for key in sorted(config.model_fields_set - ACCEPTED):
            if getattr(config, key) != fields[key].get_default(call_default_factory=True):
                raise UsageError(
                    f"has no effect on source {config.source.name}", where=key,
                    accepted=", ".join(sorted(ACCEPTED)), hint="leave it out",
                )  # fmt: skip
        self.config = config
        context = SourceContext(
            config=config.source,
            inputs=input_files(config.source.input),
            seed=config.seed,
            end_ns=UNLIMITED,
            by_turn=False,
            workers=1,
        )
        self.source: RowSource = sources.create(context)  # type: ignore[assignment]

    def header(self) -> Header:
        """Return the header of the trace, before anything is counted."""
        config = self.config
        accepted = {"name", *sources.keys(config.source.name)}
        resolved = config.model_dump(mode="json", include=set(ACCEPTED) - {"source"})
        resolved["source"] = config.source.model_dump(mode="json", include=accepted)
        return Header(
            producer=Producer(version=VERSION), source=self.source.info, seed=config.seed,
            config=resolved,
        )  # fmt: skip

    def columns(self) -> tuple[str, ...]:
        """Return the optional columns of the rows."""
        return self.source.columns

    def resident(self) -> NDArray[np.void]:
        """Return the objects that are there at the start."""
        return np.array(self.source.resident(), RESIDENT_DTYPE)

    def rows(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the rows of the trace."""
        return self.source.rows(self.config.requests, self.config.duration)
