"""The versions of an engine that an adapter is for, checked when the engine loads it."""

from __future__ import annotations

import re
import sys
from importlib import metadata

from kvtrace.capture.errors import CaptureError


def installed(engine: str, distribution: str) -> str:
    """Return the version of an engine's distribution. Raises CaptureError if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise CaptureError(f"{engine} isn't installed: no distribution {distribution!r}") from None


def check(engine: str, version: str, *, first: tuple[int, ...], tested: str) -> None:
    """Take a version from `first` on; say on stderr if it isn't the `tested` one.

    Raises CaptureError: an older version, whose calls are others, or none that can be read.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    oldest = ".".join(map(str, first))
    if not numbers or numbers < first:
        raise CaptureError(
            f"{engine} {version or 'of an unknown version'} can't be recorded: "
            f"accepted: {oldest} and newer, tested with {tested}"
        )
    if not (version == tested or version.startswith((f"{tested}.", f"{tested}+"))):
        sys.stderr.write(
            f"kvtrace capture: {engine} {version} isn't {tested}, which this was tested with: "
            "compare counts with the engine's own before you rely on a recording\n"
        )
