"""What a configuration string may say: a mistake stops the engine at its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.capture.errors import CaptureError
from kvtrace.capture.settings import SECRET_VARIABLE, settings_of, tier_of
from kvtrace.trace.schema import Tier

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults_and_values(tmp_path: Path) -> None:
    """A folder is enough; everything else may be set."""
    assert settings_of({"out": str(tmp_path)}).secret is None
    given = settings_of({"out": "x", "queue_tasks": 5, "flush_s": 1, "inner": {}}, ["inner"])
    assert (given.queue_tasks, given.flush_s, str(given.out)) == (5, 1, "x")


def test_a_secret_has_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The string itself, a file, or the environment, of which the configuration wins."""
    (tmp_path / "secret").write_text("of the file\n")
    monkeypatch.setenv(SECRET_VARIABLE, "of the environment")
    assert settings_of({"out": "x"}).secret == b"of the environment"
    assert settings_of({"out": "x", "secret": "own"}).secret == b"own"
    by_file = settings_of({"out": "x", "secret_file": str(tmp_path / "secret")})
    assert by_file.secret == b"of the file"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "'out' is missing"),
        ({"out": ""}, "'out' is missing"),
        ({"out": "x", "ouT": "y"}, "unknown parameter 'ouT'; accepted: out, secret"),
        ({"out": "x", "queue_tasks": 0}, "'queue_tasks': got 0; accepted: a positive integer"),
        ({"out": "x", "queue_tasks": True}, "got True"),
        ({"out": "x", "flush_s": "1"}, "accepted: a positive number"),
        ({"out": "x", "flush_s": float("nan")}, "accepted: a positive number"),
        ({"out": "x", "secret": ""}, "the secret is empty"),
        ({"out": "x", "secret": 5}, "the secret is empty or no text"),
        ({"out": "x", "secret": None}, "the secret is empty or no text"),
        ({"out": "x", "secret": "a", "secret_file": "b"}, "exclude each other"),
        ({"out": "x", "secret_file": "/nonexistent/file"}, "'secret_file' can't be read"),
        ({"out": "x", "secret_file": "/dev/null"}, "the file is empty"),
    ],
)
def test_a_mistake_is_told_in_one_line(parameters: dict[str, Any], message: str) -> None:
    """The error names the mistake and the accepted values."""
    with pytest.raises(CaptureError, match=message) as caught:
        settings_of(parameters)
    assert str(caught.value).startswith("kvtrace capture: ")
    assert "\n" not in str(caught.value)


def test_a_tier_is_named_or_is_the_back_end_s() -> None:
    """Another word is refused with those that are accepted."""
    assert tier_of({}, Tier.OBJECT) is Tier.OBJECT
    assert tier_of({"tier": "nvme"}, Tier.OBJECT) is Tier.NVME
    with pytest.raises(CaptureError, match="'tier': got 'disk'; accepted: gpu, cpu, nvme, object"):
        tier_of({"tier": "disk"}, Tier.OBJECT)
