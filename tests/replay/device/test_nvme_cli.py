"""A drive's wear as `nvme` tells it: from a program of that name that answers from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from replay.device import nvme_cli, smart
from replay.device import sysfs as device
from tests.support.sysfs import CONTROLLER, PCI, QUEUE, page, write

UNIT = 512_000
HEALTH = {
    "critical_warning": 4,
    "temperature": 313,
    "avail_spare": 100,
    "percent_used": 3,
    "data_units_read": 2**70,
    "data_units_written": 1000,
    "unsafe_shutdowns": 7,
    "media_errors": 2,
    "warning_temp_time": 3,
    "critical_comp_time": 1,
    "thm_temp1_trans_count": 4,
    "thm_temp2_trans_count": 1,
}
OCP = {"Physical media units written": {"hi": 1, "lo": 12345}}
INTEL = {"Device stats": {"nand_bytes_written": {"normalized": 100, "raw": 65_838}}}
CALLS = "calls"


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of answers: `smart-log`, `ocp`, `intel`; a missing one is an error of `nvme`'s."""
    folder = tmp_path / "nvme-cli"
    folder.mkdir()
    program = folder / "nvme"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/{CALLS}\nexec cat "{folder}/$1" 2>/dev/null\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def answer(folder: Path, **found: Any) -> None:
    """Let `nvme` answer so."""
    for name, value in found.items():
        (folder / name.replace("_", "-")).write_text(json.dumps(value))


def calls(folder: Path) -> list[str]:
    """Return what was asked."""
    path = folder / CALLS
    return path.read_text().splitlines() if path.exists() else []


DRIVE = Path("/dev/nvme9")


def test_the_health_log_of_nvme_cli_is_read(answers: Path) -> None:
    """Each figure is what the log page itself would have given."""
    answer(answers, smart_log=HEALTH)
    expected = smart.parse(page(written_units=1000, media_errors=2, throttles=5, warm_minutes=4))
    assert nvme_cli.smart(DRIVE) == expected
    assert calls(answers) == ["smart-log -o json /dev/nvme9"]


def test_numbers_may_be_text_or_have_their_bits_beside_them(answers: Path) -> None:
    """Versions of nvme-cli differ in how they write long numbers and the warning."""
    answer(
        answers,
        smart_log=HEALTH | {"critical_warning": {"value": 4}, "data_units_written": "1000"},
    )
    found = nvme_cli.smart(DRIVE)
    assert found is not None
    assert (found.critical_warning, found.written_bytes) == (4, 1000 * UNIT)


@pytest.mark.parametrize("text", ["", "no json", "[1]", "{}", '{"temperature": "warm"}'])
def test_what_is_no_health_log_is_unknown(answers: Path, text: str) -> None:
    """An answer that isn't the log is no log."""
    (answers / "smart-log").write_text(text)
    assert nvme_cli.smart(DRIVE) is None


def test_without_nvme_cli_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program, or one that refuses: None, no error."""
    monkeypatch.setattr(nvme_cli.shutil, "which", lambda *_, **__: None)
    assert nvme_cli.ask(("smart-log",)) is None
    monkeypatch.setattr(nvme_cli.shutil, "which", lambda *_, **__: str(tmp_path / "gone"))
    assert nvme_cli.ask(("smart-log",)) is None


def test_flash_bytes_come_from_the_ocp_log(answers: Path) -> None:
    """A number of 128 bits comes in two halves; the vendor isn't asked then."""
    answer(answers, ocp=OCP, intel=INTEL)
    assert nvme_cli.nand_written_bytes(DRIVE, "INTEL SSDPE") == (1 << 64) + 12345
    assert calls(answers) == ["ocp smart-add-log -o json /dev/nvme9"]


def test_flash_bytes_come_from_the_vendors_log_on_its_drives_only(answers: Path) -> None:
    """Units of 32 MiB; the command isn't sent to a drive of another vendor."""
    answer(answers, intel=INTEL)
    assert nvme_cli.nand_written_bytes(DRIVE, "Fast SSD 3") is None
    assert [call.split()[0] for call in calls(answers)] == ["ocp"]
    assert nvme_cli.nand_written_bytes(DRIVE, "INTEL SSDPE2KX") == 65_838 * (32 << 20)
    (answers / "intel").write_text("{}")
    assert nvme_cli.nand_written_bytes(DRIVE, "SOLIDIGM SB5PH") is None


@pytest.fixture
def nvme(tmp_path: Path) -> Path:
    """An NVMe drive's directory."""
    pci = write(tmp_path / "pci0000:00/0000:01:00.0", PCI)
    controller = write(pci / "nvme/nvme3", CONTROLLER)
    disk = write(controller / "nvme3n1", QUEUE)
    (disk / "device").symlink_to(controller)
    return disk


def test_write_amplification_comes_from_nvme_cli_too(answers: Path, nvme: Path) -> None:
    """Where the pages can't be read, both looks and their ratio come from `nvme`."""

    def looked(units: int, flash: int) -> device.DeviceState:
        answer(
            answers,
            smart_log=HEALTH | {"data_units_written": units},
            ocp={"Physical media units written": {"hi": 0, "lo": flash}},
        )
        return device.state(nvme, lambda *_: None)

    before, after = looked(1000, 50 * UNIT), looked(3000, 6050 * UNIT)
    change = after.since(before)
    assert change.host_written_bytes == 2000 * UNIT
    assert change.nand_written_bytes == 6000 * UNIT
    assert change.write_amplification == 3
    assert "smart-log -o json /dev/nvme3" in calls(answers)


def test_what_is_known_is_not_asked_again(answers: Path, nvme: Path) -> None:
    """With the health log in hand only the flash's bytes are asked for; and nothing in a run."""
    answer(answers, ocp=OCP)
    read = {smart.HEALTH_LOG: page(), smart.OCP_LOG: None}
    found = device.state(nvme, lambda _, log: read[log])
    assert found.smart is not None
    assert found.smart.nand_written_bytes == (1 << 64) + 12345
    assert [call.split()[0] for call in calls(answers)] == ["ocp"]
    quiet = device.state(nvme, lambda _, log: read[log], nvme_cli.ask_nobody)
    assert quiet.smart is not None
    assert quiet.smart.nand_written_bytes is None
    assert len(calls(answers)) == 1
