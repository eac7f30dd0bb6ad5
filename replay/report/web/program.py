"""The program that draws charts: put together once per version of its packages, kept on disk."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from kvtrace.errors import TargetError
from kvtrace.files.outfile import write_whole

_SNIPPET = "window.vegaEmbed = vegaEmbed;"
PACKAGE = "vl-convert-python"


def place() -> Path:
    """Return where it is kept. Source: XDG Base Directory Specification 0.8."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "kvtrace" / f"vega-{version(PACKAGE)}.js"


@cache
def drawing_program() -> str:
    """Return it as text for a script element; putting it together takes two seconds of CPU.

    What was kept is taken if it is whole: its first line is the digest of the rest.
    """
    with suppress(OSError, RuntimeError, UnicodeDecodeError):
        digest, _, text = place().read_text("utf-8").partition("\n")
        if digest == _digest(text):
            return text
    text = _put_together()
    with suppress(
        OSError, RuntimeError, TargetError
    ):  # a folder that can't be written to costs time only
        _keep(text)
    return text


def _digest(text: str) -> str:
    return f"// {hashlib.sha256(text.encode()).hexdigest()}"


def _put_together() -> str:
    import vl_convert

    bundle: str = vl_convert.javascript_bundle(_SNIPPET)
    return bundle.replace("</script", "<\\/script")


def _keep(text: str) -> None:
    path = place()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(
        path, lambda place: place.write_text(f"{_digest(text)}\n{text}", "utf-8"), force=True
    )
