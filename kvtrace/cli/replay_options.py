"""From the flags of a replay's command line to its targets and options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.cli.options import given_of
from kvtrace.cli.targets import target_specs, with_short_forms
from replay import ReplayOptions
from replay.config import Given, options, read, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replay import TargetSpec


def understood(
    asked: Mapping[str, Any], model: type[ReplayOptions] = ReplayOptions
) -> tuple[tuple[TargetSpec, ...], ReplayOptions]:
    """Return the targets and options that a replay's flags ask for. Raises UsageError."""
    given = _read(asked, model)
    specs = target_specs(asked, given.targets)
    return specs, options(given, specs)


def resolved_text(asked: Mapping[str, Any], model: type[ReplayOptions] = ReplayOptions) -> str:
    """Return the whole configuration of a replay as YAML, with origins. Raises UsageError."""
    given = _read(asked, model)
    return resolve(given, with_short_forms(asked, given.targets)).as_yaml()


def states(asked: Mapping[str, Any], key: str) -> bool:
    """Return whether an option was given, by a flag, `--set` or a file. Raises UsageError."""
    return key in _read(asked, ReplayOptions).options


def _read(asked: Mapping[str, Any], model: type[ReplayOptions]) -> Given:
    flags = {option.key: value for option, value in given_of(model, asked)}
    return read(asked["config"], asked["set_"] or (), flags, model)
