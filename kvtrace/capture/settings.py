"""The settings of a recording, from an engine's configuration string."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvtrace.capture.errors import CaptureError
from kvtrace.trace.schema import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SECRET_VARIABLE = "KVTRACE_CAPTURE_SECRET"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how to record.

    `secret` keys the hashes, None for a random one. `queue_tasks`: tasks that may wait for the
    writer, beyond which they are counted instead of recorded. `flush_s`: the writer's interval,
    what a kill may lose. A file ends at `rotate_bytes` or after `rotate_s`. `close_s`: how long
    the end of the engine waits for the writer.
    """

    out: Path
    secret: bytes | None = None
    queue_tasks: int = 1 << 16
    flush_s: float = 0.2
    rotate_bytes: int = 64 << 20
    rotate_s: float = 3600.0
    close_s: float = 10.0


SECRETS = ("secret", "secret_file")
NAMES = (*(field.name for field in fields(Settings)), "secret_file")


def settings_of(parameters: Mapping[str, Any], others: Iterable[str] = ()) -> Settings:
    """Return the settings that an engine's configuration gives.

    `others`: names that the adapter itself reads. The secret is taken from `secret`, the file
    `secret_file` or the variable KVTRACE_CAPTURE_SECRET, the first that is given.

    Raises CaptureError: a parameter is unknown, missing or no value of its kind, or the secret's
    file can't be read.
    """
    accepted = [*NAMES, *others]
    for name in parameters:
        if name not in accepted:
            raise CaptureError(f"unknown parameter {name!r}; accepted: {', '.join(accepted)}")
    out = parameters.get("out")
    if not isinstance(out, str | os.PathLike) or not os.fspath(out):
        raise CaptureError("parameter 'out' is missing: the folder that the recording goes to")
    numbers = {
        field.name: _positive(field.name, parameters[field.name], whole=field.type == "int")
        for field in fields(Settings)
        if field.name in parameters and field.name not in ("out", "secret")
    }
    return Settings(Path(out), _secret(parameters), **numbers)


def tier_of(parameters: Mapping[str, Any], default: Tier) -> Tier:
    """Return the tier that the parameter `tier` names. Raises CaptureError for another word."""
    labels = {tier.label: tier for tier in Tier}
    name = parameters.get("tier", default.label)
    if name not in labels:
        raise CaptureError(f"parameter 'tier': got {name!r}; accepted: {', '.join(labels)}")
    return labels[name]


def _positive(name: str, value: Any, *, whole: bool) -> Any:
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 1 << 40:
        kind = "a positive integer" if whole else "a positive number"
        raise CaptureError(f"parameter {name!r}: got {value!r}; accepted: {kind}")
    return value


def _secret(parameters: Mapping[str, Any]) -> bytes | None:
    given = [name for name in SECRETS if name in parameters]
    if len(given) > 1:
        raise CaptureError("parameters 'secret' and 'secret_file' exclude each other: give one")
    if "secret_file" in given:
        return _of_file(parameters["secret_file"])
    if not given and SECRET_VARIABLE not in os.environ:
        return None
    value = parameters["secret"] if given else os.environ[SECRET_VARIABLE]
    if not isinstance(value, str) or not value:
        raise CaptureError("the secret is empty or no text: give text, or none for a random one")
    return value.encode()


def _of_file(path: Any) -> bytes:
    try:
        secret = Path(path).read_bytes().strip()
    except (OSError, TypeError, ValueError) as error:
        raise CaptureError(f"parameter 'secret_file' can't be read: {error}") from error
    if not secret:
        raise CaptureError("parameter 'secret_file': the file is empty")
    return secret
