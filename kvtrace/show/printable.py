"""Names and other strings from outside as text that is safe to print: nothing in them steers."""

from __future__ import annotations

import unicodedata

_LINES = frozenset("\n\t")


def printable(text: object, *, keep_lines: bool = False) -> str:
    r"""Return `text` with control, bidi and other invisible characters escaped, as `\x1b`.

    `keep_lines`: line feeds and tabs stay as they are. Bytes of a file name that aren't UTF-8
    become `\xNN`.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    kept = _LINES if keep_lines else frozenset()
    return "".join(char if char in kept else _escaped(char) for char in plain)


def _escaped(char: str) -> str:
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def utf8(text: object) -> str:
    r"""Return `text` with the bytes of a file name that aren't UTF-8 as `\xNN`, all else as it is.

    JSON and XML hold anything but those.
    """
    plain = str(text)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return "".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in plain)
    return plain
