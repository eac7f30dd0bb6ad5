"""What all tests share. Loads nothing heavy: with xdist one process only hands out tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from replay import ReplayOptions
    from tests.support.command import Outcome

MIB = 1 << 20


def pytest_configure(config: pytest.Config) -> None:
    """Set how properties are tried, where tests run, and forget how wide a terminal is."""
    os.environ.pop("COLUMNS", None)  # a worker of xdist has it from the one that began it
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    from hypothesis import settings

    # The first example may have to wait for a compiler.
    settings.register_profile("project", deadline=None, max_examples=examples(100))
    settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that differ between processes: xdist's would disagree about what to run."""
    for item in items:
        assert " at 0x" not in item.nodeid, f"{item.nodeid}: give it ids"


@pytest.fixture(scope="session")
def small_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded trace with all tiers under pressure."""
    from tests.support.making import make

    path = tmp_path_factory.mktemp("trace") / "small.parquet"
    make(path)
    return path


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Give a function that runs `kvtrace` with arguments, in this process."""
    from kvtrace.cli.main import main
    from tests.support.command import Outcome

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["kvtrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def direct_path(tmp_path: Path) -> Path:
    """A folder in which files take O_DIRECT; skips where there is none."""
    probe = tmp_path / "probe"
    probe.write_bytes(b"")
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("no direct I/O where pytest keeps its files; set --basetemp")
    probe.unlink()
    return tmp_path


@pytest.fixture
def quick() -> Callable[..., ReplayOptions]:
    """Options for a short run with a small arena."""
    from replay import ReplayOptions

    def make(**fields: object) -> ReplayOptions:
        base = {
            "arena_bytes": 16 * MIB,
            "io_size_bytes": MIB,
            "settle_ns": 0,
            "min_window_ns": 0,
            "run_id": 7,
        }
        return ReplayOptions(**(base | fields))  # type: ignore[arg-type]

    return make


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes loop devices around the page cache; detaches them all at the end."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    from tests.support import loops

    attached: list[tuple[Path, Path]] = []

    def attach(
        size: int = 64 * MIB,
        prepare: Callable[[Path], None] | None = None,
        *,
        read_only: bool = False,
    ) -> Path:
        backing = tmp_path / f"disk{len(attached)}"
        with backing.open("wb") as file:
            file.truncate(size)
        if prepare is not None:
            prepare(backing)
        options = ["--direct-io=on", *["--read-only"] * read_only]
        device = loops.attach(backing, *options)
        attached.append((device, backing))
        return device

    yield attach
    for device, backing in attached:
        loops.detach(device, backing)
