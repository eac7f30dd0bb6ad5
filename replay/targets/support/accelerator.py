"""Everything that is asked of torch, in one place: the memory of a GPU, copies, events."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Protocol

from kvtrace.errors import TargetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PORTABLE = 1
"""cudaHostRegisterPortable: as torch itself registers memory."""


class Device(Protocol):
    """What a copier needs of a device. `Any` is the device's own: host memory, events.

    All calls but the first three come from one thread. Whatever fails raises RuntimeError.
    """

    @property
    def title(self) -> str:
        """Unit and model, for people."""
        ...

    def free_bytes(self) -> int:
        """Return how much memory could be allocated."""
        ...

    def allocate(self, size_bytes: int) -> None:
        """Take the pool that copies go to and come from."""
        ...

    def host(self, address: int, size_bytes: int) -> Any:
        """Return memory of the process as the device knows it."""
        ...

    def pin(self, address: int, size_bytes: int) -> bool:
        """Let the device reach memory of the process by itself; False if that is refused."""
        ...

    def unpin(self, address: int) -> None:
        """Take that back; the memory may be freed then."""
        ...

    def staging(self, size_bytes: int) -> tuple[Any, NDArray[np.uint8]]:
        """Return pinned memory, as the device knows it and as bytes."""
        ...

    def copy_in(self, offset: int, host: Any, begin: int, length: int) -> Any:
        """Start a copy from host memory to the pool; return an event at its end."""
        ...

    def copy_out(self, offset: int, host: Any, begin: int, length: int) -> Any:
        """Start a copy from the pool to host memory; return an event at its end."""
        ...

    def done(self, event: Any) -> bool:
        """Return whether the copy before an event is over. Doesn't wait."""
        ...

    def instant(self) -> Any:
        """Return an event that happened during the call."""
        ...

    def elapsed_ns(self, begin: Any, end: Any) -> int:
        """Return the time between two events by the device's clock."""
        ...

    def close(self) -> None:
        """Free the pool and the pinned memory."""
        ...


def unavailable() -> str | None:
    """Return why no GPU can be used here, or None. Imports torch if it is there."""
    if importlib.util.find_spec("torch") is None:
        return "torch isn't installed (pip install torch)"
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return f"torch can't be loaded: {error}"
    if torch.cuda.is_available():
        return None
    built = "" if torch.version.cuda else ", which is built without CUDA"
    return f"no CUDA device that torch {torch.__version__} sees{built}"


def open_device(unit: str) -> Device:
    """Return the device that torch calls `unit` (cuda:0). Raises TargetError."""
    reason = unavailable()
    if reason is not None:
        raise TargetError("there is no GPU to use", where=unit, got=reason, hint="use --gpu none")
    torch = importlib.import_module("torch")
    index, count = int(unit.partition(":")[2] or 0), torch.cuda.device_count()
    if index >= count:
        raise TargetError(
            "no such GPU", where=unit, accepted=", ".join(f"cuda:{known}" for known in range(count))
        )
    return CudaDevice(torch, index)


class CudaDevice:
    """A GPU through torch. One side stream per direction, so that copies overlap."""

    def __init__(self, torch: Any, index: int) -> None:
        self._torch = torch
        self._device = torch.device("cuda", index)
        self._in, self._out, self._idle = (torch.cuda.Stream(self._device) for _ in range(3))
        self._pool: Any = None
        self._pinned: list[Any] = []
        self.title = f"cuda:{index} ({torch.cuda.get_device_name(index)})"

    def free_bytes(self) -> int:
        """Return how much memory could be allocated."""
        return int(self._torch.cuda.mem_get_info(self._device)[0])

    def allocate(self, size_bytes: int) -> None:
        """Take the pool; it is on the device when this returns."""
        torch = self._torch
        self._pool = torch.empty(size_bytes, dtype=torch.uint8, device=self._device)
        torch.cuda.synchronize(self._device)

    def host(self, address: int, size_bytes: int) -> Any:
        """Return a tensor over memory of the process."""
        memory = (ctypes.c_ubyte * size_bytes).from_address(address)
        return self._torch.frombuffer(memory, dtype=self._torch.uint8)

    def pin(self, address: int, size_bytes: int) -> bool:
        """Register memory with CUDA; False if that is refused (a limit on locked memory)."""
        with self._torch.cuda.device(self._device):
            cudart = self._torch.cuda.cudart()
            return int(cudart.cudaHostRegister(address, size_bytes, _PORTABLE)) == 0

    def unpin(self, address: int) -> None:
        """Unregister it."""
        with self._torch.cuda.device(self._device):
            self._torch.cuda.cudart().cudaHostUnregister(address)

    def staging(self, size_bytes: int) -> tuple[Any, NDArray[np.uint8]]:
        """Return a pinned tensor and its bytes."""
        with self._torch.cuda.device(self._device):
            made = self._torch.empty(size_bytes, dtype=self._torch.uint8, pin_memory=True)
        self._pinned.append(made)
        return made, made.numpy()

    def copy_in(self, offset: int, host: Any, begin: int, length: int) -> Any:
        """Start a copy to the pool on its own stream."""
        place = self._pool.narrow(0, offset, length)
        return self._copy(self._in, place, host.narrow(0, begin, length))

    def copy_out(self, offset: int, host: Any, begin: int, length: int) -> Any:
        """Start a copy from the pool on its own stream."""
        place = self._pool.narrow(0, offset, length)
        return self._copy(self._out, host.narrow(0, begin, length), place)

    def _copy(self, stream: Any, target: Any, source: Any) -> Any:
        with self._torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        return self._record(stream)

    def _record(self, stream: Any) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def done(self, event: Any) -> bool:
        """Return whether everything before the event is over."""
        return bool(event.query())

    def instant(self) -> Any:
        """Record an event on a stream where nothing else is, and wait for it."""
        event = self._record(self._idle)
        event.synchronize()
        return event

    def elapsed_ns(self, begin: Any, end: Any) -> int:
        """Return the time between two events; in steps of 0.5 µs."""
        return int(begin.elapsed_time(end) * 1e6)

    def close(self) -> None:
        """Free the pool and the pinned memory."""
        self._pool = None
        self._pinned.clear()
        self._torch.cuda.empty_cache()
