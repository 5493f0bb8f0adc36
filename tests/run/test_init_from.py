"""`run.init_from`, `metta train --from`: new runs that start with the weights of other runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import (
    TINY,
    Killed,
    Recorder,
    assert_same_weights,
    ignore,
    interrupt,
    kill,
    metrics_of,
    tiny_config,
    weights_of,
)
from typer.testing import CliRunner

from metta.api import Override, RunBegan, TrainingState, WeightTransfer, load_config, open_config, resume_run, train_run
from metta.errors import ConfigError, Problem, UsageError
from metta_cli.main import app

NO_TRAINING = ("run.total_timesteps=512", "optimizer.learning_rate=1e-30")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the run `runs/old`, of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    train_run(tiny_config(folder / "runs" / "old", "run.total_timesteps=1024", "normalization.values=true"), ignore)
    (folder / "tiny.toml").write_text(TINY.replace("total_timesteps = 4096", "total_timesteps = 512"))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that directory, the working directory."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def metta(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


NAMES = ["runs/old", "runs/old/checkpoints", "runs/old/checkpoints/checkpoint_000002.pt", "old", "tiny", "runs/o*"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_starts_with_the_weights_of_the_policy_that_a_name_means(name: str, folder: Path) -> None:
    """The name is written in the file, given to `--set` or to `--from`; the run notes the file of the policy."""
    text = Path("tiny.toml").read_text()
    Path("named.toml").write_text(text.replace("[run]", f'[run]\ninit_from = "{name}"'))
    for index, arguments in enumerate(
        (["named.toml"], ["tiny.toml", "--set", f"run.init_from={name}"], ["tiny.toml", "--from", name])
    ):
        metta("train", *arguments, "--run-dir", f"new{index}", "--quiet")
        old, new = weights_of(Path("runs/old"), 2), weights_of(Path(f"new{index}"), 0)
        for key in old.keys() - {"value_head.output.weight", "value_head.output.bias", *STATISTICS}:
            assert torch.equal(new[key], old[key]), key
        text = Path(f"new{index}/config.toml").read_text()
        assert f'init_from = "{folder}/runs/old/checkpoints/checkpoint_000002.pt"' in text


STATISTICS = ("value_head.mean", "value_head.std", "value_head.moments")


def test_a_new_run_has_a_new_optimizer_and_counts_from_zero(folder: Path) -> None:
    recorder = Recorder()
    train_run(tiny_config("new", "run.init_from=old", "run.total_timesteps=512"), recorder)
    began, transfer = recorder.events[:2]
    assert isinstance(began, RunBegan)
    assert (began.epoch, began.agent_step) == (0, 0)
    assert isinstance(transfer, WeightTransfer)
    assert transfer.num_loaded == transfer.num_weights == began.parameters
    state = TrainingState.load(Path("new/checkpoints/trainer_state_000000.pt"))
    assert state.optimizer_state_dict["state"] == {}
    initial = state.extra_args["initial_weights"]
    weights = weights_of(Path("new"), 0)
    assert_same_weights(initial, {name: weights[name] for name in initial})


@pytest.mark.parametrize("stop", [interrupt, kill], ids=["interrupted", "killed"])
def test_a_resumed_run_is_bit_identical_without_the_policy(stop: object, folder: Path) -> None:
    settings = [
        *("run.init_from=old", "checkpoint.checkpoint_interval=1", "run.total_timesteps=2048"),
        *("self_play.share=0.5", "self_play.snapshot_interval=2", "kickstarting.teacher=runs/old"),
    ]
    train_run(tiny_config("straight", *settings), ignore)
    if stop is interrupt:
        train_run(tiny_config("stopped", *settings), Recorder(2, interrupt))
    else:
        with pytest.raises(Killed):
            train_run(tiny_config("stopped", *settings), Recorder(2, kill))
    shutil.rmtree("runs")
    resume_run("stopped", ignore)
    assert metrics_of(Path("straight")) == metrics_of(Path("stopped"))
    assert_same_weights(weights_of(Path("straight"), 4), weights_of(Path("stopped"), 4))


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_with_the_same_policy(folder: Path) -> None:
    """Also when its policy lies in its own directory, and when the other run has a newer policy by then."""
    train_run(tiny_config("straight", "run.init_from=old", *NO_TRAINING), ignore)
    Path("new").mkdir()
    shutil.copy("runs/old/checkpoints/checkpoint_000002.pt", "new/start.pt")
    train_run(tiny_config("new", "run.init_from=new/start.pt", *NO_TRAINING), ignore)
    assert 'init_from = "{run_dir}/start.pt"' in Path("new/config.toml").read_text()
    for name in ("metrics.jsonl", *(f"checkpoints/{path.name}" for path in Path("new/checkpoints").iterdir())):
        (Path("new") / name).unlink()
    moved = Path("new").rename("moved")
    resume_run(moved, ignore)
    assert_same_weights(weights_of(Path("straight"), 0), weights_of(moved, 0))
    assert load_config("moved/config.toml").run.init_from == "moved/start.pt"


def test_what_does_not_fit_is_listed(folder: Path) -> None:
    options = ["--from", "old", "--set", "agent.lstm_layers=2", "--set", "env.actions.sleep.type=noop"]
    lines = [
        "weights from runs/old/checkpoints/checkpoint_000002.pt",
        "  new: memory (lstm.ih_l1, lstm.hh_l1), action sleep",
        "  differing: agent.lstm_layers is 2 here and 1 in the file",
    ]
    printed = metta("train", "tiny.toml", *options)
    assert "\n".join(lines) in printed
    events = [json.loads(line) for line in metta("train", "tiny.toml", *options, "--json").splitlines()]
    (event,) = [event for event in events if event["event"] == "weights"]
    assert event["path"] == "runs/old/checkpoints/checkpoint_000002.pt"
    assert event["new"] == ["memory (lstm.ih_l1, lstm.hh_l1)", "action sleep"]
    assert (event["dropped"], len(event["differing"])) == ([], 1)
    assert 0 < event["num_loaded"] < event["num_weights"] == events[0]["parameters"]
    checked = metta("check", "tiny.toml", *options)
    assert f"{event['num_loaded']:,}  from {event['path']}" in checked
    assert "# new here                         2  memory (lstm.ih_l1, lstm.hh_l1), action sleep" in checked
    rows = json.loads(metta("check", "tiny.toml", *options, "--json"))["derived"]
    assert {"name": "weights taken over", "value": event["num_loaded"], "reason": f"from {event['path']}"} in rows


WRONG: dict[str, str] = {
    "gone.pt": "gone.pt does not exist",
    "oldd": 'oldd does not exist, here or as a run in runs/; did you mean "old"?',
    "damaged.pt": "damaged.pt is damaged or truncated",
    "tiny.toml": "tiny.toml is not a metta file; metta files are torch files",
    "empty": "empty is not a run directory, and has no policy checkpoint",
    "scripted": "must be a policy checkpoint or a run; the policy scripted has no weights",
    "runs/old/checkpoints/trainer_state_000002.pt": "is a trainer state, not a policy checkpoint",
}


def test_all_policies_that_a_file_names_are_checked_at_once(folder: Path) -> None:
    Path("damaged.pt").write_bytes(Path("runs/old/checkpoints/checkpoint_000002.pt").read_bytes()[:-100])
    text = Path("tiny.toml").read_text().replace("[run]", '[run]\ninit_from = "gone"')
    tables = '[kickstarting]\nteacher = "x.pt"\n[self_play]\nshare = 0.5\npolicies = ["old", "random", "damaged.pt"]\n'
    Path("wrong.toml").write_text(tables + text)
    line = (tables + text).splitlines().index('init_from = "gone"') + 1
    for command in ("train", "check"):
        printed = metta(command, "wrong.toml", code=2)
        assert printed.splitlines()[:5] == [
            "error: wrong.toml has 4 problems",
            "  line 2  kickstarting.teacher   x.pt does not exist",
            "  line 5  self_play.policies[1]  must be a policy checkpoint or a run; the policy random has no weights",
            "  line 5  self_play.policies[2]  damaged.pt is damaged or truncated",
            f"  line {line}  run.init_from          gone does not exist, here or as a run in runs/",
        ]


def test_a_run_notes_the_files_of_all_policies(folder: Path) -> None:
    """Names mean other runs later, and elsewhere; the names of registered policies stay."""
    metta(
        "train",
        "tiny.toml",
        "--run-dir",
        "new",
        "--quiet",
        "--set",
        "kickstarting.teacher=old",
        "--set",
        'self_play.policies=["old", "runs/old"]',
        "--set",
        "self_play.share=0.5",
    )
    file = f"{folder}/runs/old/checkpoints/checkpoint_000002.pt"
    config = load_config("new/config.toml")
    assert (config.kickstarting.teacher, config.self_play.policies) == (file, [file, file])
    metta("train", "tiny.toml", "--run-dir", "scripted", "--quiet", "--set", "kickstarting.teacher=scripted")
    assert load_config("scripted/config.toml").kickstarting.teacher == "scripted"


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_policy_is_an_error_with_its_place(name: str, command: str, folder: Path) -> None:
    Path("empty").mkdir()
    Path("damaged.pt").write_bytes(Path("runs/old/checkpoints/checkpoint_000002.pt").read_bytes()[:-100])
    text = Path("tiny.toml").read_text().replace("[run]", f'[run]\ninit_from = "{name}"')
    Path("wrong.toml").write_text(text)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if row.startswith("init_from"))
    for arguments, where in (
        (["wrong.toml"], f"error: wrong.toml has 1 problem\n  line {line}  run.init_from  "),
        (["tiny.toml", "--from", name], "error: the command line has 1 problem\n  --from  run.init_from  "),
        (
            ["tiny.toml", "--set", f"run.init_from={name}"],
            "error: the command line has 1 problem\n  --set  run.init_from  ",
        ),
    ):
        printed = metta(command, *arguments, code=2)
        assert where in printed
        assert WRONG[name] in printed
    assert [path.name for path in Path("runs").iterdir()] == ["old"]
    with pytest.raises(ConfigError, match=r"run\.init_from"):
        train_run(load_config("wrong.toml"), ignore)


def test_a_policy_of_which_nothing_fits_is_an_error(folder: Path) -> None:
    train_run(tiny_config("runs/flat", "agent.backbone=mlp", "run.total_timesteps=512"), ignore)
    options = ["--from", "flat", "--set", "agent.hidden_dim=24", "--set", "agent.backbone=mlp"]
    printed = metta("train", "tiny.toml", *options, code=2)
    assert "--from  run.init_from  no weights of runs/flat/checkpoints/checkpoint_000001.pt fit" in printed
    assert "agent.hidden_dim is 24 here and 16 in the file; set these as in the file" in printed


def test_a_resumed_run_cannot_start_with_other_weights(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.init_from cannot change when a run resumes"):
        resume_run("runs/old", ignore, [Override.parse("run.init_from=x.pt")])


def test_an_error_inside_open_config_names_its_line(folder: Path) -> None:
    message = r"tiny.toml has 1 problem\n  line 3  run.name  is not nice"
    with pytest.raises(ConfigError, match=message), open_config("tiny.toml"):
        raise ConfigError("x", [Problem(("run", "name"), "is not nice")])
