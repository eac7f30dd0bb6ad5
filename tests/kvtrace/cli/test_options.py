"""An option is one field of a model: everything else follows from it."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads annotations at run time
from typing import Annotated, Any, Literal

import pytest
import typer
import yaml
from pydantic import Field
from typer.testing import CliRunner

from kvtrace.cli.help import HelpfulCommand
from kvtrace.cli.main import command
from kvtrace.cli.options import with_options
from kvtrace.cli.replay_options import resolved_text, understood
from kvtrace.cli.targets import ShortForms
from kvtrace.errors import UsageError
from kvtrace.fields import TIME, Bytes, DurationNs, Option, Section
from kvtrace.options.described import describe, describe_all
from kvtrace.recording.config import RecordConfig
from replay import ReplayOptions
from replay.options import TIMING


class More(ReplayOptions):
    """A replay's options, and fields that nothing else knows of."""

    patience_ns: Annotated[DurationNs, Option("Wait this long.", TIMING)] = 2_000_000_000
    reserve_bytes: Annotated[Bytes | None, Option("Keep this free.", TIMING, unset="all")] = None
    pace: Annotated[Literal["brisk", "calm"], Option("Walk.", "Walking")] = "calm"
    eager: Annotated[bool, Option("Begin early.", "Walking")] = True


@with_options(ShortForms, More)
def walk(
    *,
    config: Path | None = None,
    set_: Annotated[list[str] | None, typer.Option("--set")] = None,
    show_config: Annotated[bool, typer.Option("--show-config")] = False,
    **given: Any,
) -> None:
    """Walk."""
    asked = {**given, "config": config, "set_": set_}
    if show_config:
        typer.echo(resolved_text(asked, More), nl=False)
        return
    _, options = understood(asked, More)
    assert isinstance(options, More)
    typer.echo(f"{options.patience_ns} {options.reserve_bytes} {options.pace} {options.eager}")


app = typer.Typer(add_completion=False)
app.command("walk", cls=HelpfulCommand)(walk)


def out(*words: object) -> str:
    """Return what the command prints."""
    ended = CliRunner().invoke(app, ["--target", "null", *map(str, words)], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_a_new_field_is_in_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it takes, its choices, its default and its heading."""
    monkeypatch.setenv("COLUMNS", "80")
    text = CliRunner().invoke(app, ["--help"]).output
    timing, walking = (
        text.split(f"\n{title}\n")[1].split("\n\n")[0] for title in (TIMING, "Walking")
    )
    assert "  --patience TIME          Wait this long. [default: 2s]" in timing
    assert "  --reserve SIZE           Keep this free. [default: all]" in timing
    assert "  --pace brisk|calm        Walk. [default: calm]" in walking
    assert "  --eager / --no-eager     Begin early. [default: yes]" in walking


def test_a_new_field_is_taken_everywhere(tmp_path: Path) -> None:
    """By its flag, `--set` and a file, in that order of precedence; what is shown is read back."""
    assert out() == "2000000000 None calm True\n"
    path = tmp_path / "c.yaml"
    path.write_text("patience: 5ms\nreserve: 1KiB\npace: brisk\neager: no\n")
    assert out("--config", path) == "5000000 1024 brisk False\n"
    words = ("--config", path, "--set", "patience=6ms", "--set", "reserve=2KiB",
             "--reserve", "3KiB", "--eager")  # fmt: skip
    assert out(*words) == "6000000 3072 brisk True\n"
    shown = out(*words, "--show-config")
    for line in (
        "patience: 6ms  # --set", "reserve: 3KiB  # option", f"pace: brisk  # {path}",
        "eager: true  # option",
    ):  # fmt: skip
        assert f"{line}\n" in shown
    again = tmp_path / "again.yaml"
    again.write_text(shown)
    assert out("--config", again) == out(*words)


@pytest.mark.parametrize("name", ["record", "replay"])
def test_every_field_is_an_option_with_its_help(name: str) -> None:
    """Of the commands that there are; none is written twice, none is without help."""
    params = {each.opts[0]: each for each in command(name).params}
    options = [*describe_all(RecordConfig)] if name == "record" else [
        *describe(ShortForms), *describe(ReplayOptions)
    ]  # fmt: skip
    for option in options:
        param = params[option.flag]
        assert (param.help, bool(option.help)) == (option.help, True)
        assert param.default is None
        assert not option.choices or all(word in param.metavar for word in option.choices)
    flags = [option.flag for option in options]
    assert len(flags) == len(set(flags)) > 30


def test_defaults_are_text_that_is_read_back() -> None:
    """Of every field whose default isn't None: the model reads its text as the default."""
    for option in describe(ReplayOptions):
        default = getattr(ReplayOptions(), option.field)
        if default not in (None, ()):
            read = ReplayOptions.model_validate({option.field: option.default})
            assert getattr(read, option.field) == default, option.key


def test_a_model_without_help_gives_all_its_fields() -> None:
    """A plug-in's may have plain fields, or pydantic's own description; a limit stays a limit."""

    class Plain(Section):
        delay_ns: Annotated[int, Field(gt=0), TIME] = 1_000
        name: str = "x"

    class Told(Section):
        name: str = Field("x", description="Name it.")
        inner: int = 3

    assert [(o.key, o.takes, o.default) for o in describe(Plain)] == [
        ("delay", "TIME", "1us"), ("name", "TEXT", "x"),
    ]  # fmt: skip
    assert [(o.key, o.help) for o in describe(Told)] == [("name", "Name it.")]
    assert Plain.model_validate({"delay_ns": "2ms"}).delay_ns == 2_000_000
    for wrong in ("0", "soon"):
        with pytest.raises(ValueError, match="delay_ns"):
            Plain.model_validate({"delay_ns": wrong})


def test_record_takes_flags_as_files(tmp_path: Path, cli: Any) -> None:
    """Each flag of record that is a field's shows with its value at its key."""
    values = {
        "--users": "7", "--cpu-mem": "3GiB", "--block-tokens": "64",
        "--write-policy": "write-through", "--no-multi-turn": None, "--seed": "9",
        "--duration": "5s", "--lookups": None,
    }  # fmt: skip
    words = [word for pair in values.items() for word in pair if word is not None]
    shown = cli("record", tmp_path / "t.parquet", "--model", "tiny-1b", *words, "--show-config")
    config = yaml.safe_load(shown.out)
    assert config["source"]["users"] == 7
    assert config["source"]["multi_turn"] is False
    assert config["tiers"]["cpu"]["capacity"] == 3 << 30
    assert (config["block_tokens"], config["seed"], config["lookups"]) == (64, 9, True)
    assert (config["write_policy"], config["duration"]) == ("write-through", 5 * 10**9)
    assert shown.out.count("# option") == 9


def test_a_limit_is_rows_or_a_time() -> None:
    """By one name for both; neither a yes nor beside the other names."""
    assert ReplayOptions(limit="1_000").limit_rows == 1000  # type: ignore[call-arg]
    assert ReplayOptions(limit=7).limit_rows == 7  # type: ignore[call-arg]
    assert ReplayOptions(limit="2s").limit_ns == 2 * 10**9  # type: ignore[call-arg]
    for wrong in ({"limit": True}, {"limit": 5, "limit_rows": 3}, {"limit": "1s", "limit_ns": 1}):
        with pytest.raises(UsageError, match="limit is rows or a time"):
            ReplayOptions(**wrong)
