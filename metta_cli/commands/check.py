"""`metta check`: validate a TOML file, and print all values and derived numbers."""

from __future__ import annotations

from metta import api
from metta_cli import output
from metta_cli.parameters import Debug, Set, Source


def check(source: Source, set_: Set = None, debug: Debug = False) -> None:
    """Validate a TOML file; print all values and derived numbers."""
    text = api.check_text(api.load_config(source, set_ or ()))
    is_kept = api.keep_freed_memory()
    allocator = "kept in the process" if is_kept else "returned to the system (the C library is not glibc)"
    output.print_lines([text, f"# freed memory is {allocator}"])
