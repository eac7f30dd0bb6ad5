"""The memory of a GPU, by torch: copies between pinned host memory and a pool on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from kvtrace.errors import TargetError
from kvtrace.fields import Option, Section
from kvtrace.placement.extents import Need, Space, pool_space
from kvtrace.trace.schema import Tier
from kvtrace.units import US_NS, format_bytes
from replay.engine.native import threads
from replay.engine.native.mailbox import Mailbox
from replay.ops.contract import Lane, LaneKind
from replay.targets import Bookkeeper
from replay.targets.support import accelerator, declared
from replay.targets.support.copier import Copier

if TYPE_CHECKING:
    from pathlib import Path

    from replay.targets import RunMark, TargetSpec
    from replay.targets.support.accelerator import Device

TIERS = (Tier.GPU,)
_ALIGN_BYTES = 4096
_USABLE_RATIO = 0.95
_DEFAULT_UNIT = "cuda:0"
UNIT = r"^cuda:\d+$"
_MAILBOX_JOBS = 1 << 16
"""More than the I/Os that all of a lane's threads may have in flight at once."""


class Options(Section):
    """Which GPU it is."""

    unit: Annotated[str, Option("GPU, as torch names it.", takes="cuda:N"), Field(pattern=UNIT)] = (
        _DEFAULT_UNIT
    )
    extent_align_bytes: declared.ExtentAlign = None


def unavailable() -> str | None:
    """Return why no GPU can be used here."""
    return threads.available() or accelerator.unavailable()


@dataclass(slots=True)
class CudaTarget(Bookkeeper):
    """A pool on a GPU, of the size that the trace needs, and a thread that copies."""

    spec: TargetSpec
    gpu: Device
    device: Path | None = None
    _size_bytes: int = 0
    _mailbox: Mailbox | None = None
    _copier: Copier | None = None

    @property
    def title(self) -> str:
        """Unit, model, size, and how far times may be off."""
        if self._copier is None:
            return self.gpu.title
        error_us = -(-self._copier.error_ns // US_NS)
        pool = format_bytes(self._size_bytes)
        staged = ", through staging buffers" if self._copier.staged else ""
        return f"{self.gpu.title}, pool of {pool}, times ± {error_us} µs{staged}"

    def space(self) -> Space:
        """Return space for what is needed."""
        return Space(self.spec.extent_align_bytes or _ALIGN_BYTES, 0, self.spec.size_bytes)

    def authorise(self, *, writes: bool) -> None:
        """Nothing can be harmed."""

    def reserve(self, need: Need) -> Space:
        """Return space for what is needed. Raises TargetError if the GPU hasn't as much."""
        space = pool_space(self.space(), need)
        usable = int(self.gpu.free_bytes() * _USABLE_RATIO)
        if (size := space.size_bytes or 0) > usable:
            raise TargetError(
                "the trace needs more memory than the GPU has free",
                where=self.gpu.title,
                got=f"{format_bytes(size)} needed: {need.text}",
                accepted=f"{format_bytes(usable)}, {_USABLE_RATIO:.0%} of what is free",
                hint="record with a smaller --gpu-mem, or use --gpu none",
            )
        return space

    def open(self, space: Space, mark: RunMark, *, writes: bool) -> None:
        """Take the pool and begin to copy. Raises TargetError."""
        assert space.size_bytes is not None
        try:
            self.gpu.allocate(space.size_bytes)
            self._size_bytes = space.size_bytes
            self._mailbox = Mailbox(_MAILBOX_JOBS)
            copier = Copier(self.gpu, self._mailbox)
            copier.start()
        except RuntimeError as error:
            self.close()
            raise TargetError(
                "can't use the GPU", where=self.gpu.title, got=str(error).partition("\n")[0]
            ) from error
        self._copier = copier

    def lane(self, queue_depth: int, io_bytes: int) -> Lane:
        """Return a lane whose ops the copier does."""
        assert self._copier is not None
        assert self._mailbox is not None
        self._copier.io_bytes = max(self._copier.io_bytes, io_bytes)
        return Lane(
            LaneKind.EXTERNAL,
            queue_depth,
            io_bytes,
            mailbox=self._mailbox.address,
            end_bytes=self._size_bytes,
        )

    def close(self) -> None:
        """End the copier and free the pool."""
        if self._copier is not None:
            self._copier.stop()
            self._copier = None
        if self._mailbox is not None:
            self._mailbox.release()
            self._mailbox = None
            self.gpu.close()


def make(spec: TargetSpec) -> CudaTarget:
    """Return the target on the GPU that `spec.unit` names. Raises TargetError."""
    return CudaTarget(spec, accelerator.open_device(spec.unit or _DEFAULT_UNIT))
