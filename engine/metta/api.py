"""The public names of metta, each imported from its module when it is first used.

A program that needs no torch, such as `metta presets`, thereby imports none. The list of names is the type stub
`api.pyi`, which type checkers and editors read as well.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_MODULES = {
    alias.name: str(node.module)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
"""Public name -> module that defines it."""

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name; Python calls this once for each name that the module does not have yet."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
