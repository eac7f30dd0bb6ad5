"""The checks that a target passes before it is written to, and passes again at the first write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.errors import TargetError
from kvtrace.units import MIB
from replay.device import sysfs as device
from replay.safety import signatures, users
from replay.safety.identity import identify

if TYPE_CHECKING:
    from replay.safety.preflight import FileFacts
    from replay.safety.signatures import Sample, Signature
    from replay.targets import TargetSpec


class ChangedError(TargetError):
    """A target isn't what was checked any more, or something else has written to it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A target that may be written, as it was at that moment.

    `fingerprint`: of what is on a device where it was looked at; empty of a file. `notes`: what
    couldn't be checked, for people.
    """

    fingerprint: str
    notes: tuple[str, ...]


def check(facts: FileFacts, descriptor: int, spec: TargetSpec, end_bytes: int) -> Checked:
    """Return if the open target may be overwritten up to `end_bytes`.

    Raises TargetError; nothing was written.
    """
    check_same(facts, descriptor)
    if not facts.block:
        notes = users.check_file(os.fstat(descriptor), facts.path)
        named = _elsewhere(facts, signatures.find(descriptor, facts.title))
        if not named and facts.marker and facts.size_bytes > facts.marker.end_bytes:
            named = (signatures.Signature(signatures.UNKNOWN),)  # it was made longer since
            _check_signatures(facts, named, (facts.marker.end_bytes,), spec.allow_signature)
        _check_signatures(facts, named, (), spec.allow_signature)
        return Checked("", notes)
    notes = check_unused(facts)
    fingerprint = _check_content(facts, descriptor, spec, end_bytes)
    return Checked(fingerprint, notes)


def check_read_only(facts: FileFacts) -> None:
    """Raise TargetError if the kernel refuses writes to a device."""
    assert facts.sysfs is not None
    if device.read_text(device.disk_of(facts.sysfs) / "ro") == "1":
        raise TargetError("is read-only", where=facts.title)


def check_unused(facts: FileFacts) -> tuple[str, ...]:
    """Raise TargetError if anything else uses a device; return what couldn't be checked."""
    assert facts.sysfs is not None
    return users.check_device(facts.sysfs, facts.title)


def check_same(facts: FileFacts, descriptor: int) -> None:
    """Raise TargetError if the open target isn't what was looked at, or its path is another's."""
    assert facts.identity is not None
    now = identify(descriptor)
    difference = facts.identity.difference(now)
    try:
        named = facts.path.stat()
        linked = named.st_nlink
        same = (
            named.st_rdev == now.number
            if facts.block
            else (named.st_dev, named.st_ino) == now.file and linked == 1
        )
    except FileNotFoundError:
        same = False
    except OSError as error:
        raise TargetError(f"can't look at it: {error.strerror}", where=facts.title) from error
    if difference or not same:
        raise ChangedError(
            "changed while it was being checked",
            where=facts.title,
            got=difference or "the name now belongs to another file",
            hint="find out what changed it, then run again",
        )


def check_unchanged(before: Checked, now: Checked, title: str) -> None:
    """Raise TargetError if a device has other content than when it was checked."""
    if before.fingerprint != now.fingerprint:
        raise changed(title)


def changed(title: str) -> ChangedError:
    """Return the error of a target that something else has written to during the run."""
    return ChangedError(
        "was written by something else after it was checked",
        where=title,
        hint="find out what uses it, then run again",
    )


def _check_content(facts: FileFacts, descriptor: int, spec: TargetSpec, end_bytes: int) -> str:
    """Return the fingerprint of a device whose content may be destroyed."""
    data = signatures.sample(descriptor, facts.title)
    named = to_name(facts, descriptor, data, end_bytes)
    _check_partitions(facts, named)
    foreign = _foreign(facts, data, end_bytes)
    _check_signatures(facts, named, foreign, spec.allow_signature)
    _check_allowed(facts, spec.allow_destroy, empty=not data.places)
    return data.digest


def to_name(
    facts: FileFacts, descriptor: int, data: Sample, end_bytes: int
) -> tuple[Signature, ...]:
    """Return what --allow-signature has to name before a device is overwritten to `end_bytes`."""
    named = _elsewhere(facts, signatures.find(descriptor, facts.title))
    if not named and _foreign(facts, data, end_bytes):
        return (signatures.Signature(signatures.UNKNOWN),)
    return named


def _foreign(facts: FileFacts, data: Sample, end_bytes: int) -> tuple[int, ...]:
    """Return where a device has data that no run of ours was given.

    On a device of ours that is behind the largest part that a run had, up to the end of this one's.
    """
    if facts.marker is None:
        return data.places
    return tuple(place for place in data.places if facts.marker.end_bytes <= place < end_bytes)


def _elsewhere(facts: FileFacts, named: tuple[Signature, ...]) -> tuple[Signature, ...]:
    """Return the signatures that don't lie within the extents of a target of ours.

    There they are leftovers of what an earlier run was allowed to destroy, or payload.
    """
    marker = facts.marker
    if marker is None:
        return named
    ours = range(marker.begin_bytes, min(marker.end_bytes, facts.size_bytes - MIB))
    return tuple(each for each in named if each.offset is None or each.offset not in ours)


def _check_partitions(facts: FileFacts, named: tuple[Signature, ...]) -> None:
    """Raise TargetError for partitions that the kernel has of a table that is gone."""
    assert facts.sysfs is not None
    parts = [part.name for part in device.partitions(facts.sysfs)]
    if parts and not any(each.name in ("gpt", "dos") for each in named):
        raise TargetError(
            "the kernel still lists partitions on it, but its partition table is gone",
            where=facts.title,
            got=", ".join(parts),
            hint=f"if nothing needs them: partx --delete {facts.path}",
        )


def _check_signatures(
    facts: FileFacts,
    named: tuple[Signature, ...],
    places: tuple[int, ...],
    allowed: tuple[str, ...],
) -> None:
    accepted = {text.lower() for text in allowed}
    missing = [each for each in named if each.name.lower() not in accepted]
    if not missing:
        return
    hint = " ".join(f"--allow-signature {each.name}" for each in missing)
    if missing[0].name == signatures.UNKNOWN:
        raise TargetError(
            "has data that isn't recognised",
            where=facts.title,
            got=signatures.describe_places(places),
            hint=f"if it may be destroyed: {hint}",
        )
    raise TargetError(
        "has a file system, partition table or other signature",
        where=facts.title,
        got=", ".join(map(str, named)),
        hint=f"if it may be destroyed: {hint}",
    )


def _check_allowed(facts: FileFacts, allowed: str | None, *, empty: bool) -> None:
    assert facts.sysfs is not None
    known = device.identities(facts.sysfs) or (str(facts.path), str(facts.path.resolve()))
    if allowed in known:
        return
    content = "carries our header" if facts.marker else "has data"
    content = "reads as zeros where sampled" if empty else content
    raise TargetError(
        "everything on it would be destroyed",
        where=facts.title,
        got=f"--allow-destroy {allowed}" if allowed else f"no --allow-destroy; it {content}",
        accepted=" or ".join(dict.fromkeys(known)),
        hint=f"if that is wanted: --allow-destroy {known[0]}",
    )
