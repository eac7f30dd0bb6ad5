"""The versions of engines that an adapter is made for, checked before anything of them is used."""

from __future__ import annotations

import os
import re
from importlib import metadata

from kvtrace.capture.errors import CaptureError

ANY_VERSION = "KVTRACE_CAPTURE_ANY_VERSION"
"""Environment variable: 1 lets an adapter try with a version that it wasn't made for."""


def require(engine: str, distribution: str, at_least: str, below: str) -> str:
    """Return an engine's version.

    Raises CaptureError if it isn't installed, or outside of the range (unless the environment
    variable KVTRACE_CAPTURE_ANY_VERSION is 1).
    """
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise CaptureError(f"{engine} isn't installed: no distribution {distribution!r}") from None
    if os.environ.get(ANY_VERSION) == "1" or _in(version, at_least, below):
        return version
    raise CaptureError(
        f"{engine} {version} isn't supported; accepted: {at_least} or newer, below {below}; "
        f"set {ANY_VERSION}=1 to try it"
    )


def installed(*distributions: str) -> str:
    """Return the first distribution that is installed, of those an engine comes as."""
    for distribution in distributions:
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return distribution
    return distributions[0]


def _in(version: str, at_least: str, below: str) -> bool:
    return _numbers(at_least) <= _numbers(version) < _numbers(below)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 0.5.6 of 0.5.6.post1+cpu."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in leading.group().split(".")) if leading else ()
