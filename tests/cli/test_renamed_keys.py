"""Files with old names of keys: a command prints one note on stderr, and its output is the same as without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import TINY
from typer.testing import CliRunner, Result

from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.checkpoint.policy_file import KIND as POLICY
from metta_cli.main import app

OLD_RUN = Path(__file__).parents[1] / "compatibility" / "version_1" / "run"


def metta(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def old_file(tmp_path: Path) -> str:
    path = tmp_path / "old.toml"
    path.write_text(TINY.replace("[agent]\n", "[agent]\nown_frame = false\n") + "[distributed]\npatience_seconds = 9\n")
    return str(path)


def notes(result: Result) -> list[str]:
    assert "FutureWarning" not in result.output
    return [line for line in result.stderr.splitlines() if "The old names still work" in line]


def test_a_file_with_old_keys_gets_one_note(old_file: str) -> None:
    result = metta("check", old_file)
    (note,) = result.stderr.splitlines()
    assert note.startswith(f"note: {old_file}: ")
    assert "agent.own_frame is now agent.egocentric" in note
    assert "distributed.patience_seconds is now distributed.timeout_seconds" in note
    assert "timeout_seconds = 9" in result.stdout


def test_json_on_stdout_is_untouched(old_file: str, tmp_path: Path) -> None:
    result = metta("train", old_file, "--json", "--run-dir", str(tmp_path / "run"), "--total-timesteps", "512")
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()][-1] == "end"
    assert [line[:6] for line in notes(result)] == ["note: "]


def test_an_old_run_is_resumed_and_evaluated(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD_RUN, run)
    assert notes(metta("eval", str(run), "--episodes", "1")) == []
    config = (run / "config.toml").read_text()
    assert "own_frame" not in config
    (run / "config.toml").write_text(config.replace("[agent]\n", "[agent]\nown_frame = false\n"))
    assert notes(metta("eval", str(run), "--episodes", "1")) == []  # the policy has no old keys
    result = metta("resume", str(run), "--total-timesteps", "3072", "--json")
    assert [line[:6] for line in notes(result)] == ["note: "]
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()][-1] == "end"


def test_a_run_and_its_policy_with_the_same_old_keys_get_one_note(old_file: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    metta("train", old_file, "--run-dir", str(run), "--quiet")
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("egocentric =", "own_frame ="))
    for policy in (run / "checkpoints").glob("checkpoint_*.pt"):
        content = read_torch_file(policy, POLICY)
        content["agent_config"]["own_frame"] = content["agent_config"].pop("egocentric")
        write_torch_file(policy, POLICY, content)
    assert len(notes(metta("eval", str(run), "--episodes", "1"))) == 1
