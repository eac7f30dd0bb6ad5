"""Values by dotted key from files, `--set` and options, laid over each other, with origins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvtrace.errors import UsageError
from kvtrace.files.documents import MAX_CONFIG_BYTES, parse_yaml, read_document
from kvtrace.show.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

DEFAULT, OPTION, SET = "default", "option", "--set"


class Layers:
    """A configuration as far as it is given: later layers override earlier ones, key by key.

    `data`: nested; `origins`: where each value comes from, by dotted key. `whole`: keys of mappings
    that a later layer replaces as a whole.
    """

    def __init__(self, whole: Collection[str] = ()) -> None:
        self.data: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.whole = whole

    def lay(self, layer: Mapping[str, Any], origin: str) -> None:
        """Lay a nested mapping over what there is. Raises UsageError."""
        for key, value in leaves(layer, self.whole):
            self.put(key, value, origin)

    def read(self, path: str | Path) -> None:
        """Lay a YAML file over what there is. Raises UsageError."""
        text = read_document(
            Path(path), "the configuration", error=UsageError, most=MAX_CONFIG_BYTES
        )
        data = parse_yaml(text, Path(path), error=UsageError)
        if not isinstance(data, dict):
            raise UsageError("not a configuration", where=path, accepted="a YAML mapping")
        self.lay(data, str(path))

    def set(self, texts: Iterable[str]) -> None:
        """Lay each `section.key=value` over what there is, value in YAML. Raises UsageError."""
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals:
                raise UsageError(
                    "not key=value", where="--set", got=repr(text), accepted="key=value"
                )
            self.put(key.strip(), parse_yaml(value, f"--set {key}", error=UsageError), SET)

    def options(self, given: Mapping[str, Any]) -> None:
        """Lay options by dotted key over what there is; None is left out."""
        for key, value in given.items():
            if value is not None:
                self.put(key, value, OPTION)

    def put(self, key: str, value: object, origin: str) -> None:
        """Set one value. Raises UsageError where a section is needed and isn't one."""
        *sections, last = key.split(".")
        data = self.data
        for section in sections:
            inner = data.setdefault(section, {})
            if inner is None:
                inner = data[section] = {}
            if not isinstance(inner, dict):
                raise UsageError("not a section", where=key, got=repr(inner))
            data = inner
        data[last] = value
        self.origins[key] = origin


def leaves(
    layer: Mapping[str, Any], whole: Collection[str] = (), prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield what a nested mapping holds by dotted key."""
    for name, value in layer.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in whole:
            yield from leaves(value, whole, f"{key}.")
        else:
            yield key, value


def origin_of(origins: Mapping[str, str], key: str) -> str:
    """Return where a value comes from: its own key was set, or one within it."""
    within = [origin for other, origin in origins.items() if f"{other}.".startswith(f"{key}.")]
    return printable(within[-1]) if within else DEFAULT


def as_yaml(
    values: Mapping[str, Any], origins: Mapping[str, str], whole: Collection[str] = ()
) -> str:
    """Return a configuration as YAML that can be read again, each value with its origin."""
    return "\n".join(_lines(values, origins, whole, "")) + "\n"


def _lines(
    section: Mapping[str, Any], origins: Mapping[str, str], whole: Collection[str], prefix: str
) -> Iterator[str]:
    import yaml

    indent = "  " * prefix.count(".")
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in whole:
            yield f"{indent}{name}:"
            yield from _lines(value, origins, whole, f"{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20)
            text = text.strip().removesuffix("...").strip()
            yield f"{indent}{name}: {text}  # {origin_of(origins, key)}"
