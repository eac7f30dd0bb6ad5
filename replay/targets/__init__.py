"""Targets: what executes a tier's ops. One file each; a new file is a new target.

A target's module has `TIERS` (the tiers it can stand for), `unavailable()` (why it can't be used
here, or None) and `make(spec)`, which returns a `Target` and raises TargetError or UsageError
without having touched anything. It may have `Options`, a `kvtrace.fields.Section` of what it can be
told: those that are called as a field of `TargetSpec` come in that field, others in its `options`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from kvtrace import arguments, plugins
from kvtrace.errors import unknown_name
from kvtrace.trace.schema import Tier
from replay.ops.contract import Fsync
from replay.targets.support import declared

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from kvtrace.placement.extents import Need, Space
    from replay.ops.contract import Lane
    from replay.safety.marker import Preconditioned


@dataclass(frozen=True, slots=True, init=False)
class TargetSpec:
    """What a user asks for: a target by name, the tiers it executes, and what it needs to know.

    Tiers may be given by their names, a path as a string. Raises UsageError for a wrong value.
    `allow_destroy`: identity of the block device that may be overwritten. `allow_signature`:
    types of file systems or partition tables on it that may be destroyed. `unit`: which of several,
    as torch names it (cuda:0). `trim`: deletes discard. `fsync`: of a folder's writes. `options`:
    what the target's own module declares, by key; checked when the target is made.
    """

    name: str
    tiers: tuple[Tier, ...]
    path: Path | None = None
    size_bytes: int | None = None
    extent_align_bytes: int | None = None
    allow_destroy: str | None = None
    allow_signature: tuple[str, ...] = ()
    unit: str = ""
    trim: bool = False
    fsync: Fsync = Fsync.NONE
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __init__(
        self,
        name: str,
        tiers: Iterable[Tier | str] | Tier | str,
        path: str | os.PathLike[str] | None = None,
        size_bytes: int | None = None,
        extent_align_bytes: int | None = None,
        allow_destroy: str | None = None,
        allow_signature: Iterable[str] = (),
        unit: str = "",
        trim: bool = False,
        fsync: Fsync = Fsync.NONE,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        values = {
            "name": arguments.text(name, "name"),
            "tiers": _tiers(tiers),
            "path": None if path is None else arguments.path(path, "path"),
            "size_bytes": _size(size_bytes, "size_bytes"),
            "extent_align_bytes": _size(extent_align_bytes, "extent_align_bytes"),
            "allow_destroy": _word(allow_destroy, "allow_destroy"),
            "allow_signature": tuple(arguments.texts(allow_signature, "allow_signature")),
            "unit": arguments.text(unit, "unit"),
            "trim": arguments.flag(trim, "trim"),
            "fsync": arguments.instance(fsync, "fsync", Fsync, "a replay.ops.contract.Fsync"),
            "options": arguments.options({} if options is None else options, "options"),
        }
        for name_of_field, value in values.items():
            object.__setattr__(self, name_of_field, value)  # frozen for everybody else


def _size(given: int | None, name: str) -> int | None:
    return None if given is None else arguments.count(given, name)


def _word(given: str | None, name: str) -> str | None:
    return None if given is None else arguments.text(given, name)


def _tiers(given: Iterable[Tier | str] | Tier | str) -> tuple[Tier, ...]:
    """Return tiers that were given by themselves or by name, one or several."""
    listed = [given] if isinstance(given, Tier | str) else given
    if not isinstance(listed, Iterable):
        raise arguments.wrong("tiers", given, "tiers, or their names")
    by_name = {tier.label: tier for tier in Tier}
    tiers = []
    for each in listed:
        if isinstance(each, str) and each not in by_name:
            raise unknown_name("tier", each, by_name, where="tiers")
        tier = by_name[each] if isinstance(each, str) else each
        tiers.append(arguments.instance(tier, "tiers", Tier, "tiers, or their names"))
    if not tiers:
        raise arguments.wrong("tiers", "", "at least one tier")
    return tuple(tiers)


@dataclass(frozen=True, slots=True)
class RunMark:
    """What a target of ours says about the run that wrote it."""

    run_id: int
    trace_sha256: str


@dataclass(frozen=True, slots=True)
class Unwritten:
    """A part of a target that must be written once before it is measured."""

    begin_bytes: int
    end_bytes: int


class Bookkeeper:
    """What targets have in common that keep nothing from run to run, and delete for nothing."""

    deletes = False
    preconditioned: Preconditioned | None = None
    populated: str | None = None
    earlier_run_id: int | None = None

    def note_populated(self, digest: str | None) -> None:
        """Nothing to note."""

    def unwritten(self, end_bytes: int) -> Unwritten | None:
        """Return None: no part of it has to be written once before it is measured."""
        return None

    def written(self, end_bytes: int) -> None:
        """Nothing to note."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing that people should know of."""
        return ()

    def recheck(self) -> None:
        """Nothing of it can have become another's."""

    def flush(self) -> None:
        """Nothing to flush."""


class Target(Protocol):
    """One target of one run; its calls in order: space, authorise, reserve, open, … close."""

    spec: TargetSpec

    @property
    def title(self) -> str:
        """What it is, for people: path, model, size."""
        ...

    @property
    def device(self) -> Path | None:
        """The sysfs directory of the block device below, if there is one."""
        ...

    def space(self) -> Space:
        """Return what it offers to extents."""
        ...

    def authorise(self, *, writes: bool) -> None:
        """Return if the run may use it. Raises TargetError; nothing was written."""
        ...

    def reserve(self, need: Need) -> Space:
        """Return what extents get, of a size that is now known. Raises TargetError if too little.

        Nothing is opened or written yet.
        """
        ...

    def open(self, space: Space, mark: RunMark, *, writes: bool) -> None:
        """Open it for what was reserved. Raises TargetError and then leaves nothing behind."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What couldn't be checked before it is written to, a sentence each."""
        ...

    def recheck(self) -> None:
        """Raise TargetError if it isn't any more what this run has opened; after long steps."""
        ...

    def lane(self, queue_depth: int, io_bytes: int) -> Lane:
        """Return how ops on it are done; it is open."""
        ...

    def unwritten(self, end_bytes: int) -> Unwritten | None:
        """Return what of its space up to `end_bytes` was never written, if that can be known."""
        ...

    def written(self, end_bytes: int) -> None:
        """Note that everything up to `end_bytes` has been written."""
        ...

    @property
    def deletes(self) -> bool:
        """Whether a delete is work for it, not only bookkeeping."""
        ...

    @property
    def preconditioned(self) -> Preconditioned | None:
        """How it was brought to a known state; None is unknown."""
        ...

    @property
    def earlier_run_id(self) -> int | None:
        """The run that has written it last; None if that isn't known."""
        ...

    @property
    def populated(self) -> str | None:
        """Digest of the population that it has from an earlier run, if that is still unchanged."""
        ...

    def note_populated(self, digest: str | None) -> None:
        """Note that it now has a population, or that this is about to be changed."""
        ...

    def flush(self) -> None:
        """Return when what was written is on the device."""
        ...

    def close(self) -> None:
        """Release it. May be called twice."""
        ...


def names() -> tuple[str, ...]:
    """Return the names of all targets."""
    return tuple(plugins.names(plugins.TARGET))


def given(targets: Iterable[TargetSpec | Target]) -> tuple[TargetSpec | Target, ...]:
    """Return a run's targets. Raises UsageError for anything else."""
    if isinstance(targets, TargetSpec | str) or not isinstance(targets, Iterable):
        raise arguments.wrong("targets", targets, "a list of replay.TargetSpec(...) or targets")
    listed = tuple(targets)
    for each in listed:
        if not isinstance(each, TargetSpec) and not hasattr(each, "spec"):
            raise arguments.wrong("targets", each, "replay.TargetSpec(...), or a target of yours")
    return listed


OWN = frozenset(each.name for each in fields(TargetSpec)) - {"name", "tiers", "options"}
"""Fields of a spec that several targets' options have in common."""


def spec(
    name: str, tiers: Iterable[Tier], given: Mapping[str, Any], *, where: object = None
) -> TargetSpec:
    """Return the spec of a target, from its options by key, as text.

    Raises UsageError for a target, tier, key or value that isn't accepted; `where` it stands.
    """
    module = plugins.load(plugins.TARGET, name)
    wanted = tuple(tiers)
    declared.check_tiers(name, module, wanted, where)
    values = dict(declared.checked(name, module, given, where))
    if "fsync" in values and not isinstance(values["fsync"], Fsync):
        values["fsync"] = Fsync[str(values["fsync"]).upper()]
    own = {key: values.pop(key) for key in OWN & values.keys()}
    return TargetSpec(name, wanted, **own, options=values)


def make(spec: TargetSpec) -> Target:
    """Return the target of `spec`.

    Raises UsageError for a tier that it can't stand for, and for options that aren't accepted.
    """
    module = plugins.load(plugins.TARGET, spec.name)
    declared.check_tiers(spec.name, module, spec.tiers)
    model = declared.options_of(module)
    if spec.options or spec.name in plugins.added(plugins.TARGET):
        given = {key: getattr(spec, key) for key in OWN & model.model_fields.keys()}
        given = {key: value for key, value in given.items() if value}  # all defaults are false
        if "fsync" in given:
            given["fsync"] = spec.fsync.name.lower()
        values = dict(
            declared.checked(spec.name, module, given | dict(spec.options), by_field=True)
        )
        own = {k: v for k, v in values.items() if k in OWN - {"fsync", "trim"}}
        spec = replace(spec, **own, options=values)  # all: `Options(**spec.options)` is the model
    return cast("Target", module.make(spec))
