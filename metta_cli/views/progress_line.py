"""Progress of a command that takes long: one line on stderr that is redrawn, or a few lines where it is no terminal."""

from __future__ import annotations

import sys
import time

from metta_cli import output


class ProgressLine:
    """What is being done, on the last line of the terminal, while the block runs.

    Where stderr is no terminal, `log_seconds` is the time between lines of a log; 0: none.
    """

    def __init__(self, log_seconds: float = 0.0) -> None:
        self._is_shown = sys.stderr.isatty()
        self._log_seconds = log_seconds
        self._next_log = time.monotonic() + log_seconds

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exception: object) -> None:
        self._write("")

    def __call__(self, text: str, share: float) -> None:
        """Show what is being done, and the fraction that is done."""
        line = f"{share:4.0%} {output.escape_controls(text)}"
        self._write(line)
        if self._log_seconds and not self._is_shown and time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + self._log_seconds
            output.print_on_stderr(line.strip())

    def _write(self, text: str) -> None:
        if self._is_shown:
            sys.stderr.write(f"\r\x1b[K{text[: output.terminal_columns() - 1]}")
            sys.stderr.flush()
