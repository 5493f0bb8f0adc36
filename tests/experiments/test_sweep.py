"""Sweeps: what becomes of trials, in one process; and with real processes, two at once, that are killed."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from in_process_pool import InProcessPool
from tiny_runs import TINY, Killed, metrics_of

from metta.api import SweepEnded, load_config, load_sweep, resume_sweep, start_sweep, sweep_summary
from metta.errors import UsageError
from metta.experiments.job_pool import JobEnded
from metta.experiments.sweep import run_sweep
from metta.experiments.sweep.score import EpochReward, part_rewards, seconds_to_reward
from metta.experiments.sweep.study import SweepStudy
from metta.experiments.sweep.summary import NOT_REACHED, SweepSummary
from metta.run.events import EpochEnded, Event
from metta_cli.main import app
from metta_cli.views.sweep_lines import end_lines

PARAMETERS = (
    '[sweep.parameters]\n"optimizer.learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'
    '"agent.mlp_layers" = { low = 1, high = 2 }\n'
)
SHORT = "\n[run]\ntotal_timesteps = 1536\n"


@pytest.fixture(autouse=True)
def _in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_sweep, "JobPool", InProcessPool)
    Path("tiny.toml").write_text(TINY)


def write(settings: str = "", parameters: str = PARAMETERS, tables: str = SHORT) -> str:
    Path("s.toml").write_text(f'[sweep]\nbase = "tiny.toml"\nmetric = "reward"\n{settings}\n{parameters}{tables}')
    return "s.toml"


def ignore(event: object) -> None:
    pass


def results(summary: SweepSummary) -> list[tuple[Any, ...]]:
    return [(trial.state, dict(trial.parameters), trial.score) for trial in summary.trials]


def test_a_sweep_that_is_killed_ends_like_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    source = write("trials = 4\n")
    whole = start_sweep(load_sweep(source), ignore, "whole").summary
    assert whole.ranked()
    assert len({trial.parameters["optimizer.learning_rate"] for trial in whole.trials}) == 4

    def kill(name: str, event: Event) -> None:
        if name.startswith("trial_0002") and isinstance(event, EpochEnded):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(InProcessPool, "after", staticmethod(kill))
        with pytest.raises(Killed):
            start_sweep(load_sweep(source), ignore, "killed")
    gc.collect()  # frees the locks, as the end of a process does
    assert [trial.state == "running" for trial in sweep_summary("killed").trials] == [False, False, True]
    ended = resume_sweep("killed", ignore)
    assert results(ended.summary) == results(whole)
    assert resume_sweep("killed", ignore).summary.trials == ended.summary.trials
    best = whole.ranked()[0]
    text = Path("killed/best.toml").read_text()
    assert f"trial {best.number}" in text
    config = load_config("killed/best.toml")
    assert config.optimizer.learning_rate == best.parameters["optimizer.learning_rate"]
    assert config.run.total_timesteps == 1536


def test_pruned_failed_and_killed_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    source = write('trials = 4\npruner = "median"\nsampler = "random"\nseeds = 2\n')
    ends = {
        "trial_0000/seed_1": [JobEnded("trial_0000/seed_1", None, "the loss is not finite")],
        "trial_0001/seed_0": [JobEnded("trial_0001/seed_0", None, "was killed", was_killed=True)] * 3,
        "trial_0002/seed_0": [JobEnded("trial_0002/seed_0", None, "was killed", was_killed=True)],
    }
    monkeypatch.setattr(
        InProcessPool, "error", staticmethod(lambda job: ends[job.name].pop() if ends.get(job.name) else None)
    )
    monkeypatch.setattr(SweepStudy, "report", lambda study, claimed, part, value: claimed.number == 3 and part > 9)
    trials = start_sweep(load_sweep(source), ignore, "out").summary.trials
    assert [trial.state for trial in trials] == ["failed", "failed", "complete", "pruned"]
    assert trials[0].reason == "trial_0000/seed_1: the loss is not finite"
    assert trials[1].reason == "trial_0001/seed_0: was killed"
    assert len(trials[2].run_dirs) == 2
    assert trials[3].reason.startswith("behind other trials after")
    assert not Path("out/trial_0003/seed_1").exists()


def test_the_pruner_compares_the_rewards_of_first_runs() -> None:
    summary = start_sweep(load_sweep(write('trials = 1\npruner = "none"\n')), ignore, "out").summary
    for trial in summary.trials:
        lines = [line for line in metrics_of(trial.run_dirs[0]) if line["reward"] is not None]
        steps, rewards = zip(*trial.intermediate_scores, strict=True)
        assert steps == tuple(line["agent_step"] * 27 // 1536 * 1536 // 27 for line in lines)
        assert rewards == pytest.approx([line["reward"] for line in lines])
        assert trial.score == pytest.approx(lines[-1]["reward"])


def test_combinations_that_are_not_valid_are_pruned_and_a_grid_has_each_once() -> None:
    parameters = '[sweep.parameters]\n"experience.minibatch_size" = { values = [256, 512] }\n' + (
        '"experience.batch_size" = { low = 256, high = 512, step = 256 }\n'
    )
    with pytest.warns(UserWarning, match="1 are not valid"):
        sweep = load_sweep(write('sampler = "grid"\npruner = "none"\n', parameters))
    trials = start_sweep(sweep, ignore, "out").summary.trials
    assert Counter(trial.state for trial in trials) == {"complete": 3, "pruned": 1}
    assert len({tuple(trial.parameters.values()) for trial in trials}) == 4
    [pruned] = [trial for trial in trials if trial.state == "pruned"]
    assert pruned.reason.startswith("the combination of values is not valid: experience.minibatch_size must be at most")


@pytest.mark.parametrize("storage", ["", "study.log"])
def test_a_trial_belongs_to_the_process_that_locked_it(storage: str) -> None:
    sweep = load_sweep(write("trials = 3\n"), storage or None)
    Path("out").mkdir()
    first = SweepStudy.create(Path("out"), sweep)
    second = SweepStudy.open(Path("out"))
    claims = [study.claim() for study in (first, second, second)]
    assert [(claim.number, claim.is_resumed) for claim in claims if claim] == [(0, False), (1, False), (2, False)]
    assert len(claims) == 3
    assert first.claim() is None
    assert second.claim() is None
    assert claims[0] is not None
    claims[0].lock.release()  # as the operating system does when the process ends
    resumed = second.claim()
    assert resumed is not None
    assert (resumed.number, resumed.is_resumed, resumed.values) == (0, True, claims[0].values)
    second.complete(resumed, [1.0, 2.0])
    assert [trial.value for trial in first.trials] == [1.5, None, None]
    with pytest.raises(UsageError, match="already has a study called"):
        SweepStudy.create(Path("out"), sweep)
    text = Path("out/sweep.toml").read_text()
    Path("out/sweep.toml").write_text(text.replace("high = 0.01", "high = 0.1"))
    with pytest.raises(UsageError, match="parameters cannot change after the sweep has begun"):
        SweepStudy.open(Path("out"))
    Path("out/sweep.toml").write_text(text.replace("trials = 3", "trials = 4"))
    more = SweepStudy.open(Path("out")).claim()
    assert more is not None
    assert more.number == 3


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_samplers_go_on_after_a_restart_as_without_one(sampler: str) -> None:
    parameters = (
        '[sweep.parameters]\n"ppo.gamma" = { low = 0.9, high = 0.99 }\n"ppo.ent_coef" = { low = 0, high = 1 }\n'
    )
    sweep = load_sweep(write(f'trials = 8\nsampler = "{sampler}"\n', parameters))

    def values(name: str, restart_at: int) -> list[dict[str, Any]]:
        Path(name).mkdir()
        study, found = SweepStudy.create(Path(name), sweep), []
        for number in range(8):
            if number == restart_at:
                study = SweepStudy.open(Path(name))
            claimed = study.claim()
            assert claimed is not None
            found.append(claimed.values)
            study.complete(claimed, [claimed.values["ppo.gamma"]])
        return found

    whole = values("whole", 8)
    assert values("restarted", 5) == whole
    assert len({entry["ppo.gamma"] for entry in whole}) == 8


def test_seconds_to_a_reward() -> None:
    epochs = [EpochReward(100 * n, 2, reward, 10.0 * n) for n, reward in enumerate([0.0, 1.0, 4.0, 3.0], 1)]
    assert seconds_to_reward(epochs, 4) == 30
    scores = [seconds_to_reward(epochs, target) for target in (4, 5, 8, 1000)]
    assert scores == sorted(scores)
    assert scores[1:] == pytest.approx([NOT_REACHED * factor for factor in (1.2, 1.5, 1.996)])
    assert part_rewards(epochs, 400, 8) == [(2, 0), (4, 1), (6, 4), (8, 3)]
    assert part_rewards(epochs, 400, 2) == [(1, 0.5), (2, 3.5)]


def run(*arguments: str) -> tuple[object, Any]:
    with pytest.raises(SystemExit) as ended:
        app(list(arguments))
    return ended.value.code, ended


def test_the_command_prints_and_its_files_are_used(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metta_cli.commands.sweep.set_up_torch", lambda: None)
    text = Path(write("trials = 2\n")).read_text()
    Path("s.toml").write_text(text.replace('metric = "reward"', 'metric = "seconds to reward = -9"'))
    assert run("sweep", "s.toml", "--run-dir", "out", "--json")[0] == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert Counter(line["event"] for line in lines) == {
        "begin": 1,
        "trial_begin": 2,
        "epoch": 6,
        "trial_end": 2,
        "end": 1,
    }
    assert lines[-1]["best_file"] == "out/best.toml"
    assert 0 < lines[-1]["best"]["score"] < NOT_REACHED
    assert run("sweep", "--status", "out")[0] == 0
    status = capfd.readouterr().out
    assert status.startswith("out: 2 of 2 trials: 2 complete, scored by seconds to reward = -9")
    assert "learning_rate" in status
    assert run("sweep", "--status", "out", "--json")[0] == 0
    assert len(json.loads(capfd.readouterr().out)["trials"]) == 2
    assert run("resume", "out")[0] == 0
    assert "finished: 2 of 2 trials: 2 complete" in capfd.readouterr().out
    interrupted = SweepEnded("interrupted", sweep_summary("out"), None, jobs=3)
    assert "  resume  metta resume out --jobs 3" in end_lines(interrupted)
    for arguments, message in {
        ("sweep",): "metta sweep takes one of FILE.toml, --join SWEEP and --status SWEEP",
        ("sweep", "s.toml", "--status", "out"): "metta sweep takes one of",
        ("sweep", "s.toml", "--run-dir", "out"): "out already has a sweep; to continue it: metta resume out",
        ("sweep", "--join", "tiny.toml"): "tiny.toml is not the directory of a sweep",
        ("sweep", "--join", "none"): "none does not exist",
        ("sweep", "--join", "out", "--run-dir", "x"): "--run-dir names a new directory",
        ("eval", "out"): "name one of the runs in it: out/trial_0000/seed_0, out/trial_0001/seed_0",
        ("resume", "out", "--set", "ppo.gamma=0.9"): "out is a sweep, whose settings cannot change; leave out --set",
        (
            "sweep",
            "s.toml",
            "--storage",
            "postgresql://user:secret@nowhere/x",
        ): "nowhere/x needs the Python package psycopg",
        ("sweep", "s.toml", "--storage", "none/study.log"): "none/study.log cannot be used as the storage",
    }.items():
        assert run(*arguments)[0] == 2
        error = capfd.readouterr().err
        assert message in error
        assert "secret" not in error


def test_without_the_extra(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("metta.experiments.sweep.", "optuna"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "optuna", None)
    import metta.api  # noqa: PLC0415  # after optuna is hidden

    monkeypatch.delitem(vars(metta.api), "sweep_summary", raising=False)
    assert run("sweep", "--status", "out")[0] == 2
    assert "metta sweep needs optuna: pip install 'metta-gridworlds[sweep]'" in capfd.readouterr().err


def test_optuna_dashboard_opens_the_study() -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    Path("out").mkdir()
    SweepStudy.create(Path("out"), load_sweep(write()))
    application = dashboard.wsgi("sqlite:///out/study.db")
    body = b"".join(application(wsgi_request("/api/studies"), lambda status, headers, *rest: None))
    [study] = json.loads(body)["study_summaries"]
    assert study["study_name"] == "s"


def wsgi_request(path: str) -> dict[str, Any]:
    from wsgiref.util import setup_testing_defaults  # noqa: PLC0415  # only this test needs it

    environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
    setup_testing_defaults(environ)
    return environ


@pytest.mark.slow
def test_processes_that_are_killed_and_joined() -> None:
    """A process is killed in the second run of a trial; two others, one of them started to join, end the sweep."""
    write('trials = 2\nseeds = 2\npruner = "none"\n', tables="\n[run]\ntotal_timesteps = 4096\n")
    command = [sys.executable, "-m", "metta_cli", "sweep"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [*command, "s.toml", "--run-dir", "out", "--json"], stdout=subprocess.PIPE, env=environment
    )
    assert first.stdout is not None
    for line in first.stdout:
        if (event := json.loads(line))["event"] == "epoch" and event["seed"] == 1:
            break
    os.kill(first.pid, signal.SIGKILL)
    first.stdout.close()
    first.wait()
    [trial] = sweep_summary("out").trials
    assert trial.state == "running"
    others = [
        subprocess.Popen([*command, "--join", "out", "--json"], stdout=subprocess.PIPE, env=environment, text=True),
        subprocess.Popen(
            [*command[:-1], "resume", "out", "--json"], stdout=subprocess.PIPE, env=environment, text=True
        ),
    ]
    events = [[json.loads(line) for line in other.communicate(timeout=200)[0].splitlines()] for other in others]
    assert [other.returncode for other in others] == [0, 0]
    began = [line for lines in events for line in lines if line["event"] == "trial_begin"]
    assert sorted((line["number"], line["is_resumed"]) for line in began) == [(0, True), (1, False)]
    trained = Counter((e["trial"], e["seed"]) for lines in events for e in lines if e["event"] == "epoch")
    assert trained == {(0, 1): 8, (1, 0): 8, (1, 1): 8}, "the first run of trial 0 was finished"
    summary = sweep_summary("out")
    assert [trial.number for trial in summary.trials] == [0, 1]
    assert {trial.state for trial in summary.trials} == {"complete"}
