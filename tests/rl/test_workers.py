"""Training with worker processes: bit for bit the results without them, also across resumes, kills and signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from registered_maps import registered_builders  # noqa: F401  # a fixture, which pytest finds by its name
from tiny_runs import (
    TINY,
    Recorder,
    assert_same_state,
    assert_same_weights,
    ignore,
    interrupt,
    metrics_of,
    only_learner,
    tiny_config,
    train_epoch,
    weights_of,
)
from worker_worlds import children_of, is_running, wait_until_ended

from metta.api import Override, RunConfig, resume_run, train_run
from metta.config.batch_plan import plan_batch
from metta.config.plan import worker_count as counting
from metta.config.plan.memory_estimate import WORKER_BYTES, memory_parts
from metta.config.plan.worker_count import available_cores, worker_count
from metta.config.training import ExperienceConfig
from metta.errors import MapError, TrainingError
from metta.rl.curricula.curriculum import Curriculum
from metta.run.training_run import TrainingRun

DEADLINE = 300.0
BATCH = ("experience.forward_pass_minibatch_target_size=24",)  # 12 worlds
SCENES = ("short.toml", "long.toml")
SETTINGS = {
    "plain": (),
    "masks": ("agent.mask_actions=true", "experience.stagger_episodes=true"),
    "curriculum": ("curriculum.type='learning_progress'", "experience.async_factor=3"),
    "self-play": ("self_play.share=0.5", "self_play.snapshot_interval=1", "env.game.max_steps=13"),
    "teacher": ("kickstarting.teacher='scripted'", "kickstarting.label_share=0.5", "agent.mask_actions=true"),
    "one batch": ("experience.async_factor=1", "experience.zero_copy=false"),
}
"""Ways to train in which the environment is used differently."""


def config_of(name: str, workers: int | str, directory: Path, *more: str) -> RunConfig:
    """A tiny run with one of the settings, whose scenes are in `directory`."""
    settings = [*BATCH, *SETTINGS[name], *more, f"experience.workers={workers!r}"]
    if name == "curriculum":
        paths = []
        for scene, steps in zip(SCENES, (7, 11), strict=True):
            path = directory / scene
            path.write_text(TINY.replace("max_steps = 20", f"max_steps = {steps}"))
            paths.append(str(path))
        settings.append(f"curriculum.scenes={paths}")
    return tiny_config("", *settings)


def trained(config: RunConfig, epochs: int = 3) -> tuple[object, ...]:
    """Metrics, weights, state, evaluation and replay of a run after some epochs."""
    torch.manual_seed(0)
    run = TrainingRun(config, Curriculum.from_config(config))
    assert len(children_of(os.getpid())) == (config.experience.workers or 0)
    metrics = []
    for _ in range(epochs):
        measured = vars(train_epoch(run))
        metrics.append({key: value for key, value in measured.items() if "second" not in key})
    learner = only_learner(run)
    result = (metrics, dict(learner.agent.state_dict()), learner.experience.state(), run.evaluate().summary())
    run.close()
    assert children_of(os.getpid()) == []
    return result


@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    expected = trained(config_of(name, 0, tmp_path))
    for workers in (1, 2, 3) if name == "plain" else (3,) if name in ("masks", "teacher") else (2,):
        found = trained(config_of(name, workers, tmp_path))
        for what, first, second in zip(("metrics", "weights", "state", "evaluation"), expected, found, strict=True):
            assert_same_state(first, second, f"{workers} workers: {what}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six epochs without workers."""
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    train_run(tiny_config(run_dir, *BATCH, "run.total_timesteps=3072", "simulation.replay_interval=0"), ignore)
    return run_dir


def assert_same_run(first: Path, second: Path) -> None:
    assert metrics_of(first) == metrics_of(second)
    assert_same_weights(weights_of(first, 6), weights_of(second, 6))


def test_resume_may_change_the_number_of_workers(straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    common = (*BATCH, "run.total_timesteps=3072", "simulation.replay_interval=0")
    train_run(tiny_config(run_dir, *common, "experience.workers=2"), Recorder(2, interrupt))
    for workers, stop in ((0, 3), (3, 5), (2, 9)):
        resume_run(run_dir, Recorder(stop, interrupt), [Override.parse(f"experience.workers={workers}")])
    assert_same_run(straight, run_dir)
    assert "workers = 2" in (run_dir / "config.toml").read_text()


def test_a_worker_that_dies_ends_the_run_and_nothing_is_lost(straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    killer = Recorder(2, lambda: os.kill(children_of(os.getpid())[0], signal.SIGKILL))
    config = tiny_config(
        run_dir, *BATCH, "run.total_timesteps=3072", "simulation.replay_interval=0", "experience.workers=2"
    )
    lost = r"stopped in epoch \d: worker 1 of 2 \(process \d+\) was killed by SIGKILL; perhaps memory ran out; "
    with pytest.raises(TrainingError, match=lost + r"metta resume .* continues from trainer_state_00000\d"):
        train_run(config, killer)
    assert children_of(os.getpid()) == []
    resume_run(run_dir, ignore)
    assert_same_run(straight, run_dir)


def test_a_run_that_cannot_begin_leaves_no_workers() -> None:
    builder = "{ type = 'Custom', name = 'wrong shape', border_width = 1, objects = {} }"
    config = tiny_config("", *BATCH, "experience.workers=2", f"env.map_builder={builder}")
    with pytest.raises(MapError, match='"wrong shape" returned'):
        TrainingRun(config, Curriculum.from_config(config))
    deadline = time.monotonic() + DEADLINE
    while children_of(os.getpid()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children_of(os.getpid()) == []


class TestProcesses:
    """The command as a real process."""

    @pytest.fixture
    def process(self, tmp_path: Path) -> subprocess.Popen[str]:
        """Training with two workers, after its second epoch, in a process group with its workers."""
        (tmp_path / "long.toml").write_text(TINY.replace("total_timesteps = 4096", "total_timesteps = 100_000_000"))
        command = [sys.executable, "-m", "metta_cli", "train", "long.toml", "--run-dir", "run"]
        process = subprocess.Popen(
            [*command, "--set", "experience.workers=2", "--set", BATCH[0]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2 "):
                break
        return process

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
    def test_a_signal_to_all_processes_stops_the_run_once(
        self, process: subprocess.Popen[str], number: signal.Signals, tmp_path: Path
    ) -> None:
        workers = children_of(process.pid)
        assert len(workers) == 2
        os.killpg(process.pid, number)
        output, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130, errors
        assert errors.count(f"{number.name}: Saving, then stopping.") == 1
        assert "Traceback" not in output + errors
        assert re.search(r"^interrupted: ", output, re.MULTILINE)
        wait_until_ended(workers)
        assert resume_run(tmp_path / "run", ignore, [Override.parse("run.total_timesteps=512")]).epoch >= 2

    def test_a_killed_run_leaves_no_workers_and_no_shared_memory(self, process: subprocess.Popen[str]) -> None:
        before = set(os.listdir("/dev/shm"))
        workers = children_of(process.pid)
        assert all(map(is_running, workers))
        process.kill()
        process.communicate(timeout=DEADLINE)
        wait_until_ended(workers)
        assert set(os.listdir("/dev/shm")) <= before


# -- number of workers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "processes", "agents", "setting", "cpu", "gpu"),
    [
        (1, 1, 4096, "auto", 0, 0),
        (2, 1, 4096, "auto", 1, 0),
        (8, 1, 4096, "auto", 1, 6),
        (16, 1, 4096, "auto", 2, 14),
        (16, 8, 4096, "auto", 1, 0),
        (128, 8, 4096, "auto", 2, 14),
        (16, 1, 512, "auto", 2, 8),
        (17, 1, 4096, "auto", 2, 14),
        (16, 1, 64, "auto", 0, 0),
        (16, 1, 4096, 30, 30, 30),
        (16, 1, 64, 34, 32, 32),
        (16, 1, 64, 21, 20, 20),
        (16, 1, 64, 15, 15, 15),
        (16, 1, 4096, 0, 0, 0),
    ],
)
def test_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, agents: int, setting: int | str, cpu: int, gpu: int
) -> None:
    """In worlds of 4 agents, `agents` of which are in a world batch."""
    monkeypatch.setattr(counting, "available_cores", lambda: cores)
    monkeypatch.setattr(counting, "local_size", lambda: processes)
    experience = ExperienceConfig(forward_pass_minibatch_target_size=agents, workers=setting)
    plan = plan_batch(experience, 4)
    found = [worker_count(experience, plan, device) for device in ("cpu", "cuda", "mps")]
    assert [each.count for each in found] == [cpu, gpu, gpu]
    for each in found:
        assert each.reason.startswith(f"auto: {cores} core") == (setting == "auto")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.cfs_quota_us": "250000", "cpu.cfs_period_us": "100000"}, 2),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, 64),
    ],
    ids=str,
)
def test_cores_of_a_container_are_limited_by_its_quota(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(counting, "_read", lambda path: files.get(Path(path).name, ""))
    assert available_cores() == expected


def test_workers_count_in_the_estimate_of_memory() -> None:
    config = tiny_config("", *BATCH)
    more = tiny_config("", *BATCH, "experience.workers=3")
    parts = [memory_parts(each, each.env, 64) for each in (config, more)]
    assert [part.name for part in parts[1]] == [*(part.name for part in parts[0]), "workers"]
    assert sum(part.bytes for part in parts[1]) - sum(part.bytes for part in parts[0]) == 3 * WORKER_BYTES
