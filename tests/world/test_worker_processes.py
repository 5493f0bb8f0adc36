"""Worlds in worker processes: the same results as in this process, and what happens if one of the processes ends."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registered_parts  # noqa: F401  # registers the rules
from conformance import EnginePlayer, compare
from random_worlds import random_actions, random_tasks
from recordings import Recording, recordings
from registered_maps import registered_builders  # noqa: F401  # a fixture, which pytest finds by its name
from worker_worlds import WorkerEnv, children_of, is_running, wait_until_ended

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_generators import MAP_BUILDERS
from metta.errors import ConfigWarning, MapError, TrainingError, UsageError
from metta.spans import record_spans
from metta.world.env import MettaGridEnv
from metta.world.processes.process_worlds import ProcessWorlds, make_worlds
from metta.world.processes.worker_processes import WorkerError

SMALL = EnvConfig(game={"num_agents": 2, "width": 8, "height": 8, "max_steps": 7})
SUPPORT = Path(__file__).parents[1] / "support"


Start = Callable[..., list[ProcessWorlds]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start workers for batches of worlds; they end with the test."""
    started: list[ProcessWorlds] = []

    def start_batches(env: MettaGridEnv, *sizes: int, workers: int = 2) -> list[ProcessWorlds]:
        batches = make_worlds(env, sizes, 3, 0, workers)
        for batch in batches:
            assert isinstance(batch, ProcessWorlds)
            started.append(batch)
        return started[-len(sizes) :]

    yield start_batches
    for batch in started:
        batch.close()


def custom(name: str) -> MettaGridEnv:
    """An environment whose maps come from the registered builder `name`, which is in `registered_maps.py`."""
    builder = {"type": "Custom", "name": name, "border_width": 1, "objects": {}}
    return MettaGridEnv(EnvConfig(game=SMALL.game, map_builder=builder))


def assert_same_state(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


# -- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3, 4])
def test_results_are_those_of_one_environment(start: Start, workers: int) -> None:
    """Several batches of worlds with different tasks, staggered, with masks; weights change; states are exchanged."""
    generator = np.random.default_rng(workers)
    random = random_tasks(generator, 3, every_action=True)
    tasks = [task.override(max_steps=9 + 4 * index, episode_lifetime=0) for index, task in enumerate(random)]
    given, sizes = MettaGridEnv(tasks, task_weights=[1, 2, 1]), (5, 3)
    batches = start(given, *sizes, workers=workers)
    alone = [MettaGridEnv(given.configs, 5, 3, 0, [1, 2, 1]), MettaGridEnv(given.configs, 3, 3, 5, [1, 2, 1])]
    for batch, env in zip(batches, alone, strict=True):
        tokens = batch.reset(staggered=True)
        np.testing.assert_array_equal(batch.observations.padded(), env.reset(staggered=True)[0])
        np.testing.assert_array_equal(tokens, batch.observations.tokens)
    for step in range(40):
        actions = [random_actions(generator, env.config, env.agents) for env in alone]
        for batch, chosen in zip(batches, actions, strict=True):
            batch.start_step(chosen, needs_masks=step % 2 == 0)
        for batch, env, chosen in zip(batches, alone, actions, strict=True):
            tokens, *arrays, info = batch.finish_step()
            observations, *expected, expected_info = env.step(chosen)
            np.testing.assert_array_equal(batch.observations.padded(), observations)
            np.testing.assert_array_equal(tokens, batch.observations.tokens)
            for found, wanted in zip(arrays, expected, strict=True):
                assert found.dtype == wanted.dtype
                np.testing.assert_array_equal(found, wanted)
            np.testing.assert_array_equal(info.ended_agents, expected_info.ended_agents)
            np.testing.assert_array_equal(info.final_observations, expected_info.final_observations)
            for episode, wanted in zip(info.episodes, expected_info.episodes, strict=True):
                assert (episode.world, episode.task, episode.length) == (wanted.world, wanted.task, wanted.length)
                assert episode.stats == wanted.stats
                np.testing.assert_array_equal(episode.rewards, wanted.rewards)
            np.testing.assert_array_equal(batch.tasks, env.tasks)
            np.testing.assert_array_equal(batch.groups, env.groups)
            masks = batch.stepped_action_masks if step % 2 == 0 else batch.action_masks()
            np.testing.assert_array_equal(masks, env.action_masks())
            if step % 10 == 3:
                assert_same_state(batch.state(), env.state())
                batch.set_task_weights([step, 1, 2])
                env.set_task_weights([step, 1, 2])
            if step % 10 == 7:  # in another environment, and back
                batch.check_state(env.state())
                batch.load_state(env.state())
                env.load_state(batch.state())


@pytest.mark.parametrize("recorded", recordings(), ids=lambda recorded: recorded.name)
def test_engine_agrees_with_the_recording_in_workers(recorded: Recording) -> None:
    """Two worlds in two workers play the beginning of the recording."""
    env = WorkerEnv(recorded.config, 2, seed=0)
    player = EnginePlayer(env, 0, twins=[1])  # type: ignore[arg-type]
    difference = compare(recorded, player, min(60, recorded.episode_length))
    assert difference is None, f"\n{difference}"
    env.worlds.close()


def test_times_of_steps_are_those_of_the_workers(start: Start) -> None:
    (batch,) = start(MettaGridEnv(SMALL), 3)
    batch.reset()
    with record_spans() as spans:
        begin = time.perf_counter()
        batch.start_step(np.zeros((batch.agents, 2), np.int64))
        batch.finish_step()
        end = time.perf_counter()
    assert [(each.name, each.thread) for each in spans] == [("simulate", "worker 1"), ("simulate", "worker 2")]
    assert all(begin < each.begin < each.end < end for each in spans)


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("wrong shape", MapError, 'the map builder "wrong shape" returned'),
        ("bug", ZeroDivisionError, "by zero"),
        ("strange error", RuntimeError, "StrangeError: not to be pickled"),
    ],
)
def test_an_error_in_a_worker_reaches_the_user(start: Start, name: str, kind: type[Exception], text: str) -> None:
    (batch,) = start(custom(name), 4)
    with pytest.raises(kind, match=text) as caught:
        batch.reset()
    assert "in test_worker_processes" not in str(caught.value.__cause__)
    assert "registered_maps.py" in str(caught.value.__cause__) or kind is MapError
    with pytest.raises(UsageError, match="task_weights must be 1 finite"):
        batch.set_task_weights([1, 2])


def test_after_an_error_in_a_step_the_workers_still_answer(start: Start) -> None:
    reward = {"type": "test.result", "settings": {"kind": "nan", "step": 2}}
    (batch,) = start(MettaGridEnv(EnvConfig(game=SMALL.game, rewards=[reward])), 4)
    batch.reset()
    actions = np.zeros((batch.agents, 2), np.int64)
    batch.start_step(actions)
    batch.finish_step()
    for _ in range(2):
        batch.start_step(actions)
        with pytest.raises(UsageError, match=r'the reward "test\.result" must return finite numbers'):
            batch.finish_step()
    batch.reset()
    batch.start_step(actions)
    batch.finish_step()


def test_a_registered_map_builder_is_used_by_workers(start: Start) -> None:
    (batch,) = start(custom("striped"), 4)
    env = MettaGridEnv(custom("striped").config, 4, 3)
    batch.reset()
    np.testing.assert_array_equal(batch.observations.padded(), env.reset()[0])


def test_a_map_builder_that_workers_cannot_import_is_named_before_they_start() -> None:
    MAP_BUILDERS.register("local")(lambda rows, cols, generator, settings: np.ones((rows, cols), np.bool_))
    given = custom("local")
    with pytest.raises(UsageError, match=r'cannot import the registered map builder "local".*workers = 0'):
        make_worlds(given, [4], 0, 0, 2)
    with pytest.warns(ConfigWarning, match=r'no worker processes: .*"local"'):
        (env,) = make_worlds(given, [4], 0, 0, 2, is_auto=True)
    assert isinstance(env, MettaGridEnv)
    assert children_of(os.getpid()) == []


def test_a_map_builder_of_the_main_program_is_refused(tmp_path: Path) -> None:
    program = """
from metta.api import EnvConfig, MAP_BUILDERS, MettaGridEnv
from metta.world.processes.process_worlds import make_worlds
import numpy as np

@MAP_BUILDERS.register("mine")
def mine(rows, cols, generator, settings):
    return np.ones((rows, cols), np.bool_)

make_worlds(MettaGridEnv(EnvConfig(map_builder={"type": "Custom", "name": "mine"})), [4], 0, 0, 2)
"""
    (tmp_path / "program.py").write_text(program)
    ended = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=False)
    assert '"mine": mine is defined in the program itself (__main__)' in ended.stderr


def test_a_killed_worker_is_named_with_its_signal(start: Start) -> None:
    (batch,) = start(MettaGridEnv(SMALL), 4)
    batch.reset()
    first, second = children_of(os.getpid())
    os.kill(second, signal.SIGKILL)
    with pytest.raises(WorkerError, match=rf"worker 2 of 2 \(process {second}\) was killed by SIGKILL"):
        batch.reset()
    batch.close()
    assert not is_running(first)


def test_a_worker_that_exits_is_named_with_its_code(start: Start) -> None:
    (batch,) = start(custom("exits"), 4)
    with pytest.raises(WorkerError, match=r"worker 1 of 2 \(process \d+\) ended with exit code 7"):
        batch.reset()


def test_a_hanging_worker_is_named(start: Start) -> None:
    (batch,) = start(MettaGridEnv(SMALL), 4)
    for channel in batch._workers._channels:
        channel.timeout_seconds = 2
    batch.reset()
    os.kill(children_of(os.getpid())[0], signal.SIGSTOP)
    batch.start_step(np.zeros((batch.agents, 2), np.int64))
    with pytest.raises(WorkerError, match=r"worker 1 of 2 \(process \d+\) has not answered for 300 seconds"):
        batch.finish_step()
    workers = children_of(os.getpid())
    batch.close()
    assert not any(map(is_running, workers))


def test_processes_that_cannot_be_started_are_a_training_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(TrainingError, match=r"2 worker processes cannot be started: Resource .*; lower exp"):
        make_worlds(MettaGridEnv(SMALL), [4], 0, 0, 2)


# -- life of the processes ------------------------------------------------------------------------------------------


def test_workers_import_no_torch_and_ignore_what_stops_a_run(start: Start) -> None:
    (batch,) = start(MettaGridEnv(SMALL), 2)
    workers = children_of(os.getpid())
    for worker in workers:
        assert "torch" not in Path(f"/proc/{worker}/maps").read_text()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker, number)
    batch.reset()
    assert children_of(os.getpid()) == workers
    batch.close()
    batch.close()
    assert not any(map(is_running, workers))
    with pytest.raises(UsageError, match="the worker processes have ended"):
        batch.reset()


def test_workers_end_when_nobody_has_their_worlds_any_more() -> None:
    batches = make_worlds(MettaGridEnv(SMALL), [2, 2], 0, 0, 2)
    workers = children_of(os.getpid())
    del batches
    gc.collect()
    wait_until_ended(workers)


@pytest.mark.parametrize("way", ["killed", "killed with a stopped worker", "killed with a copy that lives"])
def test_no_worker_outlives_its_parent(way: str) -> None:
    before = set(os.listdir("/dev/shm"))
    arguments = [sys.executable, str(SUPPORT / "worker_worlds.py"), *(["fork"] if "copy" in way else [])]
    parent = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment_with_paths()
    )
    assert parent.stdout is not None
    workers = list(map(int, parent.stdout.readline().split()))
    assert len(workers) == 2
    if "stopped" in way:
        os.kill(workers[0], signal.SIGSTOP)
    parent.kill()
    parent.wait()
    try:
        wait_until_ended(workers)
    finally:
        if "copy" in way:
            os.killpg(parent.pid, signal.SIGKILL)
        parent.stdout.close()
    assert set(os.listdir("/dev/shm")) <= before


def environment_with_paths() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_copy_of_the_process_neither_uses_nor_ends_the_workers(start: Start) -> None:
    (batch,) = start(MettaGridEnv(SMALL), 2)
    batch.reset()
    for make_copy in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            make_copy(batch)
    child = os.fork()
    if child == 0:
        try:
            batch.reset()
        except UsageError as error:
            batch.close()
            os._exit(0 if "belong to the process that started them" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    batch.reset()


def test_an_interrupted_step_is_finished_before_the_next_one(start: Start) -> None:
    """As in a notebook, where Ctrl-C ends a rollout and another one begins."""
    (batch,) = start(MettaGridEnv(SMALL), 4)
    env = MettaGridEnv(SMALL, 4, 3)
    batch.reset()
    env.reset()
    actions = np.ones((batch.agents, 2), np.int64)
    batch.start_step(actions)
    batch.start_step(actions)
    batch.finish_step()
    env.step(actions)
    np.testing.assert_array_equal(batch.observations.padded(), env.step(actions)[0])
    batch.close()
