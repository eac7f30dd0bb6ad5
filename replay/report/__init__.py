"""Forms of a report: one file each, found by the suffix of the file that is asked for.

A form's module has `SUFFIX`, `write(document, path)`, and, where it needs any, `PACKAGES` of the
extra `report`; `terminal` has none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import TYPE_CHECKING, Protocol, cast

from kvtrace.errors import TargetError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from replay.document import ResultDocument


class _Form(Protocol):
    SUFFIX: str

    def write(self, document: ResultDocument, path: Path) -> None: ...


def _forms() -> dict[str, _Form]:
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    return {module.SUFFIX: cast("_Form", module) for module in modules if hasattr(module, "SUFFIX")}


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of the files that a report can be written to."""
    return tuple(sorted(_forms()))


def check_suffix(path: Path) -> None:
    """Return if a report can be written to a file of that name.

    Raises UsageError, or TargetError where a package is missing.
    """
    if path.suffix not in suffixes():
        raise UsageError(
            "unknown form of report",
            where=path,
            got=repr(path.suffix),
            accepted=", ".join(suffixes()),
        )
    for name in getattr(_forms()[path.suffix], "PACKAGES", ()):
        if importlib.util.find_spec(name) is None:
            raise TargetError(
                f"{path.suffix} needs a package that isn't installed: {name}",
                where=path,
                hint="pip install kvtrace[report]",
            )


def write_json(document: ResultDocument, path: Path) -> None:
    """Write the machine-readable report at `path`, whatever its name."""
    _write_whole(document, path, _forms()[".json"])


def write(document: ResultDocument, path: Path) -> None:
    """Write the report at `path`, whole or not at all."""
    check_suffix(path)
    _write_whole(document, path, _forms()[path.suffix])


def _write_whole(document: ResultDocument, path: Path, form: _Form) -> None:
    partial = path.with_name(path.name + ".new")
    try:
        form.write(document, partial)
        partial.replace(path)
    except OSError as error:
        raise TargetError(
            f"can't write: {error.strerror}", where=path, hint="free space or name another place"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
