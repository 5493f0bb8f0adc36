"""What the command line says of itself: at 80 columns nothing is cut off, and the shell completes what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from metta.api import find_preset, presets
from metta_cli.main import app


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command by its words, `metta` itself as none."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("command", ALL, ids=lambda command: " ".join(command) or "metta")
def test_help_fits_80_columns_whole(command: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert ran.exit_code == 0
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("Usage:")
    for line in lines:
        assert len(line) <= 80, line
        assert not line.endswith("...") or line.startswith("Usage:"), f"cut off: {line}"
        assert not re.search(r"\w-$", line), f"broken within a word: {line}"


def test_every_command_is_looked_at() -> None:
    assert {"train", "resume", "eval", "watch", "report", "presets"} < {command[0] for command in ALL if command}
    assert ("presets", "show") in ALL


def test_presets_are_listed_in_80_columns() -> None:
    ran = CliRunner().invoke(app, ["presets"])
    lines = ran.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["preset", "agents", "size", "minutes", "task"]
    assert " ".join(lines[1].split()).startswith(f"quickstart 4 14x14 {find_preset('quickstart').minutes} ")
    text = " ".join(ran.stdout.split())
    assert all(" ".join(preset.aim.split()) in text for preset in presets())
    assert {preset.name for preset in presets()} <= {line.split()[0] for line in lines if line}


def test_presets_are_listed_in_40_columns() -> None:
    lines = CliRunner().invoke(app, ["presets"], env={"COLUMNS": "40"}).stdout.splitlines()
    assert lines[0] == "quickstart"
    assert lines[1].startswith(f"  4 agents, 14x14, minutes: {find_preset('quickstart').minutes};")
    assert max(map(len, lines)) <= 40


def completed(here: Path, line: str) -> list[str]:
    """What bash offers at the end of a line, by the script that `--show-completion` prints."""
    (here / "metta").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m metta_cli "$@"\n')
    (here / "metta").chmod(0o755)
    words = line.split(" ")
    script = (
        'eval "$(metta --show-completion bash)"\n'
        f'COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}")\nCOMP_CWORD={len(words) - 1}\n'
        "_metta_completion metta\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    environment = {
        **os.environ,
        "PATH": f"{here}:{os.environ['PATH']}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    return ran.stdout.split()


@pytest.mark.parametrize(
    "line", ["metta train quick", "metta bench quick", "metta presets show quick", "metta eval scripted --env quick"]
)
def test_the_shell_completes_presets(tmp_path: Path, line: str) -> None:
    assert completed(tmp_path, line) == ["quickstart"]
