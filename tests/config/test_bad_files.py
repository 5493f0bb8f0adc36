"""Every wrong TOML file in `bad/` is answered by exactly the text beside it.

A new case is a `bad/NAME.toml`; `UPDATE_GOLDEN=1 pytest tests/config/test_bad_files.py` writes the texts, to be read
before they are committed.
"""

import os
from pathlib import Path

import pytest

from metta.config.loading.load import load_config
from metta.errors import ConfigError
from metta_cli.main import app

BAD = Path(__file__).parent / "bad"
FILES = sorted(BAD.glob("*.toml"))

each_file = pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])


def test_there_are_enough() -> None:
    assert len(FILES) >= 60


@each_file
def test_the_message_is_exact(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(ConfigError) as caught:
        load_config(file.name)
    expected = file.with_suffix(".txt")
    text = f"error: {caught.value}\n"
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(text, encoding="utf-8")
    assert text == expected.read_text(encoding="utf-8")


@each_file
@pytest.mark.parametrize("command", ["check", "train"])
def test_the_command_line_says_it_and_creates_nothing(
    command: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app([command, file.name])
    output = capfd.readouterr()
    assert ended.value.code == 2
    assert output.out == ""
    assert output.err == file.with_suffix(".txt").read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


@each_file
def test_every_line_is_named(file: Path) -> None:
    """Wherever a problem can be seen in the file, the message has its line."""
    with pytest.raises(ConfigError) as caught:
        load_config(str(file))
    assert all(problem.line for problem in caught.value.problems)


def test_no_text_is_left_over() -> None:
    assert {text.stem for text in BAD.glob("*.txt")} == {file.stem for file in FILES}
