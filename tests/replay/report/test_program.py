"""The program that draws charts is kept on disk, and taken from there only if it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replay.report.web import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lists what was put together; the folder is an empty one."""
    pytest.importorskip("vl_convert")
    found: list[str] = []

    def put_together() -> str:
        found.append("x")
        return "draw();\n// é\n"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(program, "_put_together", put_together)
    program.drawing_program.cache_clear()
    yield found
    program.drawing_program.cache_clear()


def again() -> str:
    """Return it as another process would."""
    program.drawing_program.cache_clear()
    return program.drawing_program()


def test_it_is_put_together_once(made: list[str]) -> None:
    """Another process finds it on disk, the same."""
    assert again() == again() == "draw();\n// é\n"
    assert len(made) == 1
    assert [path.name for path in program.place().parent.iterdir()] == [program.place().name]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"// 00\ndraw();", b"\xff"])
def test_what_is_damaged_is_put_together_again(made: list[str], damage: bytes) -> None:
    """Cut off, changed, no text."""
    whole = again()
    program.place().write_bytes(damage)
    assert again() == whole
    assert len(made) == 2
    assert again() == whole
    assert len(made) == 2


def test_a_folder_that_cannot_be_written_to_costs_time_only(
    made: list[str], tmp_path: Path
) -> None:
    """Something else is in its place."""
    (tmp_path / "cache").write_text("no folder")
    assert again() == again()
    assert len(made) == 2
