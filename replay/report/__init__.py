"""Forms of a report: one file each, found by how the name of the file ends that is asked for.

A form's module has `SUFFIX`, `write(document, path)`, and, where it needs any, `PACKAGES` of the
extra `report`; `terminal` has none of them.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Protocol, cast

from kvtrace import plugins
from kvtrace.errors import TargetError, UsageError
from kvtrace.files.outfile import fill, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.files.drafts import Draft
    from replay.result.document import ResultDocument


class _Form(Protocol):
    SUFFIX: str

    def write(self, document: ResultDocument, path: Path) -> None: ...


def _forms() -> dict[str, _Form]:
    modules = [plugins.load(plugins.REPORT, name) for name in plugins.names(plugins.REPORT)]
    return {module.SUFFIX: cast("_Form", module) for module in modules}


def suffixes() -> tuple[str, ...]:
    """Return how the names of files end that a report can be written to."""
    return tuple(sorted(_forms()))


def _form_of(path: Path) -> _Form:
    """Return the form of a file by its name: of several that fit, that of the longest suffix.

    Raises UsageError, or TargetError where a package is missing.
    """
    forms = _forms()
    fitting = [suffix for suffix in forms if path.name.endswith(suffix)]
    if not fitting:
        raise UsageError(
            "unknown form of report",
            where=path,
            got=repr(path.suffix),
            accepted=", ".join(sorted(forms)),
        )
    form = forms[max(fitting, key=len)]
    for name in getattr(form, "PACKAGES", ()):
        if importlib.util.find_spec(name) is None:
            raise TargetError(
                f"{form.SUFFIX} needs a package that isn't installed: {name}",
                where=path,
                hint="pip install kvtrace[report]",
            )
    return form


def check_suffix(path: Path) -> None:
    """Return if a report can be written to a file of that name.

    Raises UsageError, or TargetError where a package is missing.
    """
    _form_of(path)


def write_json(document: ResultDocument, path: Path) -> None:
    """Write the machine-readable report to `path`, whatever its name."""
    _forms()[".json"].write(document, path)


def write(document: ResultDocument, path: Path, *, force: bool = False) -> None:
    """Write the report at `path`, whole or not at all. Raises TargetError."""
    form = _form_of(path)
    write_whole(path, lambda place: form.write(document, place), force=force)


def write_draft(document: ResultDocument, draft: Draft) -> None:
    """Write the report to a draft, and publish it. Raises TargetError."""
    form = _form_of(draft.path)
    fill(draft, lambda place: form.write(document, place))
    draft.publish()
