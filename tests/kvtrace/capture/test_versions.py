"""An engine's version is checked when it loads an adapter."""

from __future__ import annotations

import pytest

from kvtrace.capture.errors import CaptureError
from kvtrace.capture.versions import check, installed


@pytest.mark.parametrize("version", ["0.31.9", "0.4", "", "dev"])
def test_older_versions_are_refused(version: str) -> None:
    """The message names what is accepted."""
    with pytest.raises(CaptureError, match=r"accepted: 0\.32 and newer, tested with 0\.32"):
        check("vLLM", version, first=(0, 32), tested="0.32")


@pytest.mark.parametrize("version", ["0.32", "0.32.0", "0.32.5+cpu", "0.32.dev3"])
def test_the_tested_version_says_nothing(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No message where all is known."""
    check("vLLM", version, first=(0, 32), tested="0.32")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("version", ["0.33.0", "0.320.1", "1.0"])
def test_other_versions_are_taken_with_a_word(
    version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are recorded, with a warning on stderr."""
    check("vLLM", version, first=(0, 32), tested="0.32")
    assert f"vLLM {version} isn't 0.32, which" in capsys.readouterr().err


def test_an_engine_that_is_not_installed_is_named() -> None:
    """Without the distribution, nothing else is looked at."""
    with pytest.raises(CaptureError, match="Nothing isn't installed: no distribution 'none-such'"):
        installed("Nothing", "none-such")
