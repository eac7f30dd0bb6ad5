"""Puts the commands together, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from kvtrace.cli.help import HelpfulCommand, overview
from kvtrace.cli.limits import check_limits
from kvtrace.cli.streams import Streams
from kvtrace.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, KvtraceError, limit_met
from kvtrace.show.printable import printable
from kvtrace.version import VERSION

# Nothing here multiplies matrices, and OpenBLAS sends itself SIGINT where it can't start threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# No model here is another package's business, and to look for such takes as long as all models.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
_COMMANDS = {
    "record": (
        "record",
        "Record a trace: simulate requests through a node's tiers in virtual time.",
    ),
    "info": (
        "trace",
        "Show a trace's header, totals and hit ratios; with --report, what it looks like over "
        "time.",
    ),
    "check": (
        "trace",
        "Check a trace's invariants; exit 3 with the first offending rows if one fails.",
    ),
    "head": ("trace", "Print the first rows of a trace."),
    "whatif": (
        "whatif",
        "Compare tier capacities and policies: hit ratios, bytes, drive writes per day.",
    ),
    "breakeven": (
        "breakeven",
        "Compare loading KV state from a tier with recomputing it: whether the tier is worth it.",
    ),
    "model": ("model", "Show a model's KV bytes per token and per sequence, by group of layers."),
    "slice": ("tools", "Extract a time range, rows, tiers or a sample of sessions from a trace."),
    "merge": (
        "tools",
        "Merge traces by time, each as a node with its own keys, requests and sessions.",
    ),
    "scale": ("tools", "Scale a trace's times or its number of sessions."),
    "diff": (
        "tools",
        "Compare two traces per tier: sizes, reuse distances, gaps between ops, read share.",
    ),
    "anonymise": (
        "tools",
        "Replace keys, blocks, sessions and requests by keyed hashes; drop the source's details.",
    ),
    "capture": (
        "capture",
        "Print the configuration that records a live engine's KV-cache storage; watch a recording.",
    ),
    "import": (
        "convert",
        "Convert another tool's trace or log, or a recording of an engine, to a kvtrace trace.",
    ),
    "export": (
        "convert",
        "Convert a trace to another tool's format, and print what the format loses.",
    ),
    "replay": (
        "replay",
        "Replay TRACE on real storage tiers and report whether the results are valid.",
    ),
    "report": ("report", "Print stored results, or write one in other forms."),
    "compare": ("compare", "Compare results: ratios, and whether they exceed the trials' noise."),
    "bench": (
        "bench",
        "Record PRESET (or use --trace), replay it --trials times, and print each figure's spread.",
    ),
    "precondition": (
        "precondition",
        "Fill a device with unique data, then overwrite it randomly until its rate is steady.",
    ),
    "recover": (
        "recover",
        "Recover a trace from the parts that a killed replay left; keep the parts.",
    ),
    "discover": (
        "discover",
        "List GPUs, CPUs, memory and storage, with record and replay commands for them.",
    ),
    "doctor": (
        "doctor",
        "Check this machine for problems that would invalidate a replay (2 s, read-only).",
    ),
    "list": (
        "listing",
        "List models, sources, layouts, policies, importers, exporters and targets.",
    ),
}
"""Module of each command and the first paragraph of its help, in the order of the help."""


class _Commands(TyperGroup):
    """The commands, each imported when it is asked for: what one needs, others don't wait for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            self.add_command(command(cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, all of them switches: off, for typer asks pydantic what None is."""
        params = super().get_params(ctx)
        for param in params:
            if param.default is None:
                param.default = False
        return params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands and options."""
        summaries = {name: summary for name, (_module, summary) in _COMMANDS.items()}
        formatter.write("\n".join(overview(self, ctx, summaries)) + "\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; without any, print the help, which typer leaves out, and exit 2."""
        if not args:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(EXIT_USAGE)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what typer says of a wrong option is printed as text."""
        check_limits()
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "format_message"):
                error.message = printable(error.message)  # type: ignore[attr-defined]
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in _COMMANDS:
            return super().resolve_command(ctx, args)
        imported = self.commands
        self.commands = {name: TyperCommand(name) for name in _COMMANDS}  # one may be meant
        try:
            return super().resolve_command(ctx, args)
        finally:
            self.commands = imported


@cache
def command(name: str) -> Any:
    """Return a command as typer has it."""
    module = import_module(f"kvtrace.cli.{_COMMANDS[name][0]}")
    alone = typer.Typer(add_completion=False)
    kind = getattr(module, "COMMAND_CLASS", HelpfulCommand)
    alone.command(name, cls=kind)(getattr(module, f"{name}_command"))
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=_Commands,
    name="kvtrace",
    help="Record, inspect and replay traces of KV-cache storage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


@cache
def _group() -> Any:
    return typer.main.get_command(app)


def main() -> NoReturn:
    """Run the command line; exit with the code that the outcome has."""
    streams = Streams()
    sys.exit(streams.end(_run()))


def _run() -> int:
    """Run the command line; return the exit code."""
    try:
        _group()(prog_name="kvtrace")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EXIT_OK
    except KvtraceError as error:
        print(f"kvtrace: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BaseException as error:  # the outermost frame; panics of Rust aren't Exceptions
        limit = limit_met(error)
        if limit is None:  # whatever arrives here is a bug of ours
            traceback.print_exc()
            print("kvtrace: this is a bug; please report it with the lines above", file=sys.stderr)
            return EXIT_BUG
        print(f"kvtrace: error: {limit}", file=sys.stderr)
        return limit.exit_code
    raise AssertionError("typer always exits")
