"""The header of a trace: what it is, where it comes from and how it was made; JSON in the file."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import zstandard
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kvtrace.errors import TraceError
from kvtrace.trace.schema import (
    BY_NAME,
    CAPTURE_VERSION,
    FORMAT_HISTORY,
    FORMAT_VERSION,
    MAX_RESIDENTS,
    MAX_SIZE_BYTES,
    MAX_TIME_NS,
    MAX_TOTAL_BYTES,
    Op,
    Phase,
    Tier,
    Word,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MAX_HEADER_BYTES = 16 << 20
"""Longest JSON of a header."""
NOT_SEMANTIC = ("producer", "content_sha256")
"""Header fields that may differ between two traces of equal content."""
_RARE = ("history", "half_demotions", "capture")
"""Fields that only captures and traces made of other traces have; left out where empty."""


Count = Annotated[int, Field(ge=0, le=MAX_TOTAL_BYTES)]
"""Rows, ops, objects or bytes."""
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Time = Annotated[int, Field(ge=-MAX_TIME_NS, le=MAX_TIME_NS)]


def _one_of(words: type[Word]) -> AfterValidator:
    """Return a validator that accepts the labels of `words`."""
    labels = tuple(word.label for word in words)

    def check(label: str) -> str:
        if label not in labels:
            raise ValueError(f"unknown {words.__name__.lower()}, accepted: {', '.join(labels)}")
        return label

    return AfterValidator(check)


TierName = Annotated[str, _one_of(Tier)]
PhaseName = Annotated[str, _one_of(Phase)]
OpName = Annotated[str, _one_of(Op)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)


def _checked_by(fields: type[BaseModel]) -> AfterValidator:
    """Return a validator that leaves a mapping as it is if `fields` accepts it."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        fields.model_validate(values)
        return values

    return AfterValidator(check)


class _Model(_Part):
    name: str = ""
    dtype: str = ""
    bytes_per_token: float = 0


class _Layout(_Part):
    name: str = ""
    block_tokens: Annotated[int, Field(gt=0, le=1 << 31)] | None = None
    objects_per_block: int | None = None


class _Statistics(_Part):
    requests: Count | None = None
    blocks: Count | None = None
    unique_blocks: Count | None = None
    generated_tokens: Count | None = None
    ideal_prefix_hit: float | None = None
    hit_ratio: dict[str, float | None] | None = None
    replay: dict[str, Any] = {}


class Producer(_Part):
    """The program that wrote the trace."""

    name: str = "kvtrace"
    version: str = ""


class SourceInfo(_Part):
    """Where the requests came from. `sha256`: of each input file, in order of reading."""

    name: str
    parameters: dict[str, Any] = {}
    sha256: list[str] = []
    invented: list[str] = []


class TierInfo(_Part):
    """One tier as it was simulated.

    `capacity_bytes` is None where unlimited; `occupancy_factor` is what the rows' bytes are
    multiplied by to give the bytes that the node holds (ranks not emitted, MLA copies in HBM).
    """

    name: TierName
    capacity_bytes: Count | None
    high_watermark_ratio: Ratio = 1.0
    low_watermark_ratio: Ratio = 1.0
    eviction: str = "lru"
    occupancy_factor: Factor = 1.0


class Cell(_Part):
    """Ops and bytes of one tier × phase × op."""

    tier: TierName
    phase: PhaseName
    op: OpName
    ops: Count
    bytes: Count


class Totals(_Part):
    """What the trace amounts to, counted while it was written."""

    rows: Count = 0
    bytes: Count = 0
    duration_ns: Time = 0
    cells: list[Cell] = []


class Resident(_Part):
    """Objects present at the start, per tier name: count and bytes."""

    objects: dict[TierName, Count] = {}
    bytes: dict[TierName, Count] = {}
    derived: bool = Field(default=False, description="inferred from reads before writes")


class Capture(_Part):
    """How a live engine was recorded. Rows and events are counts over all processes."""

    engine: str
    engine_version: str = ""
    plugin_version: str = ""
    processes: Count = 0
    boot_id: str | None = None
    anchors: list[dict[str, int]] = []
    complete_is: dict[str, str] = Field(
        default={}, description="per tier: what `complete` is, e.g. I/O end, poll, pin time"
    )
    not_visible: list[str] = []
    dropped_rows: Count = 0
    gaps: list[dict[str, Any]] = []
    bus_events_dropped: Count = 0
    write_errors: Count = 0
    guarded_errors: dict[str, Count] = {}
    torn: list[dict[str, Any]] = []
    unfinished_processes: Count = 0
    adapter: list[dict[str, Any]] = []
    key_check: int | None = None

    def anonymised(self) -> Capture:
        """Return what doesn't tell where and when the engine ran."""
        return self.model_copy(
            update={"boot_id": None, "anchors": [], "adapter": [], "key_check": None}
        )


class Header(_Part):
    """All that is known of a trace beside its rows; only `format_version` must be there."""

    format_version: int | str = FORMAT_VERSION
    producer: Producer = Producer()
    source: SourceInfo | None = None
    model: Annotated[dict[str, Any], _checked_by(_Model)] | None = None
    layout: Annotated[dict[str, Any], _checked_by(_Layout)] | None = None
    tiers: list[TierInfo] = []
    write_policy: str | None = None
    tensor_parallel: int | None = None
    num_gpus: int | None = None
    nodes: int = Field(default=1, ge=1, le=1 << 14, description="number is in keys' top 16 bits")
    ranks: str | None = None
    seed: int | None = None
    config: dict[str, Any] = {}
    statistics: Annotated[dict[str, Any], _checked_by(_Statistics)] = {}
    resident: Resident = Resident()
    epoch_ns: Time | None = Field(
        default=None, description="what the clock of the recording or the imported file shows at 0"
    )
    totals: Totals = Totals()
    dropped_rows: Count = 0
    anonymised: bool = False
    history: list[dict[str, Any]] = []
    half_demotions: bool = Field(
        default=False, description="a demotion's other half may be on a tier that was left out"
    )
    capture: Capture | None = None
    content_sha256: str | None = None

    def to_json(self) -> bytes:
        """Return the JSON that is stored in a trace."""
        return self._json(exclude=set())

    def semantic_json(self) -> bytes:
        """Return the JSON that counts for `content_sha256`."""
        return self._json(exclude=set(NOT_SEMANTIC))

    def _json(self, exclude: set[str]) -> bytes:
        silent = {name for name in _RARE if not getattr(self, name)}
        content = self.model_dump(mode="json", exclude=exclude | silent)
        return json.dumps(content, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes, *, where: object) -> Header:
        """Return the header in `text`. Raises TraceError for anything else, or a newer format."""
        if len(text) > MAX_HEADER_BYTES:
            raise TraceError(
                "too long a header", where=where, accepted=f"up to {MAX_HEADER_BYTES >> 20} MiB"
            )
        try:
            header = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise TraceError(
                f"bad trace header at {place or 'its start'}: {first['msg']}",
                where=where,
                hint="write the trace again",
            ) from error
        if header.format_version not in FORMAT_HISTORY:
            writer = f", to {header.producer.version} or newer" * bool(header.producer.version)
            raise TraceError(
                "unknown format version",
                where=where,
                got=header.format_version,
                accepted=", ".join(map(str, FORMAT_HISTORY)),
                hint=f"update kvtrace{writer}",
            )
        return header

    def stated(self, columns: Iterable[str]) -> Header:
        """Return the header with the first version that has all that it and `columns` use."""
        later = self.capture is not None or any(
            BY_NAME[name].since == CAPTURE_VERSION for name in columns
        )
        version = CAPTURE_VERSION if later else FORMAT_VERSION
        return self.model_copy(update={"format_version": version})


_WINDOW_BYTES = 1 << 27
RESIDENT_DTYPE = np.dtype([("tier", "u1"), ("key", "<u8"), ("size", "<u8")])
"""One object present at the start of a trace."""


def pack_resident(objects: NDArray[np.void]) -> bytes:
    """Return `objects` (of `RESIDENT_DTYPE`) as text for the file's metadata."""
    raw = np.ascontiguousarray(objects, RESIDENT_DTYPE).view(np.uint8)
    return base64.b64encode(zstandard.ZstdCompressor(level=3).compress(raw.data))


def unpack_resident(text: bytes, *, where: object) -> NDArray[np.void]:
    """Return what `pack_resident` was given, checked. Raises TraceError."""
    return checked_residents(_unpacked(text, where), where)


def _unpacked(text: bytes, where: object) -> NDArray[np.void]:
    most = MAX_RESIDENTS * RESIDENT_DTYPE.itemsize
    try:
        packed = base64.b64decode(text, validate=True)
        with zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(packed) as raw:
            data = raw.read(most + 1)
    except (binascii.Error, zstandard.ZstdError) as error:
        raise TraceError(
            f"damaged list of residents: {error}", where=where, hint="write the trace again"
        ) from error
    if len(data) > most:
        raise TraceError(
            "too many residents", where=where, accepted=f"up to {MAX_RESIDENTS:,} objects"
        )
    if len(data) % RESIDENT_DTYPE.itemsize:
        raise TraceError(
            "damaged list of residents",
            where=where,
            got=f"{len(data)} bytes",
            accepted=f"{RESIDENT_DTYPE.itemsize} per object",
        )
    return np.frombuffer(data, RESIDENT_DTYPE)


def checked_residents(residents: NDArray[np.void], where: object) -> NDArray[np.void]:
    """Return the objects. Raises TraceError for a tier or size out of range, or a repeated key."""
    for name, most in (("tier", len(Tier) - 1), ("size", MAX_SIZE_BYTES)):
        bad = residents[name] > most
        if bad.any():
            at = int(bad.argmax())
            raise TraceError(
                f"{name} out of range",
                where=f"{where}: resident {at}, {name}",
                got=int(residents[name][at]),
                accepted=f"0 to {most}",
                hint="write the trace again",
            )
    if int(residents["size"].sum(dtype=np.uint64)) >= MAX_TOTAL_BYTES:
        raise TraceError(
            "residents are too large in all",
            where=where,
            accepted=f"less than {MAX_TOTAL_BYTES} bytes",
        )
    for tier in Tier:
        keys = np.sort(residents["key"][residents["tier"] == tier])
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            raise TraceError(
                "an object is listed twice among the residents",
                where=where,
                got=f"key {int(keys[twice[0]])} on tier {tier.label}",
                accepted="each (tier, key) once",
                hint="write the trace again",
            )
    return residents
