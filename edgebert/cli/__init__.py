"""The command line: a file a command; parse, one call, print. How errors and output look is decided here."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import click

from edgebert import __version__, ranks
from edgebert.cli.caches import passing_compiler_cache
from edgebert.errors import EdgebertError, translate

log = logging.getLogger("edgebert")
F = TypeVar("F", bound=Callable[..., Any])
Document = dict[str, Any]

_COMMANDS = ("fit", "export", "distill", "resize", "sizes", "bench", "verify", "pick", "report", "package", "doctor")


class _Commands(click.Group):
    """Imports a command's module when it is asked for, so that --help and light commands stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"edgebert.cli.{cmd_name}")
        found: click.Command = module.run
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgebert")
def app() -> None:
    """Turn a BERT into the most accurate one that meets a latency budget, and prove what that cost."""


def command(example: str, show: Callable[[Document], str]) -> Callable[[F], click.Command]:
    """Make a click command of a function that returns its JSON document.

    ``show`` says in words what the document holds; that goes to stderr. The paths of what was made go to
    stdout, or under --json the document and nothing else.
    """

    def decorate(function: F) -> click.Command:
        @functools.wraps(function)
        def run(as_json: bool, quiet: bool, **flags: Any) -> None:
            _set_up_logging(quiet=quiet)
            try:
                with passing_compiler_cache():
                    document = function(**flags)
                _print(document, show, as_json=as_json, quiet=quiet)
            except EdgebertError as error:
                if error.document is not None:
                    _print(error.document, show, as_json=as_json, quiet=quiet)
                raise

        run = click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")(run)
        run = click.option(
            "--json", "as_json", is_flag=True, envvar="EDGEBERT_JSON", help="One JSON document on stdout."
        )(run)
        return click.command(
            function.__module__.rpartition(".")[2],
            epilog=f"Example: {example}",
            context_settings={
                "auto_envvar_prefix": "EDGEBERT",
                "show_default": True,
                "help_option_names": ["-h", "--help"],
            },
        )(run)

    return decorate


def _print(document: Document, show: Callable[[Document], str], *, as_json: bool, quiet: bool) -> None:
    if not ranks.first():
        return
    if not (as_json or quiet):
        _say(show(document))
    lines = [json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False)] if as_json else _paths(document)
    try:
        for line in lines:
            click.echo(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader wants no more of it, which changes nothing of what the command came to.
        _leave_stdout()


def _paths(document: Document) -> list[str]:
    """The paths a document is about: what a shell script wants of it."""
    made = [entry["path"] for entry in document.get("artifacts", [])]
    pick = document.get("pick")
    return made + ([pick["path"]] if pick else [])


def _set_up_logging(*, quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    log.handlers[:] = [handler]
    log.propagate = False
    # Of several processes that train together one is enough to tell of it.
    log.setLevel(logging.ERROR if quiet or not ranks.first() else logging.INFO)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return prefix + record.getMessage()


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Plain text columns, the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = []
    for row in [heads, *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def calm(conditions: Document) -> str:
    """How calm the machine was, in a line; the reasons where it was not."""
    if not conditions:
        return "nothing was measured"
    numbers = (
        f"drift of {conditions['reference']} {conditions['drift']:.1%}, stolen {conditions['steal']:.1%}, "
        f"other programs {conditions['background']:.1%} of the CPU, throttled {conditions['throttled']} times"
        f"{_sharing(conditions)}"
    )
    if conditions["stable"]:
        return f"machine calm: {numbers}"
    return f"UNSTABLE, do not trust these numbers: {'; '.join(conditions['reasons'])} ({numbers})"


def _sharing(conditions: Document) -> str:
    # Fits of an edgebert that did not measure it have none.
    cost = conditions.get("sharing")
    return f", sharing small work costs {cost:.2f} times one thread" if cost else ""


def main(argv: list[str] | None = None) -> NoReturn:
    """The program. Exit codes: docs/exit-codes.md."""
    sys.exit(_run(argv))


def _run(argv: list[str] | None) -> int:
    _open_closed_streams()
    # Text may hold any character whatever the locale says.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        # Not app.main(): it ends with 1 when a reader leaves, whatever the command came to.
        with app.make_context("edgebert", list(sys.argv[1:] if argv is None else argv)) as context:
            app.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; the same command goes on where this one stopped")
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message())
        return 2
    except click.ClickException as error:
        return _complain("usage: command line: " + " ".join(error.format_message().split()), 2)
    except BrokenPipeError:
        _leave_stdout()
        return 0
    except Exception as error:  # noqa: BLE001, the one place where everything foreign is mapped
        known = translate(error)
        if known is None:
            traceback.print_exc()
            return 1
        return _complain(str(known), known.exit_code)


def _leave_stdout() -> None:
    """Point stdout elsewhere, so that the interpreter's last flush does not fail for a reader that left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    _say(f"error: {message}")
    return code


def _say(text: str) -> None:
    """Tell people something. That nobody can hear it, on a full disk or a closed pipe, changes no result."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def _open_closed_streams() -> None:
    """What a caller has closed leads nowhere: else the words for one stream would go to another."""
    # Line buffered like the real ones; open until the process ends.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
