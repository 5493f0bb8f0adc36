"""Print lines, tables, JSON, notes and errors; format numbers and durations."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metta import api
from metta.errors import MettaError
from metta_cli import interrupts

MAX_WIDTH = 100
"""Maximum width of wrapped text, in columns."""

MIN_REASON_WIDTH = 24
"""Minimum width in columns of the reasons of derived numbers beside them; otherwise they are below."""

MIN_GLOSSARY_WIDTH = 60
"""Terminal width in columns below which a glossary has each meaning below its name, not beside it."""

MIN_LABEL_WIDTH = 20
"""Width in columns to which the first column of a table may be wrapped."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""control characters except tab and line feed"""


def write(text: str) -> None:
    """Write text to stdout, then flush, so that a pipe receives it at once. Raises OSError if it cannot be written."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout, as `write` does. Control characters other than tabs and line breaks are escaped."""
    write("".join(f"{escape_controls(line)}\n" for line in lines))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines without wrapping. Control characters other than tabs and line breaks are escaped."""
    _print("".join(f"{escape_controls(line)}\n" for line in lines))


def escape_controls(text: str) -> str:
    """The text with control characters escaped, so that a name cannot send control sequences to the terminal."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _print(text: str) -> None:
    """Write text to stdout. If its reader has closed the pipe (`metta reference | head`), the text is dropped."""
    try:
        write(text)
    except BrokenPipeError:
        silence_broken_streams()


def print_wrapped(text: str, indent: int = 0) -> None:
    """Print a paragraph, wrapped to the terminal and indented by `indent` spaces."""
    margin = " " * indent
    print_lines(textwrap.wrap(text, _width(), initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False))


def terminal_columns() -> int:
    """Width of the terminal, in columns."""
    return shutil.get_terminal_size().columns


def is_narrow() -> bool:
    """Whether the terminal is too narrow for columns of text beside each other."""
    return _width() < MIN_GLOSSARY_WIDTH


def print_glossary(rows: Sequence[tuple[str, str]]) -> None:
    """Print (name, meaning) pairs in two columns, wrapped to the terminal; in one column if it is narrow."""
    indent = max((len(name) for name, _ in rows), default=0) + 2
    for name, meaning in rows:
        if is_narrow():
            print_lines([name])
            print_wrapped(meaning, indent=2)
        else:
            head, margin = f"{name:<{indent}}", " " * indent
            lines = textwrap.wrap(meaning, _width(), initial_indent=head, subsequent_indent=margin)
            print_lines(lines or [name])


def print_derived(rows: Sequence[api.Derived]) -> None:
    """Print the numbers of `metta check` with their reasons, wrapped to the terminal; warnings between them."""
    names = max(len(row.name) for row in rows)
    values = max(len(row.value) for row in rows)
    for row in rows:
        head = "warning: " if row.is_warning else f"{row.name:<{names}}  {row.value:>{values}}  "
        if row.is_warning or _width() >= len(head) + MIN_REASON_WIDTH:
            margin = " " * (2 if row.is_warning else len(head))
            print_lines(textwrap.wrap(row.reason, _width(), initial_indent=head, subsequent_indent=margin))
        else:
            print_lines([f"{row.name:<{names}}  {row.value}"])
            print_wrapped(row.reason, indent=4)


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column left-aligned and wrapped, the others right-aligned and never wrapped.

    If the terminal is too narrow for that, each row is printed as a list: its first cell, and below it the others.
    """
    labels, *widths = (max(map(len, column)) for column in zip(header, *rows, strict=True))
    if min(labels, MIN_LABEL_WIDTH) + sum(width + 3 for width in widths) + 2 <= _width():
        _print_table(header, rows)
        return
    names = max(map(len, header[1:]))
    for label, *cells in rows:
        indent = " " * (2 + len(label) - len(label.lstrip()))
        lines = (
            f"{name:<{names}}  {cell:>{max(widths)}}" for name, cell in zip(header[1:], cells, strict=True) if cell
        )
        print_lines([label, *(indent + line for line in lines)])


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box  # noqa: PLC0415  # rich is imported only where needed
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE)
    table.add_column(plain_text(header[0]), overflow="fold")
    for name in header[1:]:
        table.add_column(plain_text(name), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(plain_text, row))
    console = make_console()
    with console.capture() as capture:
        console.print(table)
    _print(capture.get())


def make_console() -> Any:
    """A `rich.console.Console` on stdout that shows strings as they are, without markup (`[bold]`) and emoji codes."""
    from rich.console import Console  # noqa: PLC0415

    settings: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    if can_animate():
        # neither FORCE_COLOR and the like nor a COLUMNS that was exported at another size describe this terminal
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        settings |= {"force_terminal": True, "force_interactive": True, "_environ": environment}
    return Console(**settings)


def can_animate() -> bool:
    """Whether stdout is a terminal on which lines can be redrawn; FORCE_COLOR and the like only select colors."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def can_redraw() -> bool:
    """Whether a live view may redraw lines: `can_animate`, and this process is not in the background."""
    return can_animate() and is_in_foreground(sys.stdout.fileno())


def is_in_foreground(terminal: int) -> bool:
    """Whether the shell lets this process use the terminal; False after `metta train quickstart &`."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # not the controlling terminal: there is no job control
        return True


def plain_text(text: str, style: str = "") -> Any:
    """A `rich.text.Text` that shows exactly the string, with escapes for control characters and what stdout lacks."""
    from rich.text import Text  # noqa: PLC0415

    encoding, errors = _stdout_encoding()
    return Text(escape_controls(text.encode(encoding, errors).decode(encoding)), style)


def encodable(text: str, fallback: str) -> str:
    """The text, or the fallback if stdout cannot encode it: `encodable("±", "+-")`."""
    try:
        text.encode(_stdout_encoding()[0])
    except UnicodeEncodeError:
        return fallback
    return text


def _stdout_encoding() -> tuple[str, str]:
    """Encoding and error handler of stdout, which rich replaces during a live view."""
    stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    return stream.encoding or "ascii", stream.errors or "strict"


def print_json(values: Mapping[str, Any]) -> None:
    """Print a JSON object on one line; non-finite numbers become null."""
    _print(f"{api.json_line(values)}\n")


def print_error(error: MettaError | str, rank: int = 0) -> None:
    """Print an error on stderr, preceded by the rank of the process if it is not 0."""
    print_on_stderr(f"{f'process {rank}: ' if rank else ''}error: {error}")


def print_interrupted() -> None:
    """Print on stderr that Ctrl-C ended the command."""
    print_on_stderr(interrupts.MESSAGE)


def print_note(text: str) -> None:
    """Print a note on stderr."""
    print_on_stderr(f"note: {text}")


def print_on_stderr(text: str) -> None:
    """Print text on stderr; control characters are escaped as in `print_lines`. If it cannot be written, it is lost."""
    try:
        print(escape_controls(text), file=sys.stderr, flush=True)
    except OSError:
        silence_broken_streams()


def silence_broken_streams() -> bool:
    """Redirect stdout and stderr to the null device if they cannot be written, so that later writes succeed.

    Returns whether one of them could not be written.
    """
    is_broken = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            is_broken = True
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
    return is_broken


def format_number(value: float | None) -> str:
    """A number with 3 decimals below 100, 1 decimal below 100,000, else with an exponent; `-` for None and NaN."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:.1e}"


def format_duration(seconds: float | None) -> str:
    """Seconds as `minutes:seconds` or `hours:minutes:seconds`; `-` for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _width() -> int:
    return min(terminal_columns(), MAX_WIDTH)
