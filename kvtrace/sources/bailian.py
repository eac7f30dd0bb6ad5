"""Bailian's (Qwen's) usage traces: JSONL with chats, turns and 16-token hash ids.

An id names the tokens of its block, salted, whatever stands before them: ids are chained here.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.native.core import function
from kvtrace.native.hashmap import Interner
from kvtrace.native.library import BOOL, BOOLEAN, I64, INT, POINTER
from kvtrace.requests import jsonlines
from kvtrace.requests.chaining import Rechained, chained
from kvtrace.requests.rows import MAX_TIME_NS, FileRows, Piece
from kvtrace.requests.source import BLOCK_OPTION, FILE_KEYS, FileSource, Told, need_input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.requests.lines import Lines
    from kvtrace.sources import SourceContext

KEYS = FILE_KEYS | {"block_tokens"}
BLOCK_TOKENS = 16
"""Of an id, unless `source.block_tokens` says another."""
ROOT = -1
_UNSEEN = -1


def recognises(start: bytes) -> bool:
    """Return whether a file begins with a request of such a trace."""
    return start.lstrip().startswith(b"{") and jsonlines.has_keys(
        start, ("chat_id", "parent_chat_id", "input_length", "hash_ids")
    )


def parse(piece: Lines, block_tokens: int = BLOCK_TOKENS) -> tuple[FileRows, NDArray[np.int64]]:
    """Return the requests in `piece`, and chat and parent chat of each.

    Raises TraceError that names the file and the line.
    """
    numbers = np.empty((len(piece.lines), 6), np.int64)
    ids, places = [], []
    for index, (place, fields) in enumerate(jsonlines.objects(piece)):
        numbers[index] = (
            jsonlines.seconds_ns(fields, "timestamp", place),
            tokens := jsonlines.whole(fields, "input_length", place, least=1),
            jsonlines.whole(fields, "output_length", place),
            jsonlines.whole(fields, "turn", place, least=1) - 1,
            jsonlines.whole(fields, "chat_id", place, most=MAX_TIME_NS),
            jsonlines.whole(fields, "parent_chat_id", place, least=ROOT, most=MAX_TIME_NS),
        )
        places.append(place)
        ids.append(
            jsonlines.hash_ids(
                fields, place, tokens, block_tokens, of="input_length", option=BLOCK_OPTION
            )
        )
    time_ns, inputs, outputs, turn, chat, parent = (column.copy() for column in numbers.T)
    zeros = np.zeros(len(numbers), np.int64)
    rows = FileRows(
        time_ns,
        inputs,
        outputs,
        zeros,
        turn,
        zeros.astype(np.bool_),
        jsonlines.id_lists(ids, places),
    )
    return rows, np.stack((chat, parent), axis=1)


class ChatsStruct(ctypes.Structure):
    """`struct kv_chats` of `bailian.c`."""

    _fields_ = (
        ("session", POINTER),
        ("chats", INT),
        ("sessions", INT),
        ("orphans", INT),
        ("again", INT),
    )


_follow = function("kv_chats_follow", POINTER, I64, BOOL, INT, I64, returns=BOOLEAN)


class _Chats:
    """Follows chats back to the root that is their session."""

    def __init__(self) -> None:
        self._interner = Interner()
        self._session = np.zeros(0, np.int64)
        self._struct = ChatsStruct()
        self.orphans = 0

    def sessions(self, chats: NDArray[np.int64], place: Piece) -> NDArray[np.int64]:
        """Return the session of each (chat, parent). Raises TraceError for a chat seen before."""
        names = self._interner.intern(np.where(chats == ROOT, chats[:, :1], chats).reshape(-1))
        new = len(self._interner) - len(self._session)
        self._session = np.concatenate((self._session, np.full(new, _UNSEEN)))
        pairs, roots = names.reshape(-1, 2), chats[:, 1] == ROOT
        out = np.empty(len(pairs), np.int64)
        self._struct.session, self._struct.chats = self._session.ctypes.data, len(self._session)
        followed = _follow(ctypes.byref(self._struct), pairs, roots, len(pairs), out)
        assert followed
        again = int(self._struct.again)
        if again >= 0:
            raise TraceError(
                "chat_id of an earlier line",
                where=place.place(again),
                got=int(chats[again, 0]),
                accepted="one line per chat_id",
            )
        self.orphans += int(self._struct.orphans)
        return out


def _pieces(context: SourceContext, block_tokens: int, remarks: Told) -> Iterator[Piece]:
    chats, rechained = _Chats(), Rechained()
    reader = partial(parse, block_tokens=block_tokens)
    for lines, (rows, pairs) in jsonlines.parsed(context.inputs, reader, context.workers):
        assert rows.ids is not None
        ids = chained(rows.ids)
        rechained.count(rows.ids, ids)
        whole = replace(rows, ids=ids)
        piece = Piece(lines.where, lines.first + np.arange(len(rows)), whole)
        whole.session[:] = chats.sessions(pairs, piece)
        remarks.notes[:] = rechained.notes()
        if chats.orphans:
            remarks.notes.append(
                f"{chats.orphans:,} chats whose parent isn't in the file begin a session"
            )
        yield piece


def create(context: SourceContext) -> FileSource:
    """Return the source: a session is a chat and all that descend from it.

    Raises UsageError without an input.
    """
    need_input(context, "FILE.jsonl")
    remarks, block_tokens = Told(), context.config.block_tokens or BLOCK_TOKENS
    return FileSource(
        context,
        KEYS,
        lambda: _pieces(context, block_tokens, remarks),
        block_tokens=block_tokens,
        remarks=remarks,
        sessions_known=True,
    )
