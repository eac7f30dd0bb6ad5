"""Files of a source's inputs."""

from __future__ import annotations

from pathlib import Path

from kvtrace.errors import UsageError


def input_files(names: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the files that `--input` names, of a directory all in order of their names.

    Raises UsageError for what isn't there and for a directory without files.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if not path.exists():
            raise UsageError("no such input", where="--input", got=name)
        entries = sorted(path.iterdir()) if path.is_dir() else [path]
        paths.extend(entry for entry in entries if entry.is_file())
    if names and not paths:
        raise UsageError("no files in the input", where="--input", got=", ".join(names))
    return tuple(paths)
