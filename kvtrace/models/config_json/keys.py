"""Access to a configuration's keys that remembers which were read, so that none is passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST = 1 << 24
"""Layers, heads, dimensions: no model has as many."""
HINT = (
    "delete the key if it has nothing to do with the cache, else write the geometry as a TOML "
    "model file (docs/models.md)"
)
MODEL_FILE = "write the geometry as a TOML model file (docs/models.md)"


class Keys:
    """The keys of one JSON object; `where` names the file and `path` the object in errors.

    `null` is absent. A value of another type than asked for is refused with its key.
    """

    def __init__(self, data: dict[str, Any], where: object, path: str = "") -> None:
        self.data, self.where, self.path = data, where, path
        self.read: set[str] = set()
        self.ignored: set[str] = set()
        self.nested: list[Keys] = []

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def stated(self, key: str) -> bool:
        """Return whether the key is in the file, if only with `null`."""
        return key in self.data

    def value(self, key: str) -> Any:
        """Return the value of `key`, or None; the key counts as read."""
        self.read.add(key)
        return self.data.get(key)

    def number(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number, or `default` where absent. Raises TraceError without either."""
        value = self.value(key)
        if value is None:
            if default is None:
                raise self.missing(key)
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
            raise self.bad(key, f"a whole number from {least} to {_MOST:,}")
        return value

    def first(self, keys: Iterable[str], default: int | None = None) -> int:
        """Return the number that stands under any of several names. Raises TraceError if none."""
        names = list(keys)
        present = [key for key in names if key in self]
        values = {self.number(key) for key in present}
        if len(values) > 1:
            raise self.bad(present[0], f"the same value as {present[1]}")
        if values:
            return values.pop()
        if default is None:
            raise self.missing(names[0])
        return default

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false, `default` where absent; `null`, which is false, only if that is."""
        value = self.value(key)
        if value is None:
            if default and self.stated(key):
                raise self.bad(key, "true or false")
            return default
        if not isinstance(value, bool):
            raise self.bad(key, "true or false")
        return value

    def word(self, key: str) -> str | None:
        """Return a string, or None where absent."""
        value = self.value(key)
        if value is not None and not isinstance(value, str):
            raise self.bad(key, "a string")
        return value

    def words(self, key: str) -> list[str] | None:
        """Return a list of strings, or None where absent."""
        return self._list(key, str, "a list of strings")

    def numbers(self, key: str) -> list[int] | None:
        """Return a list of whole numbers, or None where absent."""
        return self._list(key, int, "a list of whole numbers")

    def _list(self, key: str, kind: type, accepted: str) -> list[Any] | None:
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(
            isinstance(item, kind) and not isinstance(item, bool) for item in value
        ):
            raise self.bad(key, accepted)
        return value

    def table(self, key: str) -> Keys | None:
        """Return a nested object's keys, or None where absent."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.bad(key, "an object")
        known = [inner for inner in self.nested if inner.path == f"{self.path}{key}."]
        if known:
            return known[0]
        inner = Keys(value, self.where, f"{self.path}{key}.")
        self.nested.append(inner)
        return inner

    def tables(self, key: str) -> list[Keys] | None:
        """Return a list of nested objects, or None where absent."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.bad(key, "a list of objects")
        inner = [
            Keys(item, self.where, f"{self.path}{key}[{index}].")
            for index, item in enumerate(value)
        ]
        self.nested += inner
        return inner

    def ignore(self, *keys: str) -> None:
        """Count keys as read that this type's code doesn't use for its cache.

        Raises TraceError for one that isn't a number or a word: what it says isn't understood.
        """
        for key in keys:
            if isinstance(self.data.get(key), list | dict):
                raise self.bad(key, "a number or a word")
        self.ignored.update(keys)

    def skip(self, *keys: str) -> None:
        """Count keys as read, whatever their value."""
        self.ignored.update(keys)

    def must_be(self, key: str, *accepted: Any) -> None:
        """Refuse the file unless `key` is absent or one of the values that are understood."""
        value = self.value(key)
        if value is not None and not any(value is each or value == each for each in accepted):
            raise self.bad(key, " or ".join(repr(each) for each in accepted))

    def missing(self, key: str) -> TraceError:
        """Return the error for a key that geometry needs and the file lacks."""
        return TraceError(
            f"model configuration without {self.path}{key}", where=self.where, hint=MODEL_FILE
        )

    def bad(self, key: str, accepted: str) -> TraceError:
        """Return the error for a value that isn't understood."""
        return TraceError(
            f"bad {self.path}{key}",
            where=self.where,
            got=repr(self.data.get(key)),
            accepted=accepted,
            hint=MODEL_FILE,
        )

    def origin(self) -> Iterable[str]:
        """Yield the keys that were read and have a value, nested ones with where they stand."""
        inside = {inner.path.removeprefix(self.path).rstrip(".") for inner in self.nested}
        for key in self.data:
            if key in self.read and key in self and key not in inside:
                yield f"{self.path}{key}"
        for inner in self.nested:
            yield from inner.origin()

    def unread(self) -> Iterable[tuple[str, Any]]:
        """Yield the unread keys with a value, with their places."""
        for key, value in self.data.items():
            if value is not None and key not in self.read | self.ignored:
                yield f"{self.path}{key}", value
        for inner in self.nested:
            yield from inner.unread()
