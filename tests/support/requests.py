"""Requests that are cut to blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvtrace.hierarchy.hierarchy import CutRequests
from kvtrace.hierarchy.native import CHECKPOINT, RUN, SHARED
from kvtrace.requests.request import FOLLOW_NONE, UNKNOWN_NS, Ragged, RequestBatch

if TYPE_CHECKING:
    from tests.support.reference import Request


def cut(requests: list[Request]) -> CutRequests:
    """Return the requests as columns."""
    count = len(requests)
    blocks = [block for request in requests for block in request.prompt + request.generated]
    counts = np.array([len(r.prompt) + len(r.generated) for r in requests], np.int64)
    zeros = np.zeros(count, np.int64)
    followed = {id(r.follower) for r in requests if r.follower}
    batch = RequestBatch(
        arrival_ns=np.array([UNKNOWN_NS if id(r) in followed else r.arrival_ns for r in requests]),
        think_ns=np.array([r.think_ns for r in requests]),
        follow=np.array([r.follower.row - r.row if r.follower else FOLLOW_NONE for r in requests]),
        chain=zeros,
        session=np.array([r.session for r in requests]),
        turn=zeros,
        last_turn=np.zeros(count, np.bool_),
        input_tokens=np.array([r.input_tokens for r in requests]),
        output_tokens=np.array([r.output_tokens for r in requests]),
        qos=zeros,
        block_ids=None,
        turn_tokens=None,
    )
    return CutRequests(
        batch,
        Ragged.from_counts(counts, np.array([b.ident for b in blocks], np.int64)),
        np.array([block.tokens for block in blocks], np.int64),
        np.array([block.at for block in blocks], np.int64),
        np.array(
            [RUN * b.run + CHECKPOINT * b.checkpoint + SHARED * b.shared for b in blocks], np.int64
        ),
        np.array([len(r.prompt) for r in requests], np.int64),
    )
