"""Wear of a drive by `nvme` (nvme-cli), where its log pages can't be read directly.

The pages themselves are `smart.py`'s: this is for what only nvme-cli can get at (a vendor's log),
and for systems on which it may ask and we may not.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from kvtrace.units import MIB
from replay.device.smart import KELVIN, UNIT_BYTES, Smart

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[[tuple[str, ...]], dict[str, Any] | None]

_LIMIT_S = 10
_INTEL_UNIT_BYTES = 32 * MIB
"""Source: "Data Center Family SMART Attributes" of Solidigm, attribute F4h."""
_INTEL_MODELS = ("INTEL", "SOLIDIGM")


def ask(words: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the JSON that `nvme` answers with these arguments; None if it can't be had."""
    program = shutil.which("nvme") or shutil.which("nvme", path="/usr/sbin:/sbin")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, *words], capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
        parsed = json.loads(answer.stdout) if answer.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return parsed if isinstance(parsed, dict) else None


def ask_nobody(words: tuple[str, ...]) -> dict[str, Any] | None:
    """Return None: for a moment at which starting programs would disturb."""
    del words
    return None


def _number(value: Any) -> int | None:
    """Return a number as nvme-cli writes it: plain, as text, in halves, or with its bits beside."""
    if isinstance(value, dict):
        if "lo" in value:
            return int(value.get("hi", 0)) << 64 | int(value["lo"])
        return _number(value.get("value"))
    try:
        return None if value is None else int(value)
    except ValueError:
        return None


def smart(controller: Path, ask: Ask = ask) -> Smart | None:
    """Return the health log of the controller at `controller`; None if it can't be had."""
    log = ask(("smart-log", "-o", "json", str(controller)))
    temperature_k = _number((log or {}).get("temperature"))
    if log is None or not temperature_k:
        return None

    def of(*names: str) -> int:
        return sum(_number(log.get(name)) or 0 for name in names)

    return Smart(
        critical_warning=of("critical_warning"),
        temperature_c=temperature_k - KELVIN,
        available_spare_percent=of("avail_spare"),
        used_percent=of("percent_used"),
        read_bytes=of("data_units_read") * UNIT_BYTES,
        written_bytes=of("data_units_written") * UNIT_BYTES,
        unsafe_shutdowns=of("unsafe_shutdowns"),
        media_errors=of("media_errors"),
        warm_minutes=of("warning_temp_time", "critical_comp_time"),
        thermal_throttles=of("thm_temp1_trans_count", "thm_temp2_trans_count"),
    )


def nand_written_bytes(controller: Path, model: str, ask: Ask = ask) -> int | None:
    """Return what reached the flash, from the OCP's log, or from Intel's on a drive of theirs.

    A vendor's command is undefined on other vendors' drives, and isn't sent to them.
    """
    log = ask(("ocp", "smart-add-log", "-o", "json", str(controller))) or {}
    for name in ("Physical media units written", "physical_media_units_written"):
        written = _number(log.get(name))
        if written is not None:
            return written
    if not model.upper().startswith(_INTEL_MODELS):
        return None
    stats = (ask(("intel", "smart-log-add", "--json", str(controller))) or {}).get("Device stats")
    units = _number(((stats or {}).get("nand_bytes_written") or {}).get("raw"))
    return None if units is None else units * _INTEL_UNIT_BYTES


def complete(known: Smart | None, controller: Path, model: str, ask: Ask = ask) -> Smart | None:
    """Return what is known, with what nvme-cli can add to it."""
    log = known or smart(controller, ask)
    if log is None or log.nand_written_bytes is not None:
        return log
    return log.with_nand(nand_written_bytes(controller, model, ask))
