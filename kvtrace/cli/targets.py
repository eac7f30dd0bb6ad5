"""From the options of a replay that name targets to what they ask for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvtrace.errors import UsageError, unknown_name
from kvtrace.trace.schema import Tier
from replay import TargetSpec
from replay.ops.contract import Fsync

if TYPE_CHECKING:
    from pathlib import Path


def target_specs(
    *,
    device: Path | None,
    size: int | None,
    target: str | None,
    cpu: str,
    gpu: str,
    folder: Path | None,
    fsync: str,
    trim: bool,
    extent_align: int | None,
    allow_destroy: str | None,
    allow_signature: tuple[str, ...],
) -> tuple[TargetSpec, ...]:
    """Return the targets that the options ask for. Raises UsageError."""
    _check_targets(target, cpu, gpu, device, folder)
    _check_options_of_targets(size, device, fsync, folder, trim=trim)
    if extent_align is not None and (extent_align <= 0 or extent_align & (extent_align - 1)):
        raise UsageError(
            "not a power of two", where="--extent-align", got=extent_align, accepted="e.g. 64KiB"
        )
    if target is not None:
        return (TargetSpec(target, tuple(Tier), extent_align_bytes=extent_align),)
    specs = []
    if gpu != "none":
        specs.append(TargetSpec("cuda", (Tier.GPU,), unit=gpu, extent_align_bytes=extent_align))
    if cpu == "memory":
        specs.append(TargetSpec("memory", (Tier.CPU,), extent_align_bytes=extent_align))
    if device is not None:
        specs.append(
            TargetSpec(
                "file",
                (Tier.NVME,),
                device,
                size,
                extent_align,
                allow_destroy,
                allow_signature,
                trim=trim,
            )
        )
    if folder is not None:
        policy = Fsync[fsync.upper()]
        specs.append(
            TargetSpec("dir", (Tier.NVME,), folder, extent_align_bytes=extent_align, fsync=policy)
        )
    return tuple(specs)


def _check_targets(
    target: str | None, cpu: str, gpu: str, device: Path | None, folder: Path | None
) -> None:
    if cpu not in ("memory", "none"):
        raise unknown_name("target of tier cpu", cpu, ("memory", "none"), where="--cpu")
    if gpu != "none" and not re.fullmatch(r"cuda:\d+", gpu):
        raise unknown_name("target of tier gpu", gpu, ("cuda:0", "none"), where="--gpu")
    if target not in (None, "null"):
        raise unknown_name("target", target or "", ("null",), where="--target")
    if device is not None and folder is not None:
        raise UsageError("two targets for tier nvme", got="--device and --dir", hint="name one")
    others = (device, folder, None if cpu == "none" else cpu, None if gpu == "none" else gpu)
    if target is not None and any(other is not None for other in others):
        raise UsageError(
            "--target null stands for all tiers",
            got="--device, --dir, --cpu or --gpu beside it",
            hint="take away one or the other",
        )
    if target is None and all(other is None for other in others):
        raise UsageError(
            "no target",
            accepted="--device PATH, --dir DIR, --cpu memory, --gpu cuda:N, --target null",
            hint="say where the trace is to be replayed",
        )


def _check_options_of_targets(
    size: int | None, device: Path | None, fsync: str, folder: Path | None, *, trim: bool
) -> None:
    if size is not None and (device is None or size <= 0):
        raise UsageError(
            "--size is the size of --device", got=size, accepted="a size above 0, and a --device"
        )
    if trim and device is None:
        raise UsageError("--trim needs a --device", hint="say which device or file")
    if fsync not in ("none", "file", "dir"):
        raise unknown_name("fsync policy", fsync, ("none", "file", "dir"), where="--fsync")
    if fsync != "none" and folder is None:
        raise UsageError("--fsync is for --dir", hint="name the folder")
