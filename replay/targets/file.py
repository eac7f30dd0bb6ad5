"""A block device, or one preallocated file, with O_DIRECT."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from kvtrace.errors import TargetError, UsageError
from kvtrace.fields import Option, Section
from kvtrace.placement.extents import RESERVED_BYTES, Need, Space, align_up
from kvtrace.show.printable import utf8
from kvtrace.trace.schema import Tier
from kvtrace.units import MIB, format_bytes
from replay.device import sysfs as device
from replay.ops.contract import Lane, LaneKind
from replay.safety import consent, preflight
from replay.safety.marker import MARKER_BYTES, Marker, Preconditioned
from replay.targets import RunMark, TargetSpec, Unwritten
from replay.targets.support import declared

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIERS = (Tier.NVME,)


class Options(Section):
    """Which it is, how much of it is used, and what may be destroyed."""

    path: Annotated[Path, Option("Block device, or file.")]
    size_bytes: declared.TargetSize = None
    trim: declared.Trim = False
    extent_align_bytes: declared.ExtentAlign = None
    allow_destroy: declared.AllowDestroy = None
    allow_signature: declared.AllowSignature = ()


def unavailable() -> str | None:
    """Return why files can't be targets here."""
    return None if hasattr(os, "O_DIRECT") else "this system has no O_DIRECT"


@dataclass(slots=True)
class FileTarget:
    """A block device or a regular file. Its first MiB holds our marker, extents follow."""

    spec: TargetSpec
    facts: preflight.FileFacts
    _descriptor: int = -1
    _checked: consent.Checked | None = None
    _marker: Marker | None = None
    _named: bool = False
    """Whether this run has made the file and given it its name."""
    _space: Space | None = None

    @property
    def title(self) -> str:
        """Path, model and size, and what a delete does there if it is work."""
        if not self.spec.trim:
            return utf8(self.facts.title)
        return (
            f"{utf8(self.facts.title)}, deletes {'discard' if self.facts.block else 'punch holes'}"
        )

    @property
    def device(self) -> Path | None:
        """The sysfs directory of the device, or of the one that the file is on."""
        return self.facts.sysfs

    def space(self) -> Space:
        """Return what is behind the marker; a new file without a size takes what is needed."""
        align = max(self.facts.align_bytes, self.spec.extent_align_bytes or 0)
        begin = align_up(RESERVED_BYTES, align)
        wanted = self.spec.size_bytes
        if self.facts.block:
            end = min(self.facts.size_bytes, wanted or self.facts.size_bytes)
        elif self.facts.new and wanted is None:
            return Space(align, begin, None)
        else:
            end = wanted or self.facts.size_bytes
        return Space(align, begin, max(0, end - begin) // align * align)

    def authorise(self, *, writes: bool) -> None:
        """Return if it may be written, or is only read.

        What exists is opened here and stays claimed: what is checked now is what is written later.
        """
        if not writes:
            if self.facts.new:
                raise TargetError("no such file, and the run writes nothing", where=self.title)
            return
        if self.facts.block:
            consent.check_read_only(self.facts)
            consent.check_unused(self.facts)
        else:
            preflight.check_file(self.facts)
            preflight.check_unshared(self.facts)
        if self.spec.trim:
            self._check_trim()
        if not self.facts.new:
            self._claim(writes=True)
            self._checked = self._check()

    def _check(self) -> consent.Checked:
        space = self.space()
        end_bytes = space.begin_bytes + (space.size_bytes or 0)
        return consent.check(self.facts, self._descriptor, self.spec, end_bytes)

    def _claim(self, *, writes: bool) -> None:
        """Open what is there; no other run, and of a device no mount, may have it from now on."""
        flags = os.O_RDWR if writes else os.O_RDONLY
        if self.facts.block:
            flags |= os.O_EXCL if writes else 0
        else:
            flags |= os.O_NOFOLLOW
        self._descriptor = preflight.open_direct(self.facts.path, flags, self.facts.title)
        if not self.facts.block:
            preflight.lock(self._descriptor, self.title, writes=writes)

    def _check_trim(self) -> None:
        if self.facts.block and not self._queue_limit("discard_max_bytes"):
            raise TargetError(
                "doesn't support discard, which --trim needs",
                where=self.title,
                got="discard_max_bytes 0",
                hint="omit --trim: deletes are bookkeeping then",
            )

    def _queue_limit(self, name: str) -> int:
        assert self.facts.sysfs is not None
        text = device.read_text(device.disk_of(self.facts.sysfs) / "queue" / name)
        return int(text) if text and text.isdigit() else 0

    def reserve(self, need: Need) -> Space:
        """Return what extents get. Raises TargetError if a file can't become as large."""
        space = self.space()
        size = space.size_bytes
        if size is None:
            size = align_up(max(1, need.size_bytes), space.align_bytes)
        if not self.facts.block:
            more = space.begin_bytes + size - self.facts.size_bytes
            preflight.check_free(self.facts.path, max(0, more))
        return replace(space, size_bytes=size)

    def open(self, space: Space, mark: RunMark, *, writes: bool) -> None:
        """Open it, make a new file, write the marker. Leaves nothing behind if that fails."""
        assert space.size_bytes is not None
        self._space = space
        with ExitStack() as undo:
            undo.callback(self._undo)
            self._open(space.begin_bytes + space.size_bytes, writes=writes)
            if writes:
                self._mark(mark, space)
                self._name()
            undo.pop_all()

    def _open(self, end_bytes: int, *, writes: bool) -> None:
        if self.facts.new:
            self._create()
        elif writes:
            self._check_again()
        else:
            self._claim(writes=False)
            consent.check_same(self.facts, self._descriptor)
        if writes and not self.facts.block and end_bytes > self.facts.size_bytes:
            self._preallocate(end_bytes)

    def _create(self) -> None:
        """Make the file, without its name where the file system can: none is there half made."""
        unnamed = preflight.open_unnamed(self.facts.path, self.facts.title)
        if unnamed is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            self._descriptor = preflight.open_direct(self.facts.path, flags, self.facts.title)
            self._named = True
        else:
            self._descriptor = unnamed
        preflight.lock(self._descriptor, self.title, writes=True)

    def _name(self) -> None:
        """Give a new file, which carries its marker now, the name that it doesn't have yet."""
        if not self.facts.new or self._named:
            return
        try:
            # With a directory's descriptor it is linkat, which alone follows the link in /proc.
            source = f"/proc/self/fd/{self._descriptor}"
            os.link(source, self.facts.path, src_dir_fd=self._descriptor, follow_symlinks=True)
        except OSError as error:
            raise TargetError(f"can't be made: {error.strerror}", where=self.facts.path) from error
        self._named = True

    def _check_again(self) -> None:
        """Check once more what was checked: making the payload has taken seconds."""
        assert self._checked is not None
        now = self._check()
        consent.check_unchanged(self._checked, now, self.title)
        if preflight.read_marker(self._descriptor, self.title) != self.facts.marker:
            raise consent.changed(self.title)

    def recheck(self) -> None:
        """Raise TargetError if it isn't any more what this run has opened and marked."""
        if self._marker is None:
            return
        if not self.facts.new:
            consent.check_same(self.facts, self._descriptor)
        written = self._lasting(self._marker)
        if preflight.read_marker(self._descriptor, self.title) != written:
            raise consent.changed(self.title)

    @property
    def notes(self) -> tuple[str, ...]:
        """What couldn't be checked of it."""
        return () if self._checked is None else self._checked.notes

    def _preallocate(self, end_bytes: int) -> None:
        try:
            os.posix_fallocate(self._descriptor, 0, end_bytes)
        except OSError as error:
            raise TargetError(
                f"can't preallocate {format_bytes(end_bytes)}: {error.strerror}",
                where=self.facts.path,
                hint="free space, or name another place",
            ) from error

    def _mark(self, mark: RunMark, space: Space) -> None:
        assert space.size_bytes is not None
        old = self.facts.marker
        self._marker = Marker(
            mark.run_id,
            mark.trace_sha256,
            space.align_bytes,
            space.begin_bytes,
            max(space.begin_bytes + space.size_bytes, old.end_bytes if old else 0),
            old.written_bytes if old else 0,
            old.preconditioned if old else None,
            old.populated if old else None,
        )
        if self.facts.block and old is None:
            self._clear_signatures(space)
        self._write_marker()

    def _clear_signatures(self, space: Space) -> None:
        """Write zeros before the first extent and to the last MiB, as far as that is this run's.

        Signatures that were allowed to be destroyed would else ask for consent in every later run.
        """
        assert space.size_bytes is not None
        end = space.begin_bytes + space.size_bytes
        self._write(np.zeros(space.begin_bytes - MARKER_BYTES, np.uint8), MARKER_BYTES)
        last = align_up(max(space.begin_bytes, self.facts.size_bytes - MIB), space.align_bytes)
        if last < end:
            self._write(np.zeros(end - last, np.uint8), last)

    def _write_marker(self) -> None:
        assert self._marker is not None
        self._write(np.frombuffer(self._lasting(self._marker).pack(), np.uint8), 0)

    def _write(self, data: NDArray[np.uint8], offset: int) -> None:
        """Write bytes directly, from a buffer that is aligned as direct I/O wants it."""
        space = np.empty(len(data) + self.facts.align_bytes, np.uint8)
        start = -space.ctypes.data % self.facts.align_bytes
        block = space[start : start + len(data)]
        block[:] = data
        try:
            written = os.pwritev(self._descriptor, [block.data], offset)
        except OSError as error:
            raise TargetError(f"can't write: {error.strerror}", where=self.title) from error
        if written != len(data):
            raise TargetError(f"can't write: {os.strerror(errno.ENOSPC)}", where=self.title)

    def _lasting(self, marker: Marker) -> Marker:
        """Return what of the marker will still be true when deletes have trimmed.

        A hole in a file is unwritten space again; a device that was trimmed isn't in the state
        that preconditioning had brought it to.
        """
        if not self.spec.trim:
            return marker
        written = marker.written_bytes if self.facts.block else 0
        return replace(marker, written_bytes=written, preconditioned=None)

    def _undo(self) -> None:
        """Close it; remove the file that this run has made, if its name still is that file's."""
        if self._named:
            mine = os.fstat(self._descriptor)
            with suppress(OSError):
                named = self.facts.path.lstat()
                if (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino):
                    self.facts.path.unlink()
        self.close()

    def lane(self, queue_depth: int, io_bytes: int) -> Lane:
        """Return a lane on the open descriptor, for the space that was opened."""
        assert self._descriptor >= 0
        assert self._space is not None
        assert self._space.size_bytes is not None
        begin = self._space.begin_bytes
        return Lane(
            LaneKind.FILE,
            queue_depth,
            io_bytes,
            fd=self._descriptor,
            trim_bytes=self._trim_bytes() if self.spec.trim else 0,
            begin_bytes=begin,
            end_bytes=begin + self._space.size_bytes,
        )

    def _trim_bytes(self) -> int:
        """Return what a discard is aligned to: smaller ones would be dropped, or write zeros."""
        granularity = self._queue_limit("discard_granularity") if self.facts.block else 0
        return max(granularity, self.facts.align_bytes)

    def unwritten(self, end_bytes: int) -> Unwritten | None:
        """Return what of a regular file no run has written yet; None for a block device."""
        if self.facts.block or self._marker is None:
            return None
        begin = max(self._marker.begin_bytes, self._marker.written_bytes)
        return Unwritten(begin, end_bytes) if begin < end_bytes else None

    def written(self, end_bytes: int) -> None:
        """Note in the marker that everything up to `end_bytes` has been written."""
        assert self._marker is not None
        self._marker = replace(self._marker, written_bytes=end_bytes)
        self._write_marker()

    @property
    def preconditioned(self) -> Preconditioned | None:
        """How it was brought to a known state, as its marker says; None is unknown."""
        marker = self._marker or self.facts.marker
        return None if marker is None else marker.preconditioned

    def note_preconditioned(self, state: Preconditioned | None) -> None:
        """Note in the marker how it was brought to a known state, or that it no longer is."""
        assert self._marker is not None
        self._marker = replace(self._marker, preconditioned=state)
        self._write_marker()

    @property
    def deletes(self) -> bool:
        """Whether deletes trim."""
        return self.spec.trim

    @property
    def earlier_run_id(self) -> int | None:
        """The run id in the marker that was found."""
        return None if self.facts.marker is None else self.facts.marker.run_id

    @property
    def populated(self) -> str | None:
        """What its marker says of an earlier run's population."""
        marker = self._marker or self.facts.marker
        return None if marker is None else marker.populated

    def note_populated(self, digest: str | None) -> None:
        """Note it in the marker."""
        if self._marker is not None and self._marker.populated != digest:
            self._marker = replace(self._marker, populated=digest)
            self._write_marker()

    def flush(self) -> None:
        """Return when what was written is on the device."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise TargetError(f"can't flush: {error.strerror}", where=self.title) from error

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            preflight.unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def make(spec: TargetSpec) -> FileTarget:
    """Return the target at `spec.path`, looked at and not touched. Raises TargetError."""
    if spec.path is None:
        raise UsageError("target file needs a path", where="--device")
    return FileTarget(spec, preflight.look(spec.path))
