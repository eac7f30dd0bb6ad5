"""The structures that C and Python share: the same fields, in the same order, of the same size."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.hierarchy import blocks, native
from kvtrace.native.core import function
from kvtrace.policies import ABI_VERSION, HEADERS
from tests.support.places import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

HIERARCHY, POLICY = ROOT / "kvtrace" / "hierarchy" / "hierarchy.h", HEADERS / "policy.h"
CONSTANTS = {"KV_TIERS": native.TIERS, "KV_CELLS": 64, "KV_BINS": native.BINS}


def declared(header: Path, struct: str) -> list[tuple[str, int]]:
    """Return the fields of a struct in a header, each with the count of its elements."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    body = re.search(rf"struct {struct} \{{(.*?)\}};", text, re.DOTALL)
    assert body is not None
    fields = []
    for statement in filter(str.strip, body[1].split(";")):
        names = re.sub(r"^\s*(const )?(struct )?\w+\s", "", statement)
        for name in names.split(","):
            size = re.search(r"\[(\w+)\]", name)
            fields.append(
                (name.strip(" *\n\t").partition("[")[0], CONSTANTS[size[1]] if size else 1)
            )
    return fields


def of_ctypes(struct: Any) -> list[tuple[str, int]]:
    """Return the fields of a ctypes structure likewise."""
    return [(name, getattr(kind, "_length_", 1)) for name, kind in struct._fields_]


@pytest.mark.parametrize(
    ("header", "name", "struct"),
    [
        (POLICY, "kv_tier", native.TierStruct),
        (HIERARCHY, "kv_hierarchy", native.HierarchyStruct),
        (HIERARCHY.with_name("blocks.c"), "kv_cut", blocks._Cut),
    ],
)
def test_structures_have_the_fields_of_the_header(header: Path, name: str, struct: Any) -> None:
    """A field that is added, moved or renamed on one side only would be read as another."""
    assert of_ctypes(struct) == declared(header, name)


@pytest.mark.parametrize(
    ("header", "name", "dtype"),
    [
        (POLICY, "kv_slot", native.SLOT),
        (HIERARCHY, "kv_request", native.REQUEST),
        (HIERARCHY, "kv_block", native.BLOCK),
        (HIERARCHY, "kv_next", native.NEXT),
    ],
)
def test_rows_have_the_fields_of_the_header(
    header: Path, name: str, dtype: np.dtype[np.void]
) -> None:
    """The same of rows of arrays."""
    assert list(dtype.names or ()) == [field for field, _ in declared(header, name)]


def test_sizes_are_those_of_the_compiler() -> None:
    """A slot is a line of the cache; the whole state is as long as C has it."""
    assert native.SLOT.itemsize == 64
    size = function("kv_hierarchy_size", returns=native.INT)
    assert size() == ctypes.sizeof(native.HierarchyStruct)


@pytest.mark.parametrize(
    ("header", "constants"),
    [
        (HIERARCHY, {"KV_RUN": native.RUN, "KV_SHARED": native.SHARED}),
        (HIERARCHY, {"KV_CHECKPOINT": native.CHECKPOINT, "KV_SUB_BINS": native.SUB_BINS}),
        (POLICY, {"KV_POLICY_ABI": ABI_VERSION}),
    ],
)
def test_constants_are_those_of_the_header(header: Path, constants: dict[str, int]) -> None:
    """Flags and versions have one value."""
    for name, value in constants.items():
        assert re.search(rf"#define {name} {value}\b", header.read_text()), name
