"""Options of all commands: integers in every form, and hints for misspelled commands and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from metta_cli.main import app


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))
OPTIONS = {
    (*path, option): parameter
    for path, command in ALL.items()
    for parameter in command.params
    for option in [*parameter.opts, *parameter.secondary_opts]
    if option.startswith("--")
}
INTEGERS = {words: option for words, option in OPTIONS.items() if option.metavar == "INTEGER"}


def test_no_integer_option_is_left_out() -> None:
    for path in ALL:
        assert "<int" not in CliRunner().invoke(app, [*path, "--help"]).stdout
    assert {words[-1] for words in INTEGERS} >= {"--seed", "--total-timesteps", "--episodes", "--speed", "--max-steps"}


@pytest.mark.parametrize("words", INTEGERS, ids=" ".join)
def test_every_integer_option_takes_every_form(words: tuple[str, ...]) -> None:
    also = ["--seeds", "2"] if words == ("train", "--jobs") else []
    for text in ("100", "0.1k", "1e2", "100.0", "+100"):
        ran = CliRunner().invoke(app, [*words[:-1], "nowhere", words[-1], text, *also])
        assert ran.exit_code == 2
        assert "nowhere" in ran.stderr or "terminal" in ran.stderr
    for text in ("1.5", "ten", "1k2", "", "none"):
        ran = CliRunner().invoke(app, [*words[:-1], "x", words[-1], text])
        assert ran.exit_code == 2
        assert f"Invalid value for '{words[-1]}': \"{text}\" is not an integer" in ran.stderr


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_a_misspelled_option_is_answered_with_the_right_one(words: tuple[str, ...]) -> None:
    option = words[-1]
    typo = option[:-2] + option[-1] if len(option) > 5 else option + option[-1]
    if (*words[:-1], typo) in OPTIONS:
        return
    ran = CliRunner().invoke(app, [*words[:-1], typo])
    assert ran.exit_code == 2
    hinted = re.findall(r"--[a-z0-9-]+", ran.stderr.partition(typo)[2])
    assert option in hinted
    assert all((*words[:-1], hint) in OPTIONS or hint == "--help" for hint in hinted)


@pytest.mark.parametrize("words", [path for path in ALL if path], ids=" ".join)
def test_a_misspelled_command_is_answered_with_the_right_one(words: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(app, [*words[:-1], words[-1][:-1] + "x"])
    assert ran.exit_code == 2
    assert f"'{words[-1]}'" in ran.stderr
