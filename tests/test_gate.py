"""Lint, formatting and types of the whole tree, and imports of the benchmarks."""

import ast
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_the_tree_is_clean(command: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_benchmarks_import_what_exists() -> None:
    """Benchmarks are run by hand, so that no other test would notice a renamed module or function."""
    for path in sorted((ROOT / "tests" / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("metta."):
                module = import_module(str(node.module))
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    exists = hasattr(module, alias.name) or (hasattr(module, "__path__") and find_spec(name))
                    assert exists, f"{path.name} imports {name}"
