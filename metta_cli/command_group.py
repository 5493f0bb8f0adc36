"""The commands as a group: one sentence for each error, an exit code by its kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from metta.api import job_rank
from metta.errors import MettaError
from metta_cli import output

# click's UsageError, wherever this version of typer keeps it
_UsageError: Any = typer.BadParameter.__base__


class Commands(TyperGroup):
    """The commands, with one sentence for each error and an exit code by its kind."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run a command and leave the process with its exit code; a traceback only for bugs, or with --debug."""
        given = sys.argv[1:] if args is None else list(args)
        try:
            code = super().main(given, *rest, **extra | {"standalone_mode": False})
            sys.stdout.flush()  # what does not get out is told here, not while the interpreter ends
        except _UsageError as error:
            output.print_error(error.format_message())
            code = 2
        except MettaError as error:
            if "--debug" in given:
                raise
            if not job_rank() or error.exit_code == 1:  # what the user did wrong the first process says for all
                output.print_error(error, job_rank())
            code = error.exit_code
        except OSError as error:  # of a disk or a screen, where no command knew more to say
            if "--debug" in given:
                raise
            output.silence_broken_streams()
            output.print_error(f"{error.filename or 'the output'}: {error.strerror or error}")
            code = 1
        except MemoryError:
            if "--debug" in given:
                raise
            output.print_error("out of memory: the worlds or the policy are too large for this machine")
            code = 1
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a Ctrl-C that is not answered by saving leaves at once and says so."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            output.print_interrupted()
            raise typer.Exit(130) from None
