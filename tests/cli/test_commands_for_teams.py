"""Commands that take a policy take a run of several policies, and one of its policies by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metta.run.train import train_run
from metta_cli.main import app
from tests.support.tiny_runs import TEAM, ignore, tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with the policies `wolves` and `deer`."""
    path: Path = tmp_path_factory.mktemp("team") / "pack"
    train_run(tiny_config(path, *TEAM), ignore)
    return path


def output(*command: str | Path) -> str:
    ran = CliRunner().invoke(app, [str(word) for word in command])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def actions(*command: str | Path) -> tuple[float, ...]:
    """Counters of actions in an evaluation."""
    stats = json.loads(output("eval", *command, "--episodes", "2", "--json"))["policy"]["stats"]
    return tuple(value for name, value in sorted(stats.items()) if name.startswith("action."))


def test_each_policy_plays_its_groups_in_an_evaluation(run: Path) -> None:
    by_policy = {name: actions(f"{run}{name}") for name in ("", ":wolves", ":deer")}
    assert len(set(by_policy.values())) == 3, "the team plays like one of its policies"


def test_policies_of_a_run_play_against_each_other(run: Path) -> None:
    against = json.loads(
        output("eval", f"{run}:wolves", "--against", f"{run}:deer", "--group", "hunters", "--episodes", "2", "--json")
    )
    assert against["against"].endswith(":deer")
    table = output("tournament", f"{run}:wolves", f"{run}:deer", "scripted", "--episodes", "2", "--json")
    assert len(json.loads(table)["policies"]) == 3


def test_a_team_is_recorded_and_each_of_its_policies_exported(run: Path, tmp_path: Path) -> None:
    output("replay", run, "--out", tmp_path)
    assert list(tmp_path.glob("*.html"))
    names = [Path(line).name for line in output("export", run).split()]
    assert [name.rpartition("_")[2] for name in names] == ["wolves.onnx", "deer.onnx"]
    output("export", f"{run}:deer", "--out", tmp_path / "deer.onnx")
    assert (tmp_path / "deer.onnx").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["eval", "{run}:fox"], 'has no policy "fox": it holds wolves, deer'),
        (["export", "{run}", "--out", "one.onnx"], "holds several policies (wolves, deer); name one of them"),
    ],
)
def test_errors_name_the_policies(run: Path, command: list[str], message: str) -> None:
    ran = CliRunner().invoke(app, [word.format(run=run) for word in command])
    assert ran.exit_code != 0
    assert message in " ".join(ran.stderr.split())
