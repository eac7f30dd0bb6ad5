"""`kvtrace model` and the listings of models: the reading as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kvtrace.models.config_json.families import readers
from tests.golden.bless import MODELS_PAGE, with_types

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command import Outcome


def test_the_command_shows_each_group(cli: Callable[..., Outcome]) -> None:
    """`kvtrace model` shows geometry, bytes of a rank and of the node, and where they stand."""
    shown = cli("model", "kimi-k3", "--tp", "8").out
    assert "27,648 B per token, 449,372,160 B per sequence" in shown
    assert "per rank" in shown
    document = json.loads(cli("model", "kimi-k3", "--tp", "8", "--json").out)
    assert [group["kind"] for group in document["groups"]] == ["mla", "linear"]
    assert [group["stored"] for group in document["groups"]] == ["once", "per rank"]
    assert document["rank_bytes_per_sequence"] * 8 == document["node_bytes_per_sequence"]
    assert "a token is multiplied by 103.00 G parameters; 96 heads of 192 and 128 (" in shown
    assert document["compute"]["active_parameters"] == 102_999_687_168
    assert document["compute"]["source"].startswith("matrices of 24 MLA layers")
    refused = cli("model", "llama3.1-8b", "--tp", "3")
    assert refused.code == 2
    assert "accepted: 1, 2, 4, 8, 16" in refused.err
    noted = cli("model", "qwen3-235b-a22b", "--tp", "8").out
    assert "each head is kept 2 times" in noted


def test_the_docs_list_the_architectures() -> None:
    """docs/models.md lists every type that is read (`make bless` writes the list)."""
    page = MODELS_PAGE.read_text("utf-8")
    assert with_types(page) == page


def test_list_shows_the_architectures(cli: Callable[..., Outcome]) -> None:
    """Each `model_type` that is read is listed with its family."""
    listed = json.loads(cli("list", "architectures", "--json").out)["architectures"]
    assert {entry["name"] for entry in listed} == set(readers())
    assert all(entry["what"] for entry in listed)
