"""Replays of a policy in training and of a checkpoint: where they come from, and that they disturb nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from episodes import unpacked
from tiny_runs import Recorder, assert_same_weights, ignore, metrics_of, tiny_config, weights_of
from typer.testing import CliRunner, Result

from metta.api import ReplaySaved, load_policy, record_episode, train_run
from metta.replay.mettascope import mettascope_bytes
from metta.run.interval_timer import IntervalTimer
from metta_cli.main import app


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that was trained a little."""
    directory = tmp_path_factory.mktemp("run") / "run"
    return train_run(tiny_config(directory, "run.total_timesteps=1024"), ignore).checkpoint


def metta(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


class TestTraining:
    @pytest.fixture
    def always(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Intervals pass at once; those of 0 never do."""
        monkeypatch.setattr(IntervalTimer, "is_due", lambda timer: bool(timer.interval_seconds))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_current_policy_is_recorded(self, workers: int, tmp_path: Path, always: None) -> None:
        recorder = Recorder()
        values = ["run.total_timesteps=1536", "simulation.replay_interval=1", "optimizer.learning_rate=0.1"]
        values.append(f"experience.workers={workers}")
        config = tiny_config(tmp_path / "run", *values)
        train_run(config, recorder)
        replays = [event for event in recorder.events if isinstance(event, ReplaySaved)]
        assert [event.epoch for event in replays] == [1, 2, 3]
        names = [f"replay_{epoch:06d}.{ending}" for epoch in (1, 2, 3) for ending in ("html", "json.z")]
        assert sorted(path.name for path in (tmp_path / "run" / "replays").iterdir()) == names
        files = [event.mettascope.read_bytes() for event in replays]
        assert len(set(files)) == 3, "the policy was not trained between replays"
        walls = [
            [entity for entity in unpacked(file)["grid_objects"] if entity["type_name"] == "wall"] for file in files
        ]
        assert walls[0] == walls[1] == walls[2], "the map is the same, so that episodes can be compared"
        trained = load_policy(tmp_path / "run" / "checkpoints" / "checkpoint_000003.pt").agent
        assert mettascope_bytes(record_episode(trained, config.env, config.run.seed)) == files[2]

    def test_recording_does_not_change_training(self, tmp_path: Path, always: None) -> None:
        for name, interval in (("with", 1), ("without", 0)):
            train_run(tiny_config(tmp_path / name, f"simulation.replay_interval={interval}"), ignore)
        assert not (tmp_path / "without" / "replays").exists()
        assert len(metrics_of(tmp_path / "with")) == 8
        assert metrics_of(tmp_path / "with") == metrics_of(tmp_path / "without")
        assert_same_weights(weights_of(tmp_path / "with", 8), weights_of(tmp_path / "without", 8))

    def test_replays_go_to_the_directory_of_the_config(self, tmp_path: Path, always: None) -> None:
        elsewhere = tmp_path / "elsewhere"
        values = ["run.total_timesteps=512", "simulation.replay_interval=1", f'simulation.replay_dir="{elsewhere}"']
        train_run(tiny_config(tmp_path / "run", *values), ignore)
        assert sorted(path.name for path in elsewhere.glob("[!.]*")) == [
            "run_replay_000001.html",
            "run_replay_000001.json.z",
        ]
        assert not (tmp_path / "run" / "replays").exists()

    def test_no_replay_before_the_interval_has_passed(self, tmp_path: Path) -> None:
        recorder = Recorder()
        train_run(tiny_config(tmp_path / "run", "simulation.replay_interval=3600"), recorder)
        assert not any(isinstance(event, ReplaySaved) for event in recorder.events)


class TestCommand:
    def test_each_episode_has_its_seed_and_its_two_files(self, checkpoint: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        result = metta("replay", str(checkpoint), "--episodes", "2", "--seed", "7", "--out", str(out), "--json")
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [(line["seed"], line["steps"]) for line in lines] == [(7, 20), (8, 20)]
        stems = [f"run_{checkpoint.stem}_seed_{seed}" for seed in (7, 8)]
        names = [stem + ending for stem in stems for ending in (".html", ".json.z")]
        assert sorted(path.name for path in out.iterdir()) == names
        assert [line["page"] for line in lines] == [str(out / f"{stem}.html") for stem in stems]
        agent = load_policy(checkpoint).agent
        for line in lines:
            replay = record_episode(agent, agent.env_config, line["seed"])
            assert Path(line["mettascope"]).read_bytes() == mettascope_bytes(replay)
            assert line["reward"] == float(np.float32(replay.total_rewards[-1].mean()))
        result = metta("replay", str(checkpoint), "--seed", "7", "--out", str(out))
        assert result.stdout.splitlines()[1:] == [f"  {out / stems[0]}.html", f"  {out / stems[0]}.json.z"]
        assert result.stdout.startswith("seed 7: 20 steps, reward per agent ")
        assert metta("replay", str(checkpoint), "--out", str(out), "--quiet").output == ""

    def test_files_go_to_replays_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        metta("replay", "random", "--env", "quickstart", "--max-steps", "3")
        replays = sorted((tmp_path / "replays").iterdir())
        assert [path.name for path in replays] == ["random_quickstart_seed_0.html", "random_quickstart_seed_0.json.z"]
        assert unpacked(replays[1].read_bytes())["max_steps"] == 3

    def test_what_cannot_be_done_is_said(self, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("a file")
        refused = {
            ("replay", "random"): "the random policy was not trained in a world; name one: "
            "metta replay random --env PRESET",
            ("replay", str(tmp_path / "gone.pt")): f"{tmp_path / 'gone.pt'} does not exist",
            ("replay", str(checkpoint), "--out", str(tmp_path / "taken")): f"{tmp_path / 'taken'} cannot be read or "
            "written: File exists",
        }
        for arguments, sentence in refused.items():
            result = metta(*arguments, code=2)
            assert result.stderr == f"error: {sentence}\n"
            assert result.stdout == ""
