"""`metta reference`: tables and keys in the terminal, at any width; unknown names are answered with the closest one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner, Result

from metta.api import config_reference
from metta_cli.commands.reference import complete_name
from metta_cli.main import app


def reference(*names: str, columns: int = 80) -> Result:
    return CliRunner().invoke(app, ["reference", *names], env={"COLUMNS": str(columns)})


def test_a_key_has_its_type_range_default_and_description() -> None:
    (table,) = config_reference("ppo.gamma")
    (key,) = table.keys
    ran = reference("ppo.gamma")
    assert ran.exit_code == 0
    text = " ".join(ran.stdout.split())
    assert text == (f"[ppo] {table.description} gamma {key.type}; {key.range}; default {key.default} {key.description}")


def test_a_table_has_all_of_its_keys() -> None:
    lines = reference("ppo").stdout.splitlines()
    assert lines[0] == "[ppo]"
    (table,) = config_reference("ppo")
    assert [line for line in lines[1:] if line in {key.key for key in table.keys}] == [key.key for key in table.keys]


@pytest.mark.parametrize("columns", [40, 80])
def test_every_table_fits_the_terminal(columns: int) -> None:
    """Only a word that is longer than a line, such as a default value, may be wider."""
    for name in (None, *dict.fromkeys(table.name for table in config_reference())):
        ran = reference(*([name] if name else []), columns=columns)
        assert ran.exit_code == 0, ran.output
        for line in ran.stdout.splitlines():
            assert len(line) <= columns or " " not in line.strip() or line.startswith("["), line


def test_without_a_name_every_table_is_listed() -> None:
    names = [f"{table.name}.{table.type}" if table.type else table.name for table in config_reference()]
    lines = [line for line in reference().stdout.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in lines] == names


@pytest.mark.parametrize(
    ("name", "hint"),
    [("ppo.gama", 'did you mean "ppo.gamma"?'), ("optimiser", 'did you mean "optimizer"?'), ("gamma", '"ppo.gamma"')],
)
def test_an_unknown_name_is_answered_with_the_closest(name: str, hint: str) -> None:
    ran = reference(name)
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith(f'error: there is no table or key "{name}" in the TOML file')
    assert hint in ran.stderr


def test_the_names_of_tables_and_keys_are_completed() -> None:
    assert [name for name, _ in complete_name("opt")] == ["optimizer"]
    assert "ppo.gamma" in [name for name, _ in complete_name("ppo.g")]
    assert "env.map_builder.Maze" in [name for name, _ in complete_name("env.map_builder.M")]
    assert all(reference(name).exit_code == 0 for name, _ in complete_name(""))


def test_it_can_be_read_by_a_pager_that_is_closed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "metta_cli", "reference", "env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == b""
    assert process.returncode == 0
