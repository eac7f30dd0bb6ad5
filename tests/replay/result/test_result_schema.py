"""The JSON schema of results as the command prints it: whole, strict, with units."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import replay
from kvtrace.trace.schema import Tier
from replay.result import schema, stored
from tests.support.command import Outcome
from tests.support.synthetic import bimodal, with_requests
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

jsonschema = pytest.importorskip("jsonschema")
Cli = Callable[..., Outcome]
Place = tuple[str | int, ...]
FREE = {"header", "versions", "queue", "errors_by_name", "counts_by_op"}
"""Objects whose keys aren't the schema's."""
WRONG = {"no": "figure"}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A result of a run, and one of finished ops with requests."""
    folder = tmp_path_factory.mktemp("schema")
    trace = write_trace(folder / "t.parquet", simple_rows())
    ran = replay.run(trace, [replay.TargetSpec("null", (Tier.NVME,))]).document()
    ops = with_requests(stored.load(bimodal(folder / "r.parquet")))
    return [json.loads(each.model_dump_json()) for each in (ran, ops)]


@pytest.fixture
def printed(cli: Cli) -> dict[str, Any]:
    """The schema that the command prints."""
    outcome = cli("report", "--schema")
    assert outcome.code == 0, outcome.err
    read: dict[str, Any] = json.loads(outcome.out)
    return read


def short(value: Any) -> Any:
    """Return a document with one entry of each list: as many kinds of keys, fewer of them."""
    if isinstance(value, dict):
        return {name: short(each) for name, each in value.items()}
    return [short(each) for each in value[:1]] if isinstance(value, list) else value


def objects(value: Any, place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield every object whose keys are the schema's, and its place."""
    if isinstance(value, dict):
        yield place, value
        for name, each in value.items():
            if name not in FREE:
                yield from objects(each, (*place, name))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from objects(each, (*place, at))


@contextmanager
def changed(each: dict[str, Any], name: str, value: Any = None) -> Iterator[None]:
    """Give an object another value for a while; without one, no such key."""
    before = dict(each)
    each.pop(name, None)
    if value is not None:
        each[name] = value
    yield
    each.clear()
    each.update(before)


@pytest.mark.slow
def test_results_validate_by_a_validator_that_is_not_ours(
    printed: dict[str, Any], documents: list[dict[str, Any]]
) -> None:
    """Of a run, and of ops that another tool could have done."""
    jsonschema.Draft202012Validator.check_schema(printed)
    for document in documents:
        jsonschema.validate(document, printed)


@pytest.mark.slow
def test_no_other_key_and_no_other_type_is_valid(
    printed: dict[str, Any], documents: list[dict[str, Any]]
) -> None:
    """In every object, at any depth: a key more, or a figure of another type, is refused."""
    validator = jsonschema.Draft202012Validator(printed)
    tried = 0
    for document in map(short, documents):
        assert validator.is_valid(document)
        for place, each in objects(document):
            scalars = [name for name, value in each.items() if not isinstance(value, dict | list)]
            for name in ("unknown", *scalars):
                with changed(each, name, WRONG):
                    assert not validator.is_valid(document), (*place, name)
                tried += 1
    assert tried > 500


@pytest.mark.slow
def test_a_missing_key_is_refused_unless_old_results_lack_it(
    printed: dict[str, Any], documents: list[dict[str, Any]]
) -> None:
    """In every object; keys that may be missing are those that later versions added."""
    validator = jsonschema.Draft202012Validator(printed)
    optional = set()
    for document in map(short, documents):
        for place, each in objects(document):
            for name in list(each):
                with changed(each, name):
                    if validator.is_valid(document) and (place or name != "schema_version"):
                        optional.add((place[0] if place else "", name))
    of_whole = {name for part, name in optional if not part}
    of_lanes = {name for part, name in optional if part == "lanes"}
    assert of_whole == {"requests", "storage_health", "host_series", "bpf"}
    assert {"in_flight", "read_bytes_per_s", "device_series"} <= of_lanes
    assert not of_lanes & {"tier", "ops", "bytes", "service_ns", "time_slices", "counters"}


def test_figures_have_their_units(printed: dict[str, Any]) -> None:
    """The unit that a name ends with, or that the figure itself states."""
    lane = printed["$defs"]["LaneDocument"]["properties"]
    units = {name: lane[name].get("unit") for name in lane}
    expected = {
        "window_s": "s", "throughput_bytes_per_s": "bytes/s", "ops_per_s": "1/s", "ops": None,
        "kv_tokens_per_s": "tokens/s", "service_ns": "ns", "device_bytes": "bytes", "tier": None,
        "on_schedule_ratio": "ratio", "live_bytes_max": "bytes",
    }  # fmt: skip
    assert {name: units[name] for name in expected} == expected
    assert schema.unit_of("read_latency_ms_mean") == "ms"


def test_the_schema_is_of_no_result(cli: Cli, tmp_path: Path) -> None:
    """A file named beside --schema is refused; so is neither of them."""
    outcome = cli("report", "--schema", bimodal(tmp_path / "r.parquet"))
    assert outcome.code == 2
    assert "--schema: the schema is that of all results" in outcome.error
    outcome = cli("report")
    assert outcome.code == 2
    assert "a result is missing" in outcome.error
