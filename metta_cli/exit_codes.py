"""Exit codes and error messages: turns exceptions, warnings and Ctrl-C of a command into stderr text and a code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from metta import api
from metta.errors import ConfigWarning, MettaError, SkippedFileWarning, is_wrong_path, printable
from metta_cli import output

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
CODES = {"finished": 0, "failed": FAILED, "interrupted": INTERRUPTED}
"""Exit code by the reason why a run, an experiment or a sweep ended."""

# Click's UsageError. Some versions of Typer include a copy of click, so it is taken from a class that all export.
_ClickUsageError: Any = typer.BadParameter.__base__


class CommandGroup(TyperGroup):
    """The commands of `metta`. Prints an error of a command as one message; only bugs show a traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run a command, then exit with 0 or one of the codes above. With `--debug`, errors are raised instead."""
        arguments = sys.argv[1:] if args is None else list(args)
        with warnings.catch_warnings():
            _show_warnings_as_notes()
            try:
                code = super().main(arguments, *rest, **extra | {"standalone_mode": False})
            except _ClickUsageError as error:
                output.print_error(error.format_message() + _example(error))
                code = WRONG_INPUT
            except (MettaError, OSError, MemoryError) as error:
                if "--debug" in arguments:
                    raise
                code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """Parse the arguments of the group; prints the help text for `metta --help`."""
        with _unread_output_is_dropped():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Exits with code 130 on a Ctrl-C that the command does not handle."""
        try:
            with _unread_output_is_dropped():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            output.print_interrupted()
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _unread_output_is_dropped() -> Iterator[None]:
    """Exit with 0 if the reader of a help text, which Typer prints, closes the pipe (`metta --help | head -1`)."""
    try:
        yield
    except BrokenPipeError:
        if not output.silence_broken_streams():
            raise
        raise typer.Exit(0) from None


def _example(error: Any) -> str:
    """For a command without its argument, its usage and a valid example."""
    if type(error).__name__ != "MissingParameter" or error.ctx is None:
        return ""
    command = error.ctx.command_path
    takes_preset = "PRESET" in error.format_message()
    hint = f"for example: {command} quickstart" if takes_preset else f"for details: {command} --help"
    return f"\n  {error.ctx.get_usage()}\n  {hint}"


def _report(error: MettaError | OSError | MemoryError) -> int:
    """Print the message of an error; returns its exit code."""
    match error:
        case MettaError():
            # all processes of a job read the same input, so only rank 0 reports errors in it
            if not api.job_rank() or error.exit_code == FAILED:
                output.print_error(error, api.job_rank())
            return error.exit_code
        case OSError():
            output.silence_broken_streams()
            reason = error.strerror or str(error)
            problem = (
                f"{error.filename} cannot be read or written" if error.filename else "the output cannot be written"
            )
            output.print_error(f"{problem}: {reason}")
            return WRONG_INPUT if is_wrong_path(error) else FAILED
        case MemoryError():
            output.print_error("out of memory: the worlds or the policy are too large for this machine")
            return FAILED


NOTES = (ConfigWarning, SkippedFileWarning)
"""Warnings for users of the command line, who see them as notes."""


def _show_warnings_as_notes() -> None:
    """Print each warning of `NOTES` once as a note, without its source location; other warnings are unchanged."""
    show = warnings.showwarning
    shown: set[str] = set()

    def show_note(message: Warning | str, category: type[Warning], *location: Any, **options: Any) -> None:
        if not issubclass(category, NOTES):
            show(message, category, *location, **options)
        elif str(message) not in shown and not api.job_rank():
            shown.add(str(message))
            output.print_note(printable(str(message)))

    for category in NOTES:
        warnings.simplefilter("always", category)
    warnings.showwarning = show_note
