"""Each figure of a result is defined once, and nothing that defines one imports in a circle."""

from __future__ import annotations

import ast
import itertools
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import replay

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(replay.__file__).parent
FOLDERS = ("measure", "result", "report")
REPEATED_MAX = 24
"""Pairs of classes that share three names of fields or more. Those left are of other things with
the same counts: `ops` and `bytes` of a tier, of a group, of a whole run, of a second of it."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules of the folders, by name."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            yield name.removesuffix(".__init__"), ast.parse(path.read_text())


@pytest.mark.slow
def test_nothing_imports_in_a_circle() -> None:
    """Imports for types only count, too: a circle of meaning is one of reading."""
    modules = dict(trees())
    graph = {name: set(imported(tree)) & set(modules) - {name} for name, tree in modules.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(modules)
    assert len(order) > 50


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module imports: modules, and what may be one of a package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.slow
def test_classes_repeat_few_fields() -> None:
    """A figure isn't declared where it is measured, where it is stored and where it is shown."""
    fields = {}
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields[name, node.name] = {
                    each.target.id
                    for each in node.body
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
                }
    assert ("replay.measure.figures", "LaneDocument") in fields
    repeated = [
        (one, other)
        for one, other in itertools.combinations(fields, 2)
        if len(fields[one] & fields[other]) >= 3
    ]
    assert len(repeated) <= REPEATED_MAX, repeated
