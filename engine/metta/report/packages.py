"""Packages of the extra `report`, imported when they are first needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from metta.errors import UsageError


def from_extra(name: str) -> ModuleType:
    """The module `name` of matplotlib or scipy. Raises UsageError, with the command to install it, if there is none."""
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise UsageError(f"metta report needs {package}: pip install 'metta-gridworlds[report]'") from None
