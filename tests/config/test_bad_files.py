"""Every invalid file in the tables of `bad_files/` gets exactly the message below it.

`UPDATE_GOLDEN=1 pytest tests/config/test_bad_files.py` writes the messages, to be read before they are committed.
"""

import os
from pathlib import Path

import pytest
from bad_configs import TABLES, BadConfig, bad_configs

from metta.config.loading.load import load_config
from metta.config.parts.registries import ACTIONS, OBJECTS
from metta.errors import ConfigError
from metta_cli.main import app

CASES = list(bad_configs())

each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _without_rules_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (ACTIONS, OBJECTS):
        own = {name: rule for name, rule in registry._registered.items() if name in registry.built_in}
        monkeypatch.setattr(registry, "_registered", own)


def test_the_tables_are_read_in_full() -> None:
    lines = [line for table in TABLES.glob("*.txt") for line in table.read_text(encoding="utf-8").splitlines()]
    assert len(CASES) == sum(line.startswith("=== ") for line in lines) >= 112
    assert len({case.name for case in CASES}) == len(CASES)


@each_case
def test_the_message_is_exact_and_names_a_line_for_every_problem(case: BadConfig) -> None:
    Path(case.file_name).write_text(case.toml, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(case.file_name)
    message = f"error: {caught.value}\n"
    if os.environ.get("UPDATE_GOLDEN"):
        case.write_message(message)
    else:
        assert message == case.message
    assert all(problem.line for problem in caught.value.problems)


@each_case
def test_commands_print_the_message_and_create_nothing(
    case: BadConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(case.file_name).write_text(case.toml, encoding="utf-8")
    for command in ("check", "train"):
        with pytest.raises(SystemExit) as ended:
            app([command, case.file_name])
        output = capfd.readouterr()
        assert (ended.value.code, output.out, output.err) == (2, "", case.message)
        assert [entry.name for entry in tmp_path.iterdir()] == [case.file_name]
