"""An adapter refuses versions that it wasn't made for, by name."""

from __future__ import annotations

import pytest

from kvtrace.capture import versions
from kvtrace.capture.errors import CaptureError


@pytest.mark.parametrize("version", ["0.5.0", "0.5.6", "0.5.10.post1", "0.5.6+cpu"])
def test_versions_of_the_range_are_accepted(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are compared as numbers; what follows them doesn't count."""
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    assert versions.require("LMCache", "lmcache", "0.5.0", "0.6") == version


@pytest.mark.parametrize("version", ["0.4.7", "0.6.0", "1", "unknown"])
def test_others_are_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names version, range and what to do; a variable allows it."""
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    with pytest.raises(
        CaptureError, match=rf"LMCache {version} isn't .* 0.5.0 or newer, below 0.6;"
    ):
        versions.require("LMCache", "lmcache", "0.5.0", "0.6")
    monkeypatch.setenv(versions.ANY_VERSION, "1")
    assert versions.require("LMCache", "lmcache", "0.5.0", "0.6") == version


def test_an_engine_that_is_not_installed_is_named() -> None:
    """Without the distribution, nothing else is looked at."""
    with pytest.raises(CaptureError, match="Nothing isn't installed: no distribution 'none-such'"):
        versions.require("Nothing", "none-such", "1", "2")


def test_an_engine_comes_as_one_of_some_distributions() -> None:
    """The first that is installed is taken; without any, the first is named."""
    assert versions.installed("none-such", "pytest", "numpy") == "pytest"
    assert versions.installed("none-such", "none-else") == "none-such"
