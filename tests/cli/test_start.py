"""Imports at start: commands that need no torch import none, and those that only print text import no Gymnasium."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import TINY

PROGRAM = """
import sys
from metta_cli.__main__ import main
try:
    main()
finally:
    print("imported:", *(name for name in ("torch", "gymnasium", "rich") if name in sys.modules), file=sys.stderr)
"""

LIGHT = [
    ("--help",),
    ("--version",),
    ("train", "--help"),
    ("eval", "--help"),
    ("trian",),
    ("presets",),
    ("presets", "show", "quickstart"),
    ("presets", "show", "quikstart"),
    ("schema",),
    ("reference",),
    ("reference", "ppo.gamma"),
    ("reference", "ppo.gama"),
    ("check", "tiny.toml"),
    ("check", "wrong.toml"),
]
"""Commands, right and wrong, that only read and print text."""

LINES = ["metta ev", "metta train quick", "metta eval ", "metta eval random --env quick", "metta reference ppo.ga"]
"""Lines that the shell completes."""


def imported(here: Path, *arguments: str, **environment: str) -> list[str]:
    """Which of the large packages a command imports."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=here,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in ran.stderr
    assert ran.stdout or ran.stderr.startswith("error: "), ran.stderr
    return ran.stderr.splitlines()[-1].split()[1:]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "wrong.toml").write_text(TINY.replace("hidden_dim = 16", "hidden_dmi = 16"))
    return tmp_path


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_commands_that_print_text_import_no_large_package(here: Path, arguments: tuple[str, ...]) -> None:
    assert imported(here, *arguments) == []


def test_map_imports_the_simulator_without_torch(here: Path) -> None:
    assert imported(here, "map", "tiny.toml") == ["gymnasium"]


@pytest.mark.parametrize("line", LINES)
def test_completion_imports_no_large_package(here: Path, line: str) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    assert imported(here, _METTA_COMPLETE="complete_bash", **words) == []


def test_a_command_that_needs_torch_imports_it(here: Path) -> None:
    assert "torch" in imported(here, "eval", "none.pt")
