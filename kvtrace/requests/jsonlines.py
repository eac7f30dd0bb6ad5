"""JSON Lines: objects checked field by field, parsed by worker processes where there are any."""

from __future__ import annotations

import json
import re
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.requests.lines import Lines, pieces
from kvtrace.requests.request import Ragged
from kvtrace.requests.rows import MAX_TIME_NS, MAX_TOKENS, U64_MAX
from kvtrace.units import MS_NS, S_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parsed(
    inputs: Iterable[Path], parse: Callable[[Lines], T], workers: int
) -> Iterator[tuple[Lines, T]]:
    """Yield what `parse` makes of each piece of lines, in order, whatever the workers.

    `parse` must be a function of a module: processes find it by its name.
    """
    todo = (piece for path in inputs for piece in pieces(path))
    if workers == 1:
        for piece in todo:
            yield piece, parse(piece)
        return
    with ProcessPoolExecutor(workers) as pool:
        while some := list(islice(todo, 2 * workers)):
            tasks = [(piece, pool.submit(parse, piece)) for piece in some]
            for piece, task in tasks:
                yield piece, task.result()


def has_keys(start: bytes, keys: Sequence[str], *, without: Sequence[str] = ()) -> bool:
    """Return whether a file's first bytes have all these keys of JSON, and none of those."""
    names = set(re.findall(rb'"([A-Za-z_]+)"\s*:', start))
    return {key.encode() for key in keys} <= names and not {n.encode() for n in without} & names


def objects(piece: Lines) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and fields of each line. Raises TraceError for a line that isn't an object."""
    for number, line in enumerate(piece.lines, start=piece.first):
        place = f"{piece.where}:{number}"
        yield place, as_object(decode(line, place), place)


def decode(line: str, where: str) -> Any:
    """Return the JSON value in `line`. Raises TraceError."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is also a ValueError
        raise TraceError(f"not JSON: {error}", where=where) from error


def as_object(value: Any, where: str) -> dict[str, Any]:
    """Return `value`. Raises TraceError if it isn't a JSON object."""
    if not isinstance(value, dict):
        raise TraceError("not a request", where=where, accepted="a JSON object")
    return value


def whole(
    fields: dict[str, Any], name: str, where: str, *, least: int = 0, most: int = MAX_TOKENS
) -> int:
    """Return a field that is a whole number (5.0 is one, true isn't). Raises TraceError."""
    value = fields.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        got = "nothing" if name not in fields else _shortened(value)
        accepted = f"a whole number from {least} to {most:,}"
        raise TraceError(f"bad {name}", where=where, got=got, accepted=accepted)
    return value


def part(fields: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return a field that is a JSON object. Raises TraceError."""
    value = fields.get(name)
    if not isinstance(value, dict):
        got = "nothing" if value is None else _shortened(value)
        raise TraceError(f"bad {name}", where=where, got=got, accepted="a JSON object")
    return value


def text(fields: dict[str, Any], name: str, where: str) -> str:
    """Return a field that is a string. Raises TraceError."""
    value = fields.get(name)
    if not isinstance(value, str):
        got = "nothing" if value is None else _shortened(value)
        raise TraceError(f"bad {name}", where=where, got=got, accepted="a string")
    return value


def ms_ns(fields: dict[str, Any], name: str, where: str) -> int:
    """Return a field of milliseconds, 0 or more, as ns, a fraction rounded. Raises TraceError."""
    value: Any = fields.get(name, "nothing")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 <= value <= MAX_TIME_NS // MS_NS:
        nanoseconds: int = round(value * MS_NS)
        return nanoseconds
    got = _shortened(value) if name in fields else value
    raise TraceError(f"bad {name}", where=where, got=got, accepted="milliseconds, 0 or more")


def seconds_ns(fields: dict[str, Any], name: str, where: str) -> int:
    """Return a field of seconds, 0 or more, as nanoseconds. Raises TraceError."""
    value: Any = fields.get(name, "nothing")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 <= value < MAX_TIME_NS / S_NS:
        nanoseconds: int = round(value * S_NS)
        return nanoseconds
    got = _shortened(value) if name in fields else value
    raise TraceError(f"bad {name}", where=where, got=got, accepted="seconds, 0 or more")


def date_ns(fields: dict[str, Any], name: str, place: str) -> int:
    """Return a date from 1970 to 2116, UTC without a zone, as Unix ns. Raises TraceError."""
    try:
        date = datetime.fromisoformat(text(fields, name, place))
    except ValueError:
        date = _EPOCH - timedelta(1)
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    time_ns = (date - _EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 <= time_ns <= MAX_TIME_NS:
        got = _shortened(fields[name])
        raise TraceError(
            f"bad {name}", where=place, got=got, accepted="e.g. 2026-11-16T18:17:03.979000Z"
        )
    return time_ns


def hash_ids(
    fields: dict[str, Any],
    where: str,
    tokens: int,
    block_tokens: int,
    *,
    of: str,
    full_only: bool = False,
    option: str | None = None,
    name: str = "hash_ids",
) -> list[int]:
    """Return the ids of a request, its field `name`, by its tokens: one per block.

    That of a partial last one is included; with `full_only` it may be missing. `option`: how a user
    says how many tokens an id stands for. Raises TraceError for another count: with ids of another
    size, hits would be made up.
    """
    hash_ids = fields.get(name)
    count = len(hash_ids) if isinstance(hash_ids, list) else -1
    check_count(
        count, tokens, block_tokens, where, of=of, name=name, full_only=full_only, option=option,
        got=hash_ids,
    )  # fmt: skip
    assert isinstance(hash_ids, list)
    if not set(map(type, hash_ids)) <= {int}:
        raise _bad_id(hash_ids, where)
    return hash_ids


def check_count(
    count: int, tokens: int, block_tokens: int, where: str, *, of: str, name: str,
    full_only: bool = False, option: str | None = None, got: Any = None,
) -> None:  # fmt: skip
    """Raise TraceError unless there are as many ids as a prompt of `tokens` has blocks.

    A `count` of -1 says that what was `got` is no list. The other arguments: see `hash_ids`.
    """
    most = -(-tokens // block_tokens)
    least = tokens // block_tokens if full_only else most
    if least <= count <= most:
        return
    hint = fitting(tokens, count)
    raise TraceError(
        f"too many {name}" if count > most else f"too few {name}",
        where=where,
        got=count if count >= 0 else _shortened(got),
        accepted=f"{most if count > most else least}, one per {block_tokens} tokens of {of}",
        hint=f"{hint}: {option} {hint.partition(' ')[0]}" if hint and option else hint,
    )


def fitting(tokens: int, count: int) -> str | None:
    """Return the block size that would fit the number of ids: the power of two, or the smallest."""
    if count < 1 or count > tokens:
        return None
    smallest = -(-tokens // count)
    power = 1 << (smallest - 1).bit_length()
    size = power if -(-tokens // power) == count else smallest
    return f"{size} tokens per id would fit"


def id_lists(lists: list[list[int]], places: list[str]) -> Ragged:
    """Return the ids of requests, viewed as int64. Raises TraceError for one that isn't a u64."""
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    try:
        values = np.fromiter(chain.from_iterable(lists), np.uint64, int(counts.sum()))
    except OverflowError:
        wrong = next(row for row, ids in enumerate(lists) if ids and not _are_u64(ids))
        raise _bad_id(lists[wrong], places[wrong]) from None
    return Ragged.from_counts(counts, values.view(np.int64))


def _are_u64(ids: list[int]) -> bool:
    return min(ids) >= 0 and max(ids) <= U64_MAX


def _bad_id(ids: list[Any], where: str) -> TraceError:
    got = next(value for value in ids if type(value) is not int or not _are_u64([value]))
    return TraceError("bad hash id", where=where, got=_shortened(got), accepted="0 to 2^64 - 1")


def _shortened(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return "a huge number"
    return text if len(text) <= 40 else f"{text[:37]}..."
