"""The engine against the recordings of the original simulator, alone and in company."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import EnginePlayer, compare, engine_difference
from recordings import Recording, recordings

from metta.config.env import EnvConfig
from metta.world.env import MettaGridEnv

SCRIPT = Path(__file__).parents[1] / "conformance.py"


def test_engine_agrees_with_the_recording(recording: Recording) -> None:
    difference = engine_difference(recording)
    assert difference is None, f"\n{difference}"


def elsewhere(config: EnvConfig, rows: int, cols: int) -> EnvConfig:
    """A world of the same rules on a random map of another size; it ends often, so that its neighbours see resets."""
    data: dict[str, Any] = config.model_dump(exclude={"map_builder": True, "game": {"num_agents", "width", "height"}})
    objects = {name: 2 for name in list(config.object_types)[:4]}
    items = config.game.inventory_item_names
    for name in list(objects):
        kind = config.object_types[name]
        if any(item not in items for item in {**(kind.input or {}), **(kind.output or {})}):
            del objects[name]
    game = {"num_agents": config.game.num_agents, "height": rows, "width": cols, "max_steps": 7}
    return EnvConfig.model_validate(
        data | {"game": data["game"] | game, "map_builder": {"border_width": 1, "objects": objects}}
    )


def test_engine_agrees_in_a_batch_beside_other_worlds(recording: Recording) -> None:
    """Several worlds play the recording at the same time as others, larger and smaller, play something else."""
    tasks = [recording.config, elsewhere(recording.config, 9, 31), elsewhere(recording.config, 40, 8)]
    env = MettaGridEnv(tasks, num_worlds=7, seed=1, task_weights=[2, 1, 1])
    env.reset()
    recorded = np.flatnonzero(env.tasks == 0)
    assert 1 < len(recorded) < 7
    *twins, world = recorded.tolist()
    difference = compare(recording, EnginePlayer(env, world, twins), length=min(120, recording.episode_length))
    assert difference is None, f"\n{difference}"


def test_recordings_agree_side_by_side() -> None:
    """Recordings that a policy could not tell apart by their shapes share one batch, each in its own world."""
    pairs = [pair for pair in combinations(recordings(), 2) if pair[0].config.spec == pair[1].config.spec]
    if not pairs:
        pytest.skip("no two recordings have the same spec")
    for pair in pairs:
        env = MettaGridEnv([recording.config for recording in pair], num_worlds=6, seed=3)
        env.reset()
        for task, recording in enumerate(pair):
            world = int(np.flatnonzero(env.tasks == task)[0])
            difference = compare(recording, EnginePlayer(env, world), min(60, recording.episode_length))
            assert difference is None, f"\n{difference}"


class TestScript:
    """What a person sees who plays a recording."""

    @pytest.fixture
    def shortest(self) -> Recording:
        found = recordings()
        if not found:
            pytest.skip("there are no recordings")
        return min(found, key=lambda recording: recording.actions.size)

    def run(self, *paths: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(SCRIPT), *map(str, paths)], capture_output=True, text=True)

    def doctored(self, recording: Recording, path: Path, **arrays: np.ndarray) -> Path:
        np.savez(path, **(recording.arrays | arrays))  # type: ignore[arg-type]  # the stub has a flag among the names
        return path

    def test_says_what_agrees(self, shortest: Recording) -> None:
        ran = self.run(shortest.path)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert ran.stdout == f"{shortest.name}: {shortest.length} steps of {shortest.num_agents} agents agree\n"

    def test_shows_the_first_token_that_differs(self, shortest: Recording, tmp_path: Path) -> None:
        observations = shortest.arrays["obs"].copy()
        observations[3, 1, 5, 2] ^= 1
        ran = self.run(self.doctored(shortest, tmp_path / "doctored.npz", obs=observations))
        assert ran.returncode == 1
        lines = ran.stdout.splitlines()
        assert lines[0] == "doctored, step 3, agent 1: token 5 of the observation differs (1 tokens of all agents do)"
        assert [line.split()[0] for line in lines[1:6]] == ["3", "4", "5", "6", "7"]
        assert [line.endswith("<--") for line in lines[1:6]] == [False, False, True, False, False]
        assert "row +0 col +0  agent:group" in lines[3]
        assert lines[6].startswith("it did ")
        height = shortest.config.game.observation_height
        drawings = [line for line in lines if line.startswith("    ") and "recorded" not in line]
        assert len(drawings) == 2 * height
        assert [line[4 + shortest.config.game.observation_width // 2] for line in drawings].count("@") == 2

    @pytest.mark.parametrize(
        ("array", "place", "told"),
        [
            ("rewards", (4, 2), "step 5, agent 2: reward of agents [2] is "),
            ("action_success", (2, 0), "step 3, agent 0: success of agents [0] is "),
            ("truncations", (6, 3), "step 7, agent 3: truncation of agents [3] is "),
            ("agent_orientation", (2, 1), "step 2, agent 1: orientation of agents [1] is "),
            ("agent_frozen", (2, 1), "step 2, agent 1: frozen of agents [1] is "),
            ("agent_color", (2, 1), "step 2, agent 1: color of agents [1] is "),
            ("agent_inventory", (9, 1, 3), "step 9, agent 1: inventory of agents [1] is "),
            ("agent_rc", (8, 0, 1), "step 8, agent 0: position of agents [0] is "),
            ("conv_busy", (5, 2), "step 5: busy of converters [2] is "),
            ("conv_inventory", (5, 2, 1), "step 5: inventory of converters [2] is "),
            ("episode_rewards_steps", (4, 2), "step 5, agent 2: accumulated reward of agents [2] is "),
        ],
    )
    def test_sees_every_kind_of_difference(
        self, shortest: Recording, tmp_path: Path, array: str, place: tuple[int, ...], told: str
    ) -> None:
        changed = shortest.arrays[array].copy()
        changed[place] = changed[place] ^ 1 if changed.dtype.kind != "f" else np.nextafter(changed[place], 9)
        doctored = Recording(self.doctored(shortest, tmp_path / "doctored.npz", **{array: changed}))
        assert str(engine_difference(doctored)).startswith(f"doctored, {told}")

    @pytest.mark.parametrize(
        ("array", "told"),
        [
            ("action_names", "names of actions are ['noop', "),
            ("max_action_args", "largest arguments of actions are [0, 1, "),
            ("feature_names", "names of features are ['type_id', "),
            ("item_names", "names of items are ["),
        ],
    )
    def test_sees_names_that_differ(self, shortest: Recording, tmp_path: Path, array: str, told: str) -> None:
        changed = np.roll(shortest.arrays[array], 1)
        doctored = Recording(self.doctored(shortest, tmp_path / "doctored.npz", **{array: changed}))
        assert str(engine_difference(doctored)).startswith(f"doctored, step 0: {told}")

    def test_sees_scales_that_differ(self, shortest: Recording, tmp_path: Path) -> None:
        features = json.loads(str(shortest.arrays["features_json"]))
        features["agent:group"]["normalization"] = 7.0
        changed = np.array(json.dumps(features))
        doctored = Recording(self.doctored(shortest, tmp_path / "doctored.npz", features_json=changed))
        assert str(engine_difference(doctored)).startswith("doctored, step 0: scales of features are ")

    def test_sees_a_counter_that_differs(self, shortest: Recording, tmp_path: Path) -> None:
        statistics = json.loads(str(shortest.arrays["stats"]))
        statistics["agent"][2]["action.move.success"] += 1
        stats = np.array(json.dumps(statistics))
        told = str(engine_difference(Recording(self.doctored(shortest, tmp_path / "doctored.npz", stats=stats))))
        assert "1 counters differ" in told
        assert "agent 2: action.move.success is " in told

    def test_goes_on_after_a_difference(self, shortest: Recording, tmp_path: Path) -> None:
        doctored = self.doctored(shortest, tmp_path / "doctored.npz", rewards=shortest.rewards + np.float32(1))
        ran = self.run(doctored, shortest.path)
        assert ran.returncode == 1
        assert ran.stdout.splitlines()[-1].endswith("agents agree")

    def test_asks_for_a_recording(self) -> None:
        ran = self.run()
        assert ran.returncode == 1
        assert "python tests/conformance.py RECORDING.npz" in ran.stderr


class TestAbsence:
    """Without recordings a stranger's clone still runs the rest; the gate does not."""

    def test_none_are_needed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("recordings.FOLDER", tmp_path)
        monkeypatch.delenv("CI", raising=False)
        assert recordings() == []

    def test_the_gate_needs_them(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("recordings.FOLDER", tmp_path)
        monkeypatch.setenv("CI", "true")
        with pytest.raises(FileNotFoundError, match="no recordings"):
            recordings()
