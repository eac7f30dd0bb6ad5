"""Puts the commands together, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from kvtrace.cli.convert import export_command, import_command
from kvtrace.cli.listing import list_command
from kvtrace.cli.precondition import precondition_command
from kvtrace.cli.record import record_command
from kvtrace.cli.recover import recover_command
from kvtrace.cli.replay import replay_command
from kvtrace.cli.trace import check_command, head_command, info_command
from kvtrace.errors import EXIT_BUG, KvtraceError
from kvtrace.version import VERSION

app = typer.Typer(
    name="kvtrace",
    help="Record, inspect and replay traces of KV-cache storage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("record")(record_command)
app.command("info")(info_command)
app.command("check")(check_command)
app.command("head")(head_command)
app.command("import")(import_command)
app.command("export")(export_command)
app.command("replay")(replay_command)
app.command("precondition")(precondition_command)
app.command("recover")(recover_command)
app.command("list")(list_command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"kvtrace {VERSION}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line; exit with the code that the outcome has."""
    try:
        app()
    except KvtraceError as error:
        print(f"kvtrace: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`kvtrace head t | head -1`): nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:  # the outermost frame: whatever arrives here is a bug of ours
        traceback.print_exc()
        print("kvtrace: this is a bug; please report it with the lines above", file=sys.stderr)
        sys.exit(EXIT_BUG)
    raise AssertionError("typer always exits")
