"""Distributed training: two processes update like one, resume exactly, and detect a lost process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_runs import (
    TINY,
    Recorder,
    assert_same_state,
    assert_same_weights,
    ignore,
    metrics_of,
    only_learner,
    tiny_config,
    train_epoch,
    weights_of,
)

from metta.api import Notice, Override, TrainingState, resume_run, train_run
from metta.config.batch_plan import experience_of_process
from metta.config.training import DistributedConfig, ExperienceConfig
from metta.errors import ConfigError
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.distributed import SINGLE_PROCESS, Processes, ProcessGroupError, process_group_errors
from metta.run.training_run import TrainingRun

DEADLINE = 300.0  # seconds; generous, for busy machines


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port


def both(scenario: str, directory: Path) -> None:
    """Run a scenario of `two_processes.py` in both processes."""
    here = Path(__file__).parents[1] / "support"
    paths = [str(here.parent), *sys.path]
    command = [sys.executable, str(here / "two_processes.py")]
    port = str(free_port())
    pair = [
        subprocess.Popen(
            [*command, str(rank), port, scenario, str(directory)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=DEADLINE)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], "\n".join(errors)


def test_two_processes_update_like_one_on_the_joint_batch(tmp_path: Path) -> None:
    both("gradients", tmp_path)
    first, second = (torch.load(tmp_path / f"gradients_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same_weights(first["together"]["weights"], second["together"]["weights"])
    assert first["together"]["stats"] == second["together"]["stats"]
    together, alone = first["together"], first["alone"]
    assert together["stats"] == pytest.approx(alone["stats"], rel=1e-4, abs=1e-6)
    for name, gradient in alone["gradient"].items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(together["gradient"][name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name)
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], weight, rtol=1e-5, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two processes each: one uninterrupted, one interrupted and resumed."""
    directory = tmp_path_factory.mktemp("two")
    both("runs", directory)
    return directory


def test_resumed_by_equally_many_processes_the_run_is_bit_identical(runs: Path) -> None:
    straight, stopped = runs / "straight", runs / "stopped"
    lines = metrics_of(straight)
    assert [line["agent_step"] for line in lines] == [512, 1024, 1536, 2048]
    assert lines == metrics_of(stopped)
    assert all(line["losses"]["teacher_kl"] > 0 for line in lines)
    assert_same_weights(weights_of(straight, 4), weights_of(stopped, 4))
    state = TrainingState.load(stopped / "checkpoints" / "trainer_state_000004.pt")
    assert (state.agent_step, state.total_agent_step) == (1024, 2048)
    own, others = state.extra_args["experience"], state.extra_args["other_experiences"]
    assert len(others) == 1
    assert not torch.equal(own["observations"], others[0]["observations"])
    for name in ("policy_generator", "teacher_generator"):
        assert not torch.equal(own[name], others[0][name])


def test_several_policies_resume_bit_identically_too(runs: Path) -> None:
    straight, stopped = runs / "team_straight", runs / "team_stopped"
    lines = metrics_of(straight)
    assert [line["agent_step"] for line in lines] == [480, 960, 1440, 1920]
    assert lines == metrics_of(stopped)
    assert_same_weights(weights_of(straight, 4), weights_of(stopped, 4))


def test_batch_sizes_are_of_all_processes_or_of_each(runs: Path) -> None:
    for batch, collected in (("global", 512), ("per_process", 1024)):
        first, second = (torch.load(runs / f"{batch}_{rank}.pt", weights_only=True) for rank in (0, 1))
        assert int(first[1]) == int(second[1]) == collected
        assert int(first[0]) != int(second[0])  # worlds of their own


def test_all_processes_start_with_the_same_weights_of_another_run(runs: Path) -> None:
    first, second = (torch.load(runs / f"init_from_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same_state(first, second)
    trained = weights_of(runs / "straight", 4)
    assert_same_weights(first["weights"], trained)
    assert_same_weights(first["reference"], {name: trained[name] for name in first["reference"]})


def test_another_number_of_processes_resumes_in_new_worlds_with_a_notice(runs: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "alone"
    subprocess.run(["cp", "-r", str(runs / "straight"), str(run_dir)], check=True)
    recorder = Recorder()
    ended = resume_run(run_dir, recorder, [Override.parse("run.total_timesteps=3072")])
    notices = [event.text for event in recorder.events if isinstance(event, Notice)]
    assert notices == ["World size changed from 2 to 1: weights restored, environments reset."]
    assert (ended.epoch, ended.agent_step) == (6, 3072)
    assert metrics_of(run_dir)[:4] == metrics_of(runs / "straight")
    state = TrainingState.load(run_dir / "checkpoints" / "trainer_state_000006.pt")
    assert state.extra_args["other_experiences"] == []


def test_sizes_that_do_not_divide_among_processes_are_refused() -> None:
    config = ExperienceConfig(batch_size=480, minibatch_size=240, bptt_horizon=16)
    with pytest.raises(ConfigError) as caught:
        experience_of_process(config, DistributedConfig(), 4)
    assert "experience.batch_size" in str(caught.value)
    assert "4 processes x bptt_horizon 16 = 64; got 480; set batch_size = 512" in str(caught.value)
    assert experience_of_process(config, DistributedConfig(batch="per_process"), 4) == config
    shared = experience_of_process(config, DistributedConfig(), 3)
    assert (shared.batch_size, shared.minibatch_size) == (160, 80)


def test_a_single_process_exchanges_nothing() -> None:
    assert SINGLE_PROCESS.is_rank_zero
    assert SINGLE_PROCESS.broadcast({"a": 1}) == {"a": 1}
    assert SINGLE_PROCESS.all_gather(2) == [2]


def test_only_errors_about_a_connection_become_process_group_errors() -> None:
    lost = pytest.raises(ProcessGroupError, match=r"another process of the job ended .*Connection closed by peer")
    with lost, process_group_errors():
        raise RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shapes"), process_group_errors():
        raise RuntimeError("shapes do not fit")


def pair_of(directory: Path, *settings: str) -> list[subprocess.Popen[str]]:
    """Start two processes of a job without `torchrun`, each in its own directory, and wait for the second epoch."""
    (directory / "long.toml").write_text(TINY.replace("total_timesteps = 4096", "total_timesteps = 100_000_000"))
    command = [sys.executable, "-m", "metta_cli", "train", str(directory / "long.toml"), "--run-dir", "run"]
    job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pair = []
    for rank in (0, 1):
        place = directory / str(rank)
        place.mkdir()
        own = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        }
        options = [part for setting in settings for part in ("--set", setting)]
        pair.append(
            subprocess.Popen(
                [*command, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=place,
                env=os.environ | job | own,
            )
        )
    assert pair[0].stdout is not None
    for line in pair[0].stdout:
        if re.match("epoch 2 ", line):
            break
    return pair


@pytest.mark.parametrize(
    ("lost", "signal_sent", "settings"),
    [
        (1, signal.SIGKILL, ()),
        (0, signal.SIGKILL, ("checkpoint.checkpoint_interval=1",)),
        (1, signal.SIGSTOP, ("distributed.timeout_seconds=10",)),
    ],
    ids=["killed", "the first killed", "hanging"],
)
def test_a_process_that_loses_the_other_reports_it_and_leaves_a_valid_checkpoint(
    tmp_path: Path, lost: int, signal_sent: signal.Signals, settings: tuple[str, ...]
) -> None:
    pair = pair_of(tmp_path, *settings)
    os.kill(pair[lost].pid, signal_sent)
    begin = time.monotonic()
    _, errors = pair[1 - lost].communicate(timeout=DEADLINE)
    pair[lost].kill()
    pair[lost].communicate(timeout=DEADLINE)
    assert time.monotonic() - begin < DEADLINE / 2
    assert pair[1 - lost].returncode == 1
    if lost:
        assert re.search(r"^error: stopped in epoch \d+: another process of the job ended .*; metta resume run", errors)
    else:
        assert re.search(r"^process 1: error: another process of the job ended or cannot be reached", errors)
    assert not list((tmp_path / "1").iterdir())  # only rank 0 writes
    ended = resume_run(tmp_path / "0" / "run", ignore, [Override.parse("run.total_timesteps=512")])
    assert ended.epoch >= (2 if lost else 0)  # a killed rank 0 saves nothing more
    assert len(metrics_of(tmp_path / "0" / "run")) == ended.epoch


def torchrun(directory: Path, *options: str, steps: int = 100_000_000, restarts: int = 0) -> subprocess.Popen[str]:
    """Train the tiny run in `directory / "run"` with two processes."""
    (directory / "long.toml").write_text(TINY.replace("total_timesteps = 4096", f"total_timesteps = {steps}"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    train = ["-m", "metta_cli", "train", str(directory / "long.toml"), "--run-dir", str(directory / "run"), *options]
    return subprocess.Popen(
        [*command, f"--max-restarts={restarts}", *train],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )


def wait_for_line(job: subprocess.Popen[str], pattern: str) -> None:
    assert job.stdout is not None
    for line in job.stdout:
        if re.search(pattern, line):
            return
    raise AssertionError(job.communicate()[1])


def test_torchrun_stops_the_job_when_one_process_dies(tmp_path: Path) -> None:
    job = torchrun(tmp_path)
    wait_for_line(job, "^epoch 2 ")
    os.kill(process_of_rank(job.pid, 1), signal.SIGKILL)
    output, _ = job.communicate(timeout=DEADLINE)
    assert job.returncode != 0
    assert len(re.findall(r"^epoch 3 ", output, re.MULTILINE)) <= 1  # only rank 0 prints
    assert resume_run(tmp_path / "run", ignore, [Override.parse("run.total_timesteps=512")]).epoch >= 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a job that nothing stopped."""
    directory = tmp_path_factory.mktemp("undisturbed")
    job = torchrun(directory, steps=30 * 512)
    _, errors = job.communicate(timeout=DEADLINE)
    assert job.returncode == 0, errors
    return directory / "run"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_restarts_a_job_that_ends_as_if_nothing_had_happened(
    rank: int, undisturbed: Path, tmp_path: Path
) -> None:
    """A process is killed: `torchrun --max-restarts 3` and `metta train --or-resume`."""
    job = torchrun(tmp_path, "--or-resume", steps=30 * 512, restarts=3)
    wait_for_line(job, "^epoch 5 ")
    os.kill(process_of_rank(job.pid, rank), signal.SIGKILL)
    output, errors = job.communicate(timeout=DEADLINE)
    assert job.returncode == 0, output + errors
    begins = re.findall(r"^tiny: 15,360 agent steps on cpu(.*)$", output, re.MULTILINE)
    if rank:  # rank 0 saved before it ended; killed itself, it leaves what was saved at the start
        assert begins[-1].startswith(", resumed at epoch ")
    assert metrics_of(tmp_path / "run") == metrics_of(undisturbed)
    assert len(metrics_of(undisturbed)) == 30
    assert_same_weights(weights_of(tmp_path / "run", 30), weights_of(undisturbed, 30))


def test_a_restarted_job_does_not_see_the_addresses_of_the_processes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun keeps its store over restarts: with the old addresses in it, processes wait for those that ended."""
    kept, given = dist.HashStore(), []
    job = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("metta.rl.distributed.rendezvous", lambda *arguments, **options: iter([(kept, 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, store, **options: given.append(store))
    for name in ("get_rank", "get_world_size", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda: 0)
    for count in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with Processes.connect():
            pass
    given[0].set("address of rank 1", "127.0.0.1:5")
    assert given[0].check(["address of rank 1"])
    assert not given[1].check(["address of rank 1"])


def test_a_run_of_one_process_resumes_with_two(tmp_path: Path) -> None:
    run_dir = tmp_path / "alone"
    train_run(tiny_config(run_dir, "run.total_timesteps=1024"), ignore)
    before = metrics_of(run_dir)
    both("resumed", tmp_path)
    lines = metrics_of(run_dir)
    assert [line["agent_step"] for line in lines] == [512, 1024, 1536, 2048]
    assert lines[:2] == before
    state = TrainingState.load(run_dir / "checkpoints" / "trainer_state_000004.pt")
    assert (state.total_agent_step, len(state.extra_args["other_experiences"])) == (2048, 1)
    assert (run_dir / "notices.txt").read_text() == (
        "World size changed from 1 to 2: weights restored, environments reset."
    )


def test_each_process_of_a_job_has_its_own_workers(tmp_path: Path) -> None:
    both("workers", tmp_path)
    assert metrics_of(tmp_path / "workers_0") == metrics_of(tmp_path / "workers_1")
    assert_same_weights(weights_of(tmp_path / "workers_0", 2), weights_of(tmp_path / "workers_1", 2))


def process_of_rank(parent: int, rank: int) -> int:
    """The process ID of the child process whose RANK is `rank`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(stat[1]) == parent and f"RANK={rank}".encode() in environment:
                return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


def test_another_number_of_processes_keeps_the_scale_of_rewards() -> None:
    config = tiny_config("", "normalization.rewards=true")
    runs = [TrainingRun(config, Curriculum.from_config(config)) for _ in range(2)]
    train_epoch(runs[0])
    state = runs[0].state()
    state.extra_args["other_experiences"] = [state.extra_args["experience"]]  # as of two processes
    runs[1].load_state(state)
    before, after = (only_learner(run).experience.reward_scaler for run in runs)
    assert before.count > 0
    assert (after.count, after.mean, after.squares) == (before.count, before.mean, before.squares)
    assert not after.returns.any()
    for run in runs:
        run.close()
