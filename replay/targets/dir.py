"""A folder with one file per object, with O_DIRECT, as caches of inference engines keep them."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kvtrace.errors import TargetError, UsageError
from kvtrace.fields import Option, Section
from kvtrace.placement.extents import Need, Space
from kvtrace.show.printable import utf8
from kvtrace.trace.schema import Tier
from kvtrace.units import MIB, format_bytes
from replay.device import statx
from replay.engine.native import threads
from replay.ops.contract import Lane, LaneKind
from replay.options import FsyncPolicy
from replay.safety import preflight
from replay.safety.marker import Marker
from replay.targets import Bookkeeper, RunMark, TargetSpec
from replay.targets.support import declared, folder

if TYPE_CHECKING:
    from replay.targets.support.folder import FolderFacts

TIERS = (Tier.NVME,)
OBJECT_BYTES_MAX = 512 * MIB
"""An object goes in one I/O, and the buffers that a lane reads into hold no more."""


class Options(Section):
    """Where it is, and how it writes."""

    path: Annotated[Path, Option("Directory, new, empty or of an earlier run.")]
    fsync: declared.FolderFsync = FsyncPolicy.NONE
    extent_align_bytes: declared.ExtentAlign = None


def unavailable() -> str | None:
    """Return why folders can't be targets here."""
    if not hasattr(os, "O_DIRECT"):
        return "this system has no O_DIRECT"
    return threads.available()


@dataclass(slots=True)
class DirTarget(Bookkeeper):
    """A folder of 256 subfolders, with an object's file in the one that its key is hashed to."""

    spec: TargetSpec
    facts: FolderFacts
    deletes = True
    earlier_run_id: int | None = None
    populated: str | None = None
    _descriptor: int = -1
    _marker: Marker | None = None
    _longest_bytes: int = 0
    _made: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Path, file system, and what is made durable."""
        return (
            f"{utf8(self.facts.path)} (folder on {self.facts.file_system}, a file per object, "
            f"fsync {self.spec.fsync.name.lower()})"
        )

    @property
    def device(self) -> Path | None:
        """The sysfs directory of the device that the folder is on."""
        return self.facts.sysfs

    def space(self) -> Space:
        """Return space without end: what fits is checked when the need is known."""
        align = max(self.facts.align_bytes, self.spec.extent_align_bytes or 0)
        return Space(align, unbounded=True, per_object=True)

    def authorise(self, *, writes: bool) -> None:
        """Return if it may be written, or is only read."""
        if writes:
            folder.check_ours(self.facts)
        elif self.facts.new:
            raise TargetError(
                "no such directory, and the run writes nothing", where=self.facts.path
            )

    def reserve(self, need: Need) -> Space:
        """Return space. Raises TargetError if an object is too long, or too little is free."""
        if need.longest_bytes > OBJECT_BYTES_MAX:
            raise TargetError(
                "an object is too long: each goes in one I/O",
                where=self.facts.path,
                got=format_bytes(need.longest_bytes),
                accepted=f"up to {format_bytes(OBJECT_BYTES_MAX)}",
                hint="use --device, where objects go in pieces",
            )
        folder.check_free(self.facts, need.size_bytes, need.live_objects_max)
        self._longest_bytes = need.longest_bytes
        return self.space()

    def open(self, space: Space, mark: RunMark, *, writes: bool) -> None:
        """Open it, or make it; remove earlier objects. Leaves nothing behind if that fails."""
        with ExitStack() as undo:
            undo.callback(self._undo)
            try:
                self._open(writes=writes)
                if writes:
                    self._take_over(space, mark)
            except OSError as error:
                raise TargetError(
                    f"can't be opened: {error.strerror}", where=self.facts.path
                ) from error
            undo.pop_all()

    def _open(self, *, writes: bool) -> None:
        if self.facts.new:
            self.facts.path.mkdir(mode=0o700)
            self._made.append("")
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self.facts.path, flags)
        preflight.lock(self._descriptor, self.facts.path, writes=writes)
        folder.recheck(self.facts, self._descriptor)

    def _take_over(self, space: Space, mark: RunMark) -> None:
        """Try direct I/O, then mark the folder as ours, and empty it of earlier objects."""
        self._probe(space.align_bytes)
        old = self.facts.marker
        kept = None
        if old is not None and (old.run_id, old.trace_sha256) == (mark.run_id, mark.trace_sha256):
            kept = old.populated  # this run's own population, which it may take as it is
        self._marker = Marker(mark.run_id, mark.trace_sha256, space.align_bytes, 0, 0, 0)
        self._marker = replace(self._marker, populated=kept)
        self.populated = kept
        folder.write_marker(self._descriptor, self._marker)
        self._made += folder.make_subfolders(self._descriptor, self.facts.path)
        if kept is None:
            folder.remove_objects(self._descriptor)

    def _probe(self, align_bytes: int) -> None:
        """Return if files in the folder do direct I/O with that alignment."""
        name = folder.temporary_name("probe")
        # Created and then opened: without direct I/O one call would fail and leave the file.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        made = False
        try:
            os.close(os.open(name, flags, 0o600, dir_fd=self._descriptor))
            made = True
            direct = os.O_RDWR | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC
            probe = os.open(name, direct, dir_fd=self._descriptor)
            try:
                alignment = statx.direct_align(probe)
            finally:
                os.close(probe)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a file system without direct I/O
                raise preflight.no_direct_io(self.facts.path, "EINVAL on opening a file") from error
            raise
        finally:
            if made:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._descriptor)
        needed = 0 if alignment is None else max(alignment.offset_bytes, alignment.memory_bytes)
        if alignment is not None and not needed:
            raise preflight.no_direct_io(self.facts.path, "a file system without direct I/O")
        if needed > align_bytes:
            raise TargetError(
                "direct I/O needs a larger alignment here",
                where=self.facts.path,
                got=format_bytes(align_bytes),
                hint=f"use --extent-align {needed}",
            )

    def _undo(self) -> None:
        """Remove what opening has made, and nothing else."""
        if self._marker is not None and self.facts.marker is None:
            with suppress(OSError):
                os.unlink(folder.MARKER_NAME, dir_fd=self._descriptor)
        for name in reversed(self._made):
            with suppress(OSError):
                (self.facts.path / name).rmdir()
        self.close()

    def recheck(self) -> None:
        """Raise TargetError if its marker isn't the one that this run has left there."""
        if self._marker is not None:
            folder.check_marked(self._descriptor, self._marker, self.title)

    def lane(self, queue_depth: int, io_bytes: int) -> Lane:
        """Return a lane on the open folder, each object in one I/O."""
        assert self._descriptor >= 0
        return Lane(
            LaneKind.DIR,
            queue_depth,
            max(io_bytes, self._longest_bytes),
            fd=self._descriptor,
            fsync=self.spec.fsync,
            end_bytes=self._longest_bytes,
        )

    def note_populated(self, digest: str | None) -> None:
        """Note it in the marker."""
        if self._marker is not None and self._marker.populated != digest:
            self._marker = replace(self._marker, populated=digest)
            self.populated = digest
            try:
                folder.write_marker(self._descriptor, self._marker)
            except OSError as error:
                raise TargetError(f"can't write: {error.strerror}", where=self.title) from error

    def flush(self) -> None:
        """Return when what was written is on the device, names included."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(self._descriptor):
            reason = os.strerror(ctypes.get_errno())
            raise TargetError(f"can't flush: {reason}", where=self.title)

    def close(self) -> None:
        """Close the folder; another run may have it then."""
        if self._descriptor >= 0:
            preflight.unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def make(spec: TargetSpec) -> DirTarget:
    """Return the target at `spec.path`, looked at and not touched. Raises TargetError."""
    if spec.path is None:
        raise UsageError("target dir needs a path", where="--dir")
    facts = folder.look(spec.path)
    marker = facts.marker
    if marker is None:
        return DirTarget(spec, facts)
    return DirTarget(spec, facts, marker.run_id, marker.populated)
