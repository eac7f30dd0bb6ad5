"""The layout of a vector index in its file, and the reads that a search of its graph takes.

Sources: microsoft/DiskANN, `get_node_sector` (a header sector first, nodes packed in sectors of
4,096 B or each on several); reads per query of SIFT-100K on its workflow page (R 32,
W 2, 10,000 of 100,000 nodes cached); microsoft/garnet PR 2007: about a read per entry of the search
list without a cache; AISAQ of Milvus 2.6.4: compressed codes of neighbours in the node, or apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

SECTOR_BYTES = 4096
NUMBER_BYTES = 4
"""Of a neighbour's number, and of their count."""
VALUE_BYTES = {"float32": 4, "float16": 2, "int8": 1}
MAX_ROUND_SECTORS = 128
"""Sectors that one round of a search may read."""

BEYOND_LIST = 1.2
"""Nodes that a search reads beyond its list, on average."""
CACHED_EXPONENT = 0.616
"""A share c of all nodes, those nearest to the entry, serves c to this power of the visits."""
NEW_NEIGHBOURS = 0.5
"""Share of a node's neighbours that a search hasn't met before; an assumption."""


@dataclass(frozen=True, slots=False)
class VectorIndex:
    """An index of `vectors` nodes: `kind` is a value of `source.index`.

    `code_bytes`: of a neighbour's compressed vector, where nodes hold them or they lie apart.
    """

    kind: str
    vectors: int
    dimensions: int
    vector_type: str
    degree: int
    code_bytes: int

    @cached_property
    def node_bytes(self) -> int:
        """Bytes of a node: vector, neighbours and their count, compressed neighbours."""
        inline = self.degree * self.code_bytes if self.kind == "aisaq-performance" else 0
        vector = self.dimensions * VALUE_BYTES[self.vector_type]
        return vector + NUMBER_BYTES * (self.degree + 1) + inline

    @cached_property
    def nodes_per_sector(self) -> int:
        """Nodes that share a sector, 0 where a node needs several."""
        return SECTOR_BYTES // self.node_bytes

    @cached_property
    def sectors_per_node(self) -> int:
        """Sectors that a read of a node moves."""
        return ceil(self.node_bytes / SECTOR_BYTES)

    @property
    def read_bytes(self) -> int:
        """Bytes of a read of a node."""
        return self.sectors_per_node * SECTOR_BYTES

    @cached_property
    def codes_at(self) -> int:
        """Offset behind the nodes, where compressed vectors begin that lie apart."""
        shared = self.nodes_per_sector
        sectors = ceil(self.vectors / shared) if shared else self.vectors * self.sectors_per_node
        return (1 + sectors) * SECTOR_BYTES

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole file, in whole sectors."""
        apart = self.vectors * self.code_bytes if self.kind == "aisaq-scale" else 0
        return self.codes_at + ceil(apart / SECTOR_BYTES) * SECTOR_BYTES

    @property
    def reads_beside(self) -> int:
        """Reads that follow a node's: of the compressed vectors of its new neighbours."""
        return ceil(NEW_NEIGHBOURS * self.degree) if self.kind == "aisaq-scale" else 0

    @property
    def visits_per_expansion(self) -> int:
        """Nodes that a search touches for each entry of its list: with HNSW all new neighbours."""
        return ceil(NEW_NEIGHBOURS * self.degree) if self.kind == "hnsw-mmap" else 1


def missed_ratio(cached_nodes: int, vectors: int) -> float:
    """Return the share of a search's visits that no cached node serves."""
    return 1 - min(1.0, cached_nodes / vectors) ** CACHED_EXPONENT if cached_nodes else 1.0
