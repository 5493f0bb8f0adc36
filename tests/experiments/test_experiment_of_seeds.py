"""`metta train --seeds`: experiment directories, killed and resumed, the same results as alone, wrong options."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import stats
from tiny_runs import TINY, assert_same_weights, ignore, interrupt, metrics_of, tiny_config, weights_of
from typer.testing import CliRunner

from metta.api import EpochEnded, ExperimentEvent, JobEvent, experiment_runs, resume_runs, train_run, train_runs
from metta.errors import UsageError
from metta.experiments.seeds import Experiment
from metta.job_environment import JOB_VARIABLES
from metta_cli.main import app

OPTIONS = ("run.total_timesteps=20480", "checkpoint.checkpoint_interval=1")


def test_killed_interrupted_and_resumed_as_if_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL of the command, then Ctrl-C, then to the end: each run is bit for bit that of its seed alone."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tiny.toml").write_text(TINY)
    arguments = ["train", "tiny.toml", "--seeds", "0,7", "--jobs", "2", "--run-dir", "runs/both", "--json"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "metta_cli", *arguments, *(f"--set={option}" for option in OPTIONS)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert killed.stdout is not None
    events = map(json.loads, killed.stdout)
    began = next(events)
    assert (began["event"], began["runs"], began["jobs"]) == ("experiment_begin", {"seed_0": 0, "seed_7": 7}, 2)
    epoch = next(event for event in events if event["event"] == "epoch")
    assert (epoch["run"], epoch["epoch"]) == (f"seed_{epoch['seed']}", 1)
    children = psutil.Process(killed.pid).children()
    killed.kill()
    killed.communicate()
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=20)[1] == []

    root = tmp_path / "runs" / "both"
    reasons: list[str] = []

    def interrupt_once(event: ExperimentEvent) -> None:
        if isinstance(event, JobEvent) and isinstance(event.event, EpochEnded) and not reasons:
            reasons.append("interrupting")
            interrupt()

    assert resume_runs(root, interrupt_once).reason == "interrupted"
    for seed in (0, 7):
        assert len(metrics_of(root / f"seed_{seed}")) < 40
    ended = resume_runs(root, lambda event: None)
    assert ended.reason == "finished"
    assert experiment_runs(root) == [root / "seed_0", root / "seed_7"]
    alone = tmp_path / "alone"
    train_run(tiny_config(alone, *OPTIONS, "run.seed=7"), ignore)
    assert metrics_of(root / "seed_7") == metrics_of(alone)
    assert_same_weights(weights_of(alone, 40), weights_of(root / "seed_7", 40))

    again = resume_runs(root, lambda event: None)  # nothing is left to train: no process starts
    assert again.reason == "finished"
    last = again.runs["seed_7"].run
    assert last is not None
    assert (last.checkpoint, last.agent_step) == (root / "seed_7" / "checkpoints" / "checkpoint_000040.pt", 20480)
    monkeypatch.chdir(tmp_path)
    check_commands_that_name_an_experiment(Path("runs/both"), str(root))
    root.rename(root.with_name("both-20260102-030405"))
    root.with_name("both-20260102-030404").mkdir()
    check_commands_that_name_an_experiment(Path("runs/both-20260102-030405"), "both")


def check_commands_that_name_an_experiment(root: Path, source: str) -> None:
    """Commands for one run say which runs there are; a report, an evaluation and a tournament take all of them."""
    for command in (["replay"], ["watch"], ["export"], ["train", "quickstart", "--from"]):
        ran = CliRunner().invoke(app, [*command, str(root) if "--from" in command else source])
        assert ran.exit_code == 2, command
        assert "name one of the runs in it: " in ran.stderr, command
        assert f"{root}/seed_0, " in ran.stderr, command
    ran = CliRunner().invoke(app, ["resume", str(root / "seed_0"), "--jobs", "2"])
    assert "--jobs is for experiments" in ran.stderr
    with pytest.raises(UsageError, match="already contains a run; resume it"):
        train_run(tiny_config(root), ignore)
    page = Path("page.html")
    assert CliRunner().invoke(app, ["report", source, "--out", str(page)]).exit_code == 0
    assert "seed_7" in page.read_text(encoding="utf-8")
    assert CliRunner().invoke(app, ["resume", source, "--quiet"]).exit_code == 0
    check_evaluation(root, source)


def check_evaluation(root: Path, source: str) -> None:
    """The policy of each run as if evaluated alone, and their mean with its interval over runs."""
    ran = CliRunner().invoke(app, ["eval", source, "--episodes", "6", "--json"])
    found = json.loads(ran.stdout)
    assert list(found["runs"]) == ["seed_0", "seed_7"]
    alone = [
        json.loads(CliRunner().invoke(app, ["eval", str(root / run), "--episodes", "6", "--json"]).stdout)
        for run in found["runs"]
    ]
    assert [found["runs"][f"seed_{seed}"]["policy"] for seed in (0, 7)] == [values["policy"] for values in alone]
    assert found["runs"]["seed_0"]["random"] == alone[0]["random"]
    assert "random" not in found["runs"]["seed_7"]
    rewards = [values["policy"]["mean_reward"] for values in alone]
    half_width = stats.t.ppf(0.975, df=1) * stats.sem(rewards)
    assert found["policy"]["mean_reward"] == pytest.approx(np.mean(rewards))
    assert found["policy"]["reward_interval"] == pytest.approx(
        [np.mean(rewards) - half_width, np.mean(rewards) + half_width]
    )
    assert found["policy"]["num_runs"] == 2
    ran = CliRunner().invoke(app, ["eval", source, "--episodes", "6"])
    rows = [line.split() for line in ran.stdout.splitlines() if line.strip()]
    assert [row[0] for row in rows[-3:]] == ["seed_0", "seed_7", "mean"]
    ran = CliRunner().invoke(app, ["eval", source, "--tasks"])
    assert "an experiment, whose runs are evaluated in one world; leave out --tasks" in ran.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--seeds 0,x", '"0,x" is neither a number of seeds, such as 5, nor a list of seeds, such as 0,1,2'),
        ("--seeds 3,", '"3," is neither'),
        ("--seeds 1,1", "each seed can be trained once; listed twice: 1"),
        ("--seeds 0", "the number of seeds must be from 1 to 1000; got 0; to train a single seed: --seed 0"),
        ("--seeds=-2", "the number of seeds must be from 1 to 1000; got -2"),
        ("--seeds 0,9223372036854775808", "a seed must be a whole number from 0 to 2^63 - 1; got 9223372036854775808"),
        ("--seeds 3 --seed 1", "--seeds and --seed both set the seed of the runs; leave out one"),
        ("--seeds 3 --set run.seed=1", "--seeds and --set both set the seed of the runs; leave out one"),
        ("--jobs 2", "--jobs is the number of runs that --seeds trains at once; add --seeds"),
        ("--seeds 2 --jobs 0", "must be at least 1; got 0"),
        ("--seeds 2 --or-resume", "--or-resume needs a directory"),
        ("--seeds 2 --run-dir tiny.toml", "tiny.toml is a file; name a directory for the experiment"),
        ("--seeds 2 --run-dir full", "full is not empty (it contains notes.txt); choose another --run-dir"),
        ("--seeds 2 --run-dir run", "run already contains a run; resume it (metta resume run)"),
        ("--seeds 2 --run-dir both", "both already contains an experiment; resume it (metta resume both)"),
        ("--seeds 3 --run-dir both --or-resume", "both has the seeds 0,1; to resume it: --seeds 0,1"),
        ("--seeds 2 --run-dir both --or-resume --set ppo.gamma=0.5", "must be 0.977 to resume both; got 0.5"),
        ("--seeds 2 --run-dir damaged --or-resume", "experiment.toml is damaged: it needs seeds, jobs and threads"),
    ],
)
def test_wrong_options(options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    for folder in ("full", "run", "both", "damaged"):
        Path(folder).mkdir()
    Path("full/notes.txt").touch()
    Path("run/config.toml").touch()
    Path("damaged/experiment.toml").write_text("seeds = 3")
    Experiment(Path("both"), tiny_config(), (0, 1), 2, 1).write()
    before = sorted(tmp_path.rglob("*"))
    ran = CliRunner().invoke(app, ["train", "tiny.toml", *options.split()])
    assert (ran.exit_code, sorted(tmp_path.rglob("*"))) == (2, before)
    assert message in ran.stderr


def test_not_in_a_job_of_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(JOB_VARIABLES, ("2", "0", "0", "localhost", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="leave out torchrun"):
        train_runs(tiny_config(tmp_path / "both"), [0, 1], lambda event: None)
