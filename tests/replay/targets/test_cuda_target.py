"""A GPU as a target: with a fake one all of it, with torch what this machine has."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import replay
from kvtrace import plugins
from kvtrace.errors import TargetError
from kvtrace.placement.extents import Need
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions, TargetSpec, targets
from replay.engine.native.mailbox import Job, Request
from replay.targets import RunMark
from replay.targets.cuda import CudaTarget
from replay.targets.support import accelerator
from replay.targets.support.copier import STAGING_SLOTS, Copier
from tests.support.fake_cuda import EPOCH_NS, FakeCuda
from tests.support.traces import MIB, Row, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Quick = Callable[..., ReplayOptions]

R, W, D = Op.READ, Op.WRITE, Op.DELETE
NOT_OURS = {"host_lateness", "device_shared"}
GPU = TargetSpec("cuda", (Tier.GPU,), unit="cuda:0")
HAS_TORCH = importlib.util.find_spec("torch") is not None


def reasons(result: replay.Result) -> set[str]:
    """Return why a result is INVALID, less what the test machine is to blame for."""
    return {reason.code for reason in result.verdict.reasons} - NOT_OURS


def gpu_rows(objects: int = 20, size: int = 48 << 10) -> list[Row]:
    """Return rows of objects that are written, read twice and deleted; and one that was there."""
    ops = [(W, Phase.PREFILL), (R, Phase.DECODE), (R, Phase.DECODE), (D, Phase.EVICT)]
    rows = [(op, phase, key) for key in range(objects) for op, phase in ops]
    rows.append((R, Phase.DECODE, 999))
    return [
        (i * 200_000, op, Tier.GPU, key, phase, size) for i, (op, phase, key) in enumerate(rows)
    ]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeCuda], FakeCuda]:
    """Let targets find a fake GPU."""

    def install(fake: FakeCuda) -> FakeCuda:
        monkeypatch.setattr(accelerator, "open_device", lambda unit: fake)
        return fake

    return install


@pytest.mark.slow
@pytest.mark.parametrize("pins", [True, False])
@pytest.mark.parametrize("mode", ["open", "max"])
def test_a_run_is_valid_end_to_end(
    tmp_path: Path, quick: Quick, use: Callable[[FakeCuda], FakeCuda], mode: str, pins: bool
) -> None:
    """Populate, write, read, verify, with the loop's memory pinned or through staging buffers."""
    fake = use(FakeCuda(pins=pins))
    trace = write_trace(tmp_path / "t.parquet", gpu_rows(size=200_000))
    options = quick(mode=mode, verify="full", io_size_bytes=64 << 10)
    result = replay.run(trace, [GPU], options)
    assert reasons(result) == set()
    assert (result.ops, result.errors, result.payload.verified_ops) == (81, {}, 41)
    assert result.fidelity.order_violations == 0
    assert fake.copies == 62 * 4
    assert (fake.staged > 0, fake.staged <= STAGING_SLOTS) == (not pins, True)
    assert fake.pinned == {}, "memory is still pinned after it was freed"
    assert fake.closed
    title = result.lanes[0].title
    assert title.startswith("cuda:0 (fake), pool of")
    assert "times ± " in title
    assert ("through staging buffers" in title) == (not pins)


def test_several_loop_threads_share_a_copier(
    tmp_path: Path, quick: Quick, use: Callable[[FakeCuda], FakeCuda]
) -> None:
    """The arena is pinned once, whoever uses it, and released with the last."""
    fake = use(FakeCuda())
    trace = write_trace(tmp_path / "t.parquet", gpu_rows())
    result = replay.run(trace, [GPU], quick(threads=3, mode="max", verify="full"))
    assert reasons(result) == set()
    assert fake.pinned == {}


def test_times_are_those_of_the_device(
    tmp_path: Path, quick: Quick, use: Callable[[FakeCuda], FakeCuda]
) -> None:
    """A copy's service time is what the device's clock says, not when somebody noticed."""
    use(FakeCuda(copy_ns=2_000_000))
    trace = write_trace(tmp_path / "t.parquet", gpu_rows(3)[:2])
    result = replay.run(trace, [GPU], quick())
    table = result.table()
    service = (table["complete"] - table["submit"]).to_numpy()
    assert (np.abs(service - 2_000_000) < 1_000_000).all()


@pytest.mark.slow
@pytest.mark.parametrize(("faults", "late"), [((3,), ()), ((), (3,))])
@pytest.mark.parametrize("pins", [True, False])
def test_a_failed_copy_is_a_failed_op(
    tmp_path: Path,
    quick: Quick,
    use: Callable[[FakeCuda], FakeCuda],
    faults: tuple[int, ...],
    late: tuple[int, ...],
    pins: bool,
) -> None:
    """What the device refuses, at once or later, is EIO; the run goes on."""
    fake = use(FakeCuda(faults=faults, late_faults=late, pins=pins))
    trace = write_trace(tmp_path / "t.parquet", gpu_rows(6))
    result = replay.run(trace, [GPU], quick(mode="max", queue_depth=1))
    assert "failed_ops" in reasons(result)
    assert result.errors["EIO"] == 1
    assert fake.closed


def test_a_gpu_that_is_too_small_is_refused(
    tmp_path: Path, quick: Quick, use: Callable[[FakeCuda], FakeCuda]
) -> None:
    """Before anything is taken, with both figures; and when others take it meanwhile."""
    use(FakeCuda(memory_bytes=MIB))
    rows: list[Row] = [(i, W, Tier.GPU, i, Phase.PREFILL, MIB) for i in range(3)]
    trace = write_trace(tmp_path / "t.parquet", rows)
    with pytest.raises(TargetError, match=r"more memory than the GPU has.*3\.15 MiB needed"):
        replay.run(trace, [GPU], quick())
    fake = FakeCuda()
    target = CudaTarget(GPU, fake)
    space = target.reserve(Need(1, 16 * MIB, 16 * MIB))
    fake.memory_bytes = MIB
    with pytest.raises(TargetError, match=r"can't use the GPU.*CUDA out of memory"):
        target.open(space, RunMark(1, ""), writes=True)
    target.close()


def test_a_clock_that_fails_ends_the_opening() -> None:
    """A device that doesn't answer is an error of the target, and no thread is left."""

    class Mute(FakeCuda):
        def instant(self) -> Any:
            raise RuntimeError("CUDA error: device-side assert triggered")

    fake = Mute()
    target = CudaTarget(GPU, fake)
    with pytest.raises(TargetError, match="device-side assert"):
        target.open(target.reserve(Need(1, MIB, MIB)), RunMark(1, ""), writes=True)
    assert fake.closed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_copier_that_breaks_lets_nobody_wait(
    tmp_path: Path, quick: Quick, use: Callable[[FakeCuda], FakeCuda]
) -> None:
    """A mistake in its own code: all ops end, as failed, and the run returns."""

    class Wrong(FakeCuda):
        def done(self, event: Any) -> bool:
            if self.copies > 5:
                raise ValueError("a bug")
            return super().done(event)

    use(Wrong())
    trace = write_trace(tmp_path / "t.parquet", gpu_rows(6))
    result = replay.run(trace, [GPU], quick(mode="max"))
    assert "failed_ops" in reasons(result)
    assert set(result.errors) >= {"EIO", "ECANCELED"} or "EIO" in result.errors


def test_memory_that_cannot_be_used_ends_the_run(
    tmp_path: Path, quick: Quick, use: Callable[[FakeCuda], FakeCuda]
) -> None:
    """What can't even be staged: an error before the clock starts."""

    class Deaf(FakeCuda):
        def host(self, address: int, size_bytes: int) -> NDArray[np.uint8]:
            raise RuntimeError("CUDA error: invalid argument")

    use(Deaf())
    trace = write_trace(tmp_path / "t.parquet", gpu_rows(2))
    with pytest.raises(TargetError, match=r"mailbox of lane 0.*Input/output error"):
        replay.run(trace, [GPU], quick())


class Answers:
    """A mailbox that keeps the answers it gets."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[int, int, int]] = {}

    def done(self, job: Job, result: int, submit_ns: int, complete_ns: int) -> None:
        self.found[job.piece] = (result, submit_ns, complete_ns)


class Hand:
    """A clock that is moved by hand; each look takes `step_ns`."""

    def __init__(self, step_ns: int = 0) -> None:
        self.at_ns, self.step_ns = 1_000_000_000, step_ns

    def __call__(self) -> int:
        self.at_ns += self.step_ns
        return self.at_ns


def by_hand(
    copy_ns: int, step_ns: int = 0, **fake: Any
) -> tuple[Hand, FakeCuda, Copier, Answers, NDArray[np.uint8]]:
    """Return a copier whose time stands still, with 1 MiB of memory that it knows of."""
    hand, answers = Hand(step_ns), Answers()
    device = FakeCuda(copy_ns, now_ns=hand, **fake)
    device.allocate(MIB)
    copier = Copier(device, answers, hand, io_bytes=4096)  # type: ignore[arg-type]
    memory = np.arange(MIB, dtype=np.uint32).view(np.uint8)[:MIB].copy()
    copier.take(Job(99, Request.MEMORY, 0, 0, MIB, memory.ctypes.data))
    return hand, device, copier, answers, memory


def job(piece: int, request: Request, memory: NDArray[np.uint8], at: int = 0) -> Job:
    return Job(piece, request, piece, at, 4096, memory.ctypes.data + at)


def test_copies_of_a_direction_queue_and_directions_overlap() -> None:
    """In time that is moved by hand: three copies in end one after the other, one out beside."""
    hand, _, copier, answers, memory = by_hand(1000)
    start = hand.at_ns
    for piece in range(3):
        copier.take(job(piece, Request.WRITE, memory, piece * 4096))
    copier.take(job(3, Request.READ, memory, 512 << 10))
    copier.finish()
    assert set(answers.found) == {99}
    hand.at_ns += 10_000
    copier.finish()
    assert answers.found[0] == (4096, start, start + 1000)
    assert answers.found[1] == (4096, start, start + 2000)
    assert answers.found[2] == (4096, start, start + 3000)
    assert answers.found[3] == (4096, start, start + 1000)
    copier.take(Job(98, Request.FORGET, 0, 0, MIB, memory.ctypes.data))
    assert answers.found[98][0] == 0


def test_the_clocks_are_tied_again_and_the_error_is_kept() -> None:
    """After a while another instant is asked for; the error is half the longest call."""
    hand, device, copier, answers, memory = by_hand(1000, step_ns=300)
    ties: list[int] = []
    instant = device.instant

    def counted() -> Any:
        ties.append(hand.at_ns)
        return instant()

    device.instant = counted  # type: ignore[method-assign]
    for piece in range(4):
        hand.at_ns += 60_000_000
        copier.take(job(piece, Request.WRITE, memory))
        hand.at_ns += 1_000_000
        copier.finish()
    assert len(ties) == 2
    assert 300 <= copier.error_ns <= 301  # and drift
    for piece in range(4):
        result, submit_ns, complete_ns = answers.found[piece]
        assert result == 4096
        assert abs(complete_ns - submit_ns - 1000) <= 2 * 300 + copier.error_ns


def test_a_tie_that_took_long_is_not_taken() -> None:
    """Where asking for an instant takes milliseconds, the tie before it stands, with its drift."""
    hand, device, copier, answers, memory = by_hand(1000, step_ns=300)
    copier.take(job(0, Request.WRITE, memory))
    instant = device.instant

    def slow() -> Any:
        hand.at_ns += 2_000_000
        event = instant()
        hand.at_ns += 3_000_000
        return event

    device.instant = slow  # type: ignore[method-assign]
    hand.at_ns += 200_000_000
    copier.take(job(1, Request.WRITE, memory))
    hand.at_ns += 1_000_000
    copier.finish()
    _, submit_ns, complete_ns = answers.found[1]
    assert abs(complete_ns - submit_ns - 1000) <= 2 * 300 + copier.error_ns
    assert copier.error_ns < 5_000  # 300 ns, and 200 ms at 20 ppm


def test_without_slots_jobs_wait_in_order() -> None:
    """Memory that can't be pinned: so many copies at once as there are slots, then the next."""
    hand, device, copier, _, memory = by_hand(1000, pins=False)
    for piece in range(STAGING_SLOTS + 3):
        copier.take(job(piece, Request.WRITE, memory, piece * 4096))
    assert (device.copies, device.staged) == (STAGING_SLOTS, STAGING_SLOTS)
    expected = memory[: (STAGING_SLOTS + 3) * 4096].copy()
    for _ in range(STAGING_SLOTS + 3):
        hand.at_ns += 100_000
        copier.finish()
    assert device.copies == STAGING_SLOTS + 3
    assert (device.pool[: len(expected)] == expected).all()
    memory[:] = 0
    copier.take(job(50, Request.READ, memory))
    hand.at_ns += 100_000
    copier.finish()
    assert (memory[:4096] == expected[:4096]).all()
    assert not memory[4096:].any()


def test_a_delete_costs_nothing() -> None:
    """There is nothing to do for it on a pool."""
    hand, device, copier, answers, _ = by_hand(1000)
    copier.take(Job(1, Request.DELETE, 5, 0, 1 << 40, 0))
    assert answers.found[1] == (1 << 40, hand.at_ns, hand.at_ns)
    assert device.copies == 0
    assert EPOCH_NS > 0


def test_what_the_device_said_is_kept() -> None:
    """The first message of several."""
    _, _, copier, answers, memory = by_hand(1000, faults=(0, 1))
    copier.take(job(1, Request.WRITE, memory))
    copier.take(job(2, Request.READ, memory))
    assert answers.found[1][0] == answers.found[2][0] == -errno.EIO
    assert "illegal memory access" in copier.failure


def fake_torch(*, cuda: bool, built: str | None, count: int = 1) -> Any:
    return SimpleNamespace(
        __version__="9.9",
        version=SimpleNamespace(cuda=built),
        cuda=SimpleNamespace(is_available=lambda: cuda, device_count=lambda: count),
    )


def pretend(monkeypatch: pytest.MonkeyPatch, torch: Any, *, there: bool = True) -> None:
    """Let `torch` be the module of that name; None can't be loaded."""
    find = importlib.util.find_spec

    def found(name: str, *more: Any) -> Any:
        return (object() if there else None) if name == "torch" else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setitem(sys.modules, "torch", torch)


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        (None, "torch isn't installed"),
        (fake_torch(cuda=False, built=None), "no CUDA device that torch 9.9 sees, .*without CUDA"),
        (fake_torch(cuda=False, built="13.0"), "no CUDA device that torch 9.9 sees$"),
    ],
)
def test_why_there_is_no_gpu_is_said(
    monkeypatch: pytest.MonkeyPatch, torch: Any, said: str
) -> None:
    """Listed as unavailable with the reason, and the same reason on use."""
    pretend(monkeypatch, torch, there=torch is not None)
    reason = plugins.unavailable(plugins.load(plugins.TARGET, "cuda"))
    assert reason is not None
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(reason)
    with pytest.raises(TargetError, match="there is no GPU to use"):
        targets.make(GPU)


def test_a_torch_that_cannot_be_loaded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is missing: the reason is the loader's."""
    pretend(monkeypatch, None)  # importing it raises ImportError
    assert "torch can't be loaded" in (accelerator.unavailable() or "")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names those that are."""
    pretend(monkeypatch, fake_torch(cuda=True, built="13.0", count=2))
    with pytest.raises(TargetError, match=r"cuda:7.*no such GPU.*cuda:0, cuda:1"):
        targets.make(TargetSpec("cuda", (Tier.GPU,), unit="cuda:7"))


@pytest.mark.skipif(not HAS_TORCH, reason="torch isn't installed")
def test_the_torch_that_is_here_is_asked() -> None:
    """What `list` says is what torch finds."""
    import torch  # type: ignore[import-not-found, unused-ignore]

    reason = accelerator.unavailable()
    assert (reason is None) == torch.cuda.is_available()
    assert reason is None or "no CUDA device" in reason


class CpuTorch:
    """Torch's tensors on the CPU, with streams and events that do nothing: the calls fit."""

    def __init__(self) -> None:
        self._torch = importlib.import_module("torch")
        self.uint8, self.frombuffer = self._torch.uint8, self._torch.frombuffer
        self.registered: set[int] = set()
        event = SimpleNamespace(
            record=lambda stream: None,
            query=lambda: True,
            synchronize=lambda: None,
            elapsed_time=lambda end: 0.0015,
        )
        self.cuda = SimpleNamespace(
            Stream=lambda device: None,
            Event=lambda enable_timing: event,
            stream=lambda stream: nullcontext(),
            device=lambda device: nullcontext(),
            get_device_name=lambda index: "a CPU",
            mem_get_info=lambda device: (5, 9),
            synchronize=lambda device: None,
            empty_cache=lambda: None,
            cudart=lambda: SimpleNamespace(
                cudaHostRegister=lambda address, size, flags: self.registered.add(address) or 0,
                cudaHostUnregister=self.registered.remove,
            ),
        )

    def device(self, kind: str, index: int) -> Any:
        return self._torch.device("cpu")

    def empty(self, size: int, *, pin_memory: bool = False, **others: Any) -> Any:
        return self._torch.empty(size, **others)


@pytest.mark.skipif(not HAS_TORCH, reason="torch isn't installed")
def test_calls_of_torch_are_as_torch_wants_them() -> None:
    """Views, copies and registering, with real tensors: a byte goes in and out again."""
    torch = CpuTorch()
    gpu = accelerator.CudaDevice(torch, 0)
    assert (gpu.title, gpu.free_bytes()) == ("cuda:0 (a CPU)", 5)
    gpu.allocate(8192)
    memory = np.arange(4096, dtype=np.uint16).view(np.uint8)
    address = memory.ctypes.data
    assert gpu.pin(address, len(memory))
    assert torch.registered == {address}
    expected = memory[100:4196].copy()
    host = gpu.host(address, len(memory))
    assert gpu.done(gpu.copy_in(512, host, 100, 4096))
    staging, there = gpu.staging(4096)
    assert gpu.elapsed_ns(gpu.instant(), gpu.copy_out(512, staging, 0, 4096)) == 1500
    assert (there == expected).all()
    memory[:] = 0
    gpu.copy_out(512, host, 100, 4096)
    assert (memory[100:4196] == expected).all()
    gpu.unpin(address)
    assert torch.registered == set()
    gpu.close()


@pytest.mark.skipif(accelerator.unavailable() is not None, reason=str(accelerator.unavailable()))
def test_a_run_on_a_real_gpu(tmp_path: Path, quick: Quick) -> None:
    """All bytes come back, through pinned memory."""
    trace = write_trace(tmp_path / "t.parquet", gpu_rows(200, 3 * MIB))
    result = replay.run(trace, [GPU], quick(mode="max", verify="full"))
    assert reasons(result) == set()
    assert result.payload.verified_ops == 401
    assert result.fidelity.order_violations == 0
