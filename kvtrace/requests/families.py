"""Families of requests that no session ties together: those whose prompts begin alike.

A conversation's prompts repeat all before them, so they share their first blocks. What very many
requests begin with, such as a system prompt, ties nothing together: a family begins behind it, with
the first block of its own.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.hashmap import Interner
from kvtrace.requests.request import Ragged, ranges

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from kvtrace.requests.rows import FileRows

LARGEST_SHARE = 1 / 16
"""A family of more of all requests is cut where its prompts part; part of what a seed means."""


@dataclass(slots=True)
class _Tree:
    """The tree of prefixes: of each block its requests, and the blocks that follow it."""

    requests: NDArray[np.int64]
    children: dict[int, list[int]]
    roots: list[int]
    names: dict[int, int] = field(default_factory=dict)
    """Of the block that a family begins with, the family's number."""

    def cut(self, count: int) -> None:
        """Find the families: from the roots on, the largest being cut first."""
        heap = [(-int(self.requests[root]), root) for root in self.roots]
        heapq.heapify(heap)
        ends = []
        while heap:
            size, block = heapq.heappop(heap)
            parts = (
                self.children.get(self._fork(block), []) if -size > count * LARGEST_SHARE else []
            )
            for part in parts:
                heapq.heappush(heap, (-int(self.requests[part]), part))
            if not parts:
                ends.append(block)
        self.names = {block: number for number, block in enumerate(ends)}

    def _fork(self, block: int) -> int:
        """Return the first block from `block` on that several follow, or the last one."""
        while len(following := self.children.get(block, [])) == 1:
            block = following[0]
        return block

    def heir(self, block: int) -> int:
        """Return the family of a prompt that ends before families begin: the largest behind it."""
        while block not in self.names:
            following = self.children.get(block)
            if not following:
                return -1
            block = max(following, key=lambda part: (int(self.requests[part]), -part))
        return self.names[block]


def _full(rows: FileRows, block_tokens: int) -> Ragged:
    """Return the ids of whole blocks: that of a partial one isn't met again by what follows."""
    assert rows.ids is not None
    counts = np.minimum(rows.ids.counts, rows.input_tokens // block_tokens)
    places = np.repeat(rows.ids.begin[:-1], counts) + ranges(counts)
    return Ragged.from_counts(counts, rows.ids.values[places])


def _tree(first: NDArray[np.int64], before: NDArray[np.int64], behind: NDArray[np.int64],
          requests: NDArray[np.int64]) -> _Tree:  # fmt: skip
    pairs = np.unique(np.stack((before, behind), axis=1), axis=0)
    # Ids are chained: a block that seems to follow several is taken for that of the first.
    pairs = pairs[np.unique(pairs[:, 1], return_index=True)[1]]
    roots = np.unique(first)
    pairs = pairs[~np.isin(pairs[:, 1], roots)]
    children: dict[int, list[int]] = {}
    for parent, child in pairs.tolist():
        children.setdefault(parent, []).append(child)
    return _Tree(requests, children, roots.tolist())


def families(pieces: Iterable[FileRows], block_tokens: int) -> NDArray[np.int64]:
    """Return the family of each request, in their order, from 0 on.

    A prompt without a whole block is a family of its own. Memory: 8 bytes for each id of the file.
    """
    interner = Interner()
    lists = [_full(rows, block_tokens) for rows in pieces]
    counts = np.concatenate([ids.counts for ids in lists] or [np.zeros(0, np.int64)])
    values = np.concatenate(
        [interner.intern(ids.values) for ids in lists] or [np.zeros(0, np.int64)]
    )
    begin = np.cumsum(counts) - counts
    inside = np.ones(len(values), np.bool_)
    inside[begin[counts > 0]] = False
    at = np.flatnonzero(inside)
    requests = np.bincount(values, minlength=len(interner))
    tree = _tree(values[begin[counts > 0]], values[at - 1], values[at], requests)
    tree.cut(len(counts))
    named = np.full(len(interner) + 1, -1)
    named[list(tree.names)] = list(tree.names.values())
    families = np.full(len(counts), -1)
    owner = np.repeat(np.arange(len(counts)), counts)
    known = named[values] >= 0
    families[owner[known]] = named[values[known]]
    for row in np.flatnonzero((families < 0) & (counts > 0)).tolist():
        families[row] = tree.heir(int(values[begin[row] + counts[row] - 1]))
    alone = np.flatnonzero(families < 0)
    families[alone] = len(tree.names) + np.arange(len(alone))
    return families
