"""Runs in child processes: the same results as alone, stopped, killed, failed, and what becomes of the others."""

from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from metta.errors import UsageError
from metta.experiments import job_pool
from metta.experiments.job_pool import Job, JobEnded, JobEvent, JobPool
from metta.run.events import EpochEnded
from metta.run.train import train_run
from tests.support.tiny_runs import assert_same_weights, ignore, metrics_of, tiny_config, weights_of

MARK = "metta-job-"
ENDLESS = "run.total_timesteps=1_000_000_000"


def children() -> dict[str, psutil.Process]:
    """The living processes of jobs, by job."""
    found: dict[str, psutil.Process] = {}
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            found |= {word.removeprefix(MARK): child for word in child.cmdline() if word.startswith(MARK)}
    return found


@pytest.mark.parametrize(
    ("cores", "jobs", "limit", "threads"),
    [(2, 2, "", 2), (8, 2, "", 4), (8, 8, "", 2), (1, 3, "", 1), (8, 2, "1", 1), (2, 1, "", 0)],
)
def test_cores_are_shared_out_and_two_jobs_on_two_cores_have_the_threads_of_a_run_alone(
    cores: int, jobs: int, limit: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_pool, "available_cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert job_pool.threads_per_job(jobs) == threads


def test_jobs_stop_fail_and_are_killed_and_the_others_go_on(tmp_path: Path) -> None:
    """One pool: a run that ends, one that is stopped early, one that is killed, one that fails; then one more."""
    alone = tmp_path / "alone"
    train_run(tiny_config(alone, "run.total_timesteps=1024"), ignore)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "checkpoints").touch()
    jobs = {
        "short": tiny_config(tmp_path / "short", "run.total_timesteps=1024"),
        "stopped": tiny_config(tmp_path / "stopped", ENDLESS),
        "killed": tiny_config(tmp_path / "killed", ENDLESS),
        "failed": tiny_config(tmp_path / "taken"),
    }
    ended: dict[str, JobEnded] = {}
    epochs: dict[str, list[int]] = {name: [] for name in jobs}
    with JobPool(max_jobs=2) as pool:
        for name, config in jobs.items():
            pool.submit(Job(name, config))
        with pytest.raises(UsageError, match="short is already waiting"):
            pool.submit(Job("short", jobs["short"]))
        for happened in pool.events():
            assert len(children()) <= 2
            match happened:
                case JobEvent(name, EpochEnded(metrics)):
                    epochs[name].append(metrics.epoch)
                    if name == "stopped":
                        pool.stop(name)
                    if name == "killed" and metrics.epoch == 2:
                        children()[name].kill()
                case JobEnded(name):
                    ended[name] = happened
                    if name == "killed":  # as a sweep submits its next trial
                        pool.submit(Job("resumed", tiny_config(tmp_path / "killed", "run.total_timesteps=1024")))
                        epochs["resumed"] = []
    assert children() == {}
    assert {name: end.run and end.run.reason for name, end in ended.items()} == {
        "short": "finished",
        "stopped": "interrupted",
        "killed": None,
        "failed": None,
        "resumed": "finished",
    }
    assert epochs["short"] == epochs["resumed"] == [1, 2]
    assert ended["killed"].error == "its process was killed by SIGKILL; perhaps memory ran out"
    assert "checkpoints" in ended["failed"].error
    for name in ("short", "killed"):
        assert_same_weights(weights_of(alone, 2), weights_of(tmp_path / name, 2))
        assert metrics_of(tmp_path / name)[:2] == metrics_of(alone)
