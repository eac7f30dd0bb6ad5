"""LMCache's .lct recordings of its storage manager: each look-up is a request's prompt."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError, UsageError
from kvtrace.files.textfile import open_binary
from kvtrace.models import dtype_bytes
from kvtrace.requests import jsonlines
from kvtrace.requests.request import Ragged
from kvtrace.requests.rows import MAX_TOKENS, Piece, alone
from kvtrace.requests.source import FILE_KEYS, FileSource, Told, need_input

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvtrace.sources import SourceContext

KEYS = FILE_KEYS
NEEDS = "msgpack"
"""The package without which this source isn't there; extra `lmcache`."""

MAGIC, VERSION = b"LMCT", 1
MAX_FRAME_BYTES = 16 << 20
REQUESTS_PER_PIECE = 4096
LOOK_UP = "StorageManager.submit_prefetch_task"
_TORCH_DTYPES = {"float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2", "uint8": "int8"}
"""Names that the project has other words for."""
INVENTED = [
    "output tokens: none, the recording doesn't tell them",
    "input tokens: those of whole chunks, the rest of a prompt isn't recorded",
]


def recognises(start: bytes) -> bool:
    """Return whether a file begins with the header of a recording."""
    return MAGIC in start[4:64] and start[:1] == b"\0"


@dataclass(frozen=True, slots=True)
class _LookUp:
    """A request's chunks: what each is known by, how many tokens and bytes one has."""

    place: int
    time_ns: int
    request: str | None
    chunks: list[tuple[str, bytes]]
    shape: tuple[int, ...]
    dtype: str


def frames(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each frame: u32 big-endian length, then msgpack.

    Raises TraceError for anything else, and for a last frame that is cut off.
    """
    msgpack = importlib.import_module(NEEDS)
    number = 0
    with open_binary(path) as file:
        while head := file.read(4):
            number += 1
            place = f"{path}:{number}"
            length = int.from_bytes(head, "big")
            if len(head) < 4 or length > MAX_FRAME_BYTES:
                raise TraceError("not a frame of an .lct file", where=place)
            body = file.read(length)
            if len(body) < length:
                raise TraceError("the file ends within a record", where=place, hint="get it again")
            try:
                content = msgpack.unpackb(body, raw=False, strict_map_key=False)
            except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
                raise TraceError(f"not msgpack: {error}", where=place) from error
            if not isinstance(content, dict):
                raise TraceError("not a record", where=place, got=repr(content)[:40])
            yield number, content


def records(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield number, Unix time in ns and content of each record behind the header."""
    records = frames(path)
    _, header = next(records, (0, {}))
    if header.get("type") != "header" or header.get("magic") != MAGIC:
        raise TraceError("not an .lct file", where=f"{path}:1", accepted="a header of magic LMCT")
    if header.get("format_version") != VERSION:
        raise TraceError(
            "unknown version of .lct",
            where=f"{path}:1",
            got=repr(header.get("format_version")),
            accepted=VERSION,
        )
    epoch_ns = jsonlines.seconds_ns(header, "t_wall_start", f"{path}:1")
    for number, record in records:
        time_ns = jsonlines.seconds_ns(record, "t_mono", f"{path}:{number}")
        yield number, epoch_ns + time_ns, record


def _look_ups(path: Path) -> Iterator[_LookUp]:
    for number, time_ns, record in records(path):
        name = record.get("qualname")
        if isinstance(name, str) and name.endswith(LOOK_UP):
            try:
                yield _look_up(number, time_ns, record["args"])
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise TraceError(
                    f"a look-up without {error}",
                    where=f"{path}:{number}",
                    accepted="key groups with keys and a layout, as LMCache 0.5 writes them",
                ) from error


def _look_up(number: int, time_ns: int, arguments: dict[str, Any]) -> _LookUp:
    """Return what a look-up asks for: of several ranks' or groups' keys of a chunk one."""
    group = arguments["spec"]["v"]["key_groups"][0]["v"]
    keys = [key["v"] for key in group["keys"]]
    chunks = dict.fromkeys((str(key["model_name"]), bytes(key["chunk_hash"])) for key in keys)
    layout = group["layout_desc"]["v"]
    shape = tuple(int(extent) for extent in layout["shapes"][0])
    return _LookUp(
        place=number,
        time_ns=time_ns,
        request=arguments.get("external_request_id"),
        chunks=list(chunks),
        shape=shape,
        dtype=torch_dtype(layout["dtypes"][0]),
    )


def torch_dtype(name: object) -> str:
    """Return the project's word for a torch dtype's name."""
    dtype = str(name).removeprefix("torch.")
    return _TORCH_DTYPES.get(dtype, dtype)


def chunk_tokens(shape: tuple[int, ...], where: str) -> int:
    """Return the tokens of a chunk of `shape`: K and V × layers × tokens × width.

    Source: LMCache 0.5.6, `MemoryFormat.KV_2LTD`; of an MLA model the first extent is 1.
    """
    if len(shape) != 4 or min(shape) < 1 or shape[2] > MAX_TOKENS:
        raise TraceError(
            "unknown layout of a chunk",
            where=where,
            got=shape,
            accepted="4 extents: K and V, layers, tokens, width",
        )
    return shape[2]


class _Recording:
    """The recordings' requests; chunks are numbered in order of appearance."""

    def __init__(self, context: SourceContext) -> None:
        self._context = context
        self._known: dict[tuple[str, bytes], int] = {}
        first = next(self._all(), None)
        if first is None:
            raise TraceError("no requests", where=context.inputs[0], accepted=f"calls of {LOOK_UP}")
        path, look_up = first
        self._shape, self._dtype = look_up.shape, look_up.dtype
        self.block_tokens = chunk_tokens(look_up.shape, f"{path}:{look_up.place}")
        self.told = Told(
            parameters={
                "model": look_up.chunks[0][0] if look_up.chunks else None,
                "chunk_shape": list(look_up.shape),
                "chunk_bytes": prod(look_up.shape) * dtype_bytes(look_up.dtype, where=path),
            },
            invented=INVENTED,
        )

    def _all(self) -> Iterator[tuple[Path, _LookUp]]:
        return ((path, query) for path in self._context.inputs for query in _look_ups(path))

    def pieces(self) -> Iterator[Piece]:
        """Yield the requests, a look-up that is asked again or is of no whole chunk left out."""
        count, seen = 0, set[str]()
        for path in self._context.inputs:
            look_ups = _look_ups(path)
            while some := list(islice(look_ups, REQUESTS_PER_PIECE)):
                kept = [look_up for look_up in some if self._counts(look_up, path, seen)]
                yield self._piece(path, kept, count)
                count += len(kept)

    def _counts(self, look_up: _LookUp, path: Path, seen: set[str]) -> bool:
        if (look_up.shape, look_up.dtype) != (self._shape, self._dtype):
            raise TraceError(
                "another layout of chunks",
                where=f"{path}:{look_up.place}",
                got=f"{look_up.shape} {look_up.dtype}",
                accepted=f"{self._shape} {self._dtype}, as at the start",
            )
        if look_up.request is not None and look_up.request in seen:
            self.told.drop("look-ups of a request that had asked before", 1)
            return False
        if look_up.request is not None:
            seen.add(look_up.request)
        if not look_up.chunks:
            self.told.drop("prompts without a whole chunk", 1)
        return bool(look_up.chunks)

    def _piece(self, path: Path, look_ups: list[_LookUp], first: int) -> Piece:
        counts = np.array([len(look_up.chunks) for look_up in look_ups], np.int64)
        known = self._known
        ids = [known.setdefault(chunk, len(known)) for query in look_ups for chunk in query.chunks]
        rows = alone(
            first,
            np.array([look_up.time_ns for look_up in look_ups], np.int64),
            counts * self.block_tokens,
            np.zeros(len(look_ups), np.int64),
            Ragged.from_counts(counts, np.array(ids, np.int64)),
        )
        line = np.array([look_up.place for look_up in look_ups], np.int64)
        return Piece(str(path), line, rows)


def create(context: SourceContext) -> FileSource:
    """Return the source; its blocks are the recording's chunks.

    Raises UsageError without an input or without msgpack.
    """
    need_input(context, "FILE.lct")
    try:
        importlib.import_module(NEEDS)
    except ImportError as error:
        raise UsageError(
            f"needs the package {NEEDS}",
            where="source lmcache",
            hint="pip install 'kvtrace[lmcache]'",
        ) from error
    recording = _Recording(context)
    return FileSource(
        context,
        KEYS,
        recording.pieces,
        block_tokens=recording.block_tokens,
        remarks=recording.told,
    )
