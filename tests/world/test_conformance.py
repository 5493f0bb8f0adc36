"""The engine against the recordings of the C++ MettaGrid, alone and in batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conformance import EnginePlayer, compare, engine_difference
from random_worlds import tasks_beside
from recordings import NotARecordingError, Recording, recordings

from metta.world.env import MettaGridEnv

SCRIPT = Path(__file__).parents[1] / "support" / "conformance.py"


def test_engine_agrees_with_the_recording(recording: Recording) -> None:
    difference = engine_difference(recording)
    assert difference is None, f"\n{difference}"


STRANGERS = ((9, 31), (40, 8), (8, 8))
"""Rows and columns of worlds beside a recorded one, smaller and larger."""


def test_engine_agrees_in_a_batch_beside_other_worlds(recording: Recording) -> None:
    """Several worlds play the whole recording beside others of other sizes, recipes, costs, caps, rewards and ends.

    One that goes on past its end is played twice, as alone.
    """
    strangers = tasks_beside(np.random.default_rng(recording.length), recording.config, STRANGERS)
    strangers[0] = strangers[0].override(max_steps=9)
    ends = 0 < recording.config.game.max_steps <= recording.length
    for auto_reset in (True, False) if ends else (True,):
        tasks, weights = [recording.config, *strangers], [3, 1, 1, 1]
        env = MettaGridEnv(tasks, num_worlds=8, seed=1, task_weights=weights, auto_reset=auto_reset)
        env.reset()
        recorded = np.flatnonzero(env.tasks == 0)
        assert 1 < len(recorded) < 8
        *twins, world = recorded.tolist()
        player = EnginePlayer(env, world, twins)
        difference = compare(recording, player, recording.episode_length if auto_reset else recording.length)
        assert difference is None, f"\n{difference}"
        assert player.ended, "neighbors should have ended meanwhile"


def test_other_worlds_of_the_batch_have_other_rules(recording: Recording) -> None:
    """The precondition of the test above."""
    strangers = tasks_beside(np.random.default_rng(recording.length), recording.config, STRANGERS)
    for stranger in strangers:
        assert stranger.spec == recording.config.spec
        assert stranger.rules_key != recording.config.rules_key
    assert len({stranger.rules_key for stranger in strangers}) == len(strangers)


def test_recordings_agree_side_by_side() -> None:
    """Recordings with equal specs share one batch, each in its own world."""
    found = recordings()
    crowds = [[other for other in found if other.config.spec == one.config.spec] for one in found]
    crowds = [crowd for one, crowd in zip(found, crowds, strict=True) if len(crowd) > 1 and crowd[0] is one]
    if not crowds:
        pytest.skip("no two recordings have the same spec")
    for crowd in crowds:
        env = MettaGridEnv([recording.config for recording in crowd], num_worlds=3 * len(crowd), seed=3)
        env.reset()
        world_of = [int(np.flatnonzero(env.tasks == task)[0]) for task in range(len(crowd))]
        others = dict(zip(world_of, crowd, strict=True))
        for world, recording in others.items():
            difference = compare(recording, EnginePlayer(env, world, others=others), recording.episode_length)
            assert difference is None, f"\n{difference}"


class TestScript:
    """Output of the script `conformance.py`."""

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

    def test_reports_agreement(self, shortest: Recording) -> None:
        ran = self.run(shortest.path)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert ran.stdout == f"{shortest.name}: {shortest.length} steps of {shortest.num_agents} agents agree\n"

    def test_shows_the_first_token_that_differs(self, shortest: Recording, tmp_path: Path) -> None:
        observations = shortest.arrays["obs"].copy()
        observations[3, 1, 5, 2] ^= 1
        ran = self.run(self.doctored(shortest, tmp_path / "doctored.npz", obs=observations))
        assert ran.returncode == 1
        lines = ran.stdout.splitlines()
        told = "token 5 of the observation differs (1 tokens of all agents do)"
        assert lines[0] == f"doctored, step 3, world 0, agent 1: {told}"
        assert [line.split()[0] for line in lines[1:6]] == ["3", "4", "5", "6", "7"]
        assert [line.endswith("<--") for line in lines[1:6]] == [False, False, True, False, False]
        assert "row +0 col +0  agent:group" in lines[3]
        assert lines[6].startswith("it did ")
        titles = ["recorded after step 2", "recorded after step 3", "played after step 3"]
        self.same_pictures_but_for_the_step(shortest, lines[7:], titles)

    def same_pictures_but_for_the_step(self, recording: Recording, lines: list[str], titles: list[str]) -> None:
        """Each picture has its agent in the middle; what was played and what was recorded look alike."""
        game = recording.config.game
        starts = [lines[0].index(title) for title in titles]
        assert len(lines) == 1 + game.observation_height
        ends = [*starts[1:], None]
        pictures = [[line[start:end].rstrip() for line in lines[1:]] for start, end in zip(starts, ends, strict=True)]
        middle = game.observation_height // 2
        assert [picture[middle][2 + game.observation_width // 2] for picture in pictures] == ["@"] * len(titles)
        assert pictures[-1] == pictures[-2]
        assert pictures[-1] != pictures[0]

    def test_shows_what_was_recorded_and_what_was_played(self, shortest: Recording, tmp_path: Path) -> None:
        agents = shortest.arrays["agent_rc"].copy()
        agents[4, 2] = [0, 0]
        told = str(engine_difference(Recording(self.doctored(shortest, tmp_path / "doctored.npz", agent_rc=agents))))
        assert told.startswith("doctored, step 4, world 0, agent 2: position of agents [2] is ")
        game = shortest.config.game
        title, *lines = told.splitlines()[-1 - game.observation_height :]
        recorded, played = (title.index(f"{side} after step 4") for side in ("recorded", "played"))
        middle = 2 + game.observation_width // 2
        # the recording has the agent in the corner of the map: nothing is above it
        assert all(not line[recorded:played].strip() for line in lines[: game.observation_height // 2])
        assert any(line[played:].strip() for line in lines[: game.observation_height // 2])
        for start in (recorded, played):
            assert lines[game.observation_height // 2][start + middle] == "@"

    @pytest.mark.parametrize(
        ("array", "place"), [("conv_busy", (5, 2)), ("conv_inventory", (5, 2, 1)), ("block_rc", (6, 0, 1))]
    )
    def test_shows_the_map_around_the_difference(
        self, shortest: Recording, tmp_path: Path, array: str, place: tuple[int, ...]
    ) -> None:
        changed = shortest.arrays[array].copy()
        if changed.size <= np.ravel_multi_index(place, changed.shape[: len(place)], mode="clip"):
            pytest.skip("the recording has no such entity")
        changed[place] ^= 1
        told = str(engine_difference(Recording(self.doctored(shortest, tmp_path / "doctored.npz", **{array: changed}))))
        assert f"recorded after step {place[0] - 1}" in told
        assert f"played after step {place[0]}" in told
        lines = told.splitlines()
        assert len(lines) == 2 + shortest.config.game.observation_height
        assert any(line.strip() for line in lines[2:])

    def test_names_the_world_of_a_batch(self, shortest: Recording, tmp_path: Path) -> None:
        rewards = shortest.rewards.copy()
        rewards[4, 2] += 1
        doctored = Recording(self.doctored(shortest, tmp_path / "doctored.npz", rewards=rewards))
        env = MettaGridEnv(doctored.config, num_worlds=3, auto_reset=False)
        told = str(compare(doctored, EnginePlayer(env, 2)))
        assert told.startswith("doctored, step 5, world 2, agent 2: reward of agents [2] is ")

    @pytest.mark.parametrize(
        ("array", "place", "told"),
        [
            ("rewards", (4, 2), "step 5, world 0, agent 2: reward of agents [2] is "),
            ("action_success", (2, 0), "step 3, world 0, agent 0: success of agents [0] is "),
            ("truncations", (6, 3), "step 7, world 0, agent 3: truncation of agents [3] is "),
            ("agent_orientation", (2, 1), "step 2, world 0, agent 1: orientation of agents [1] is "),
            ("agent_frozen", (2, 1), "step 2, world 0, agent 1: frozen of agents [1] is "),
            ("agent_color", (2, 1), "step 2, world 0, agent 1: color of agents [1] is "),
            ("agent_inventory", (9, 1, 3), "step 9, world 0, agent 1: inventory of agents [1] is "),
            ("agent_rc", (8, 0, 1), "step 8, world 0, agent 0: position of agents [0] is "),
            ("conv_busy", (5, 2), "step 5, world 0: busy of converters [2] is "),
            ("conv_inventory", (5, 2, 1), "step 5, world 0: inventory of converters [2] is "),
            ("episode_rewards_steps", (4, 2), "step 5, world 0, agent 2: accumulated reward of agents [2] is "),
        ],
    )
    def test_finds_every_kind_of_difference(
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
    def test_finds_names_that_differ(self, shortest: Recording, tmp_path: Path, array: str, told: str) -> None:
        changed = np.roll(shortest.arrays[array], 1)
        doctored = Recording(self.doctored(shortest, tmp_path / "doctored.npz", **{array: changed}))
        assert str(engine_difference(doctored)).startswith(f"doctored, step 0, world 0: {told}")

    def test_finds_scales_that_differ(self, shortest: Recording, tmp_path: Path) -> None:
        features = json.loads(str(shortest.arrays["features_json"]))
        features["agent:group"]["normalization"] = 7.0
        changed = np.array(json.dumps(features))
        doctored = Recording(self.doctored(shortest, tmp_path / "doctored.npz", features_json=changed))
        assert str(engine_difference(doctored)).startswith("doctored, step 0, world 0: scales of features are ")

    def test_finds_a_counter_that_differs(self, shortest: Recording, tmp_path: Path) -> None:
        statistics = json.loads(str(shortest.arrays["stats"]))
        statistics["agent"][2]["action.move.success"] += 1
        stats = np.array(json.dumps(statistics))
        told = str(engine_difference(Recording(self.doctored(shortest, tmp_path / "doctored.npz", stats=stats))))
        assert told.startswith(f"doctored, step {shortest.length}, world 0, agent 2: 1 counters differ")
        assert "agent 2: action.move.success is " in told
        assert f"played after step {shortest.length}" in told

    def test_continues_after_a_difference(self, shortest: Recording, tmp_path: Path) -> None:
        doctored = self.doctored(shortest, tmp_path / "doctored.npz", rewards=shortest.rewards + np.float32(1))
        ran = self.run(doctored, shortest.path)
        assert ran.returncode == 1
        assert ran.stdout.splitlines()[-1].endswith("agents agree")

    def test_requires_a_recording(self) -> None:
        ran = self.run()
        assert ran.returncode == 1
        assert "python tests/support/conformance.py RECORDING.npz" in ran.stderr

    def test_continues_after_a_file_that_is_no_recording(self, shortest: Recording, tmp_path: Path) -> None:
        array, damaged, other = tmp_path / "array.npz", tmp_path / "damaged.npz", tmp_path / "other.npz"
        np.save(tmp_path / "array.npy", np.zeros(3))
        (tmp_path / "array.npy").rename(array)
        content = shortest.path.read_bytes()
        damaged.write_bytes(content[:1000] + bytes(4000) + content[5000:])
        np.savez(other, actions=shortest.actions)
        ran = self.run(tmp_path / "nothing.npz", array, damaged, other, shortest.path)
        assert ran.returncode == 2
        assert ran.stdout == f"{shortest.name}: {shortest.length} steps of {shortest.num_agents} agents agree\n"
        told = ran.stderr.splitlines()
        assert told[0] == f"error: {tmp_path / 'nothing.npz'}: no such file"
        assert told[1] == f"error: {array} is not a recording: it is no .npz file"
        assert told[2].startswith(f"error: {damaged} is damaged: ")
        assert told[3].startswith(f"error: {other} is not a recording: it lacks action_success, agent_color, ")


class TestMissingRecordings:
    """Without recordings the other tests still run, except in CI, which requires them."""

    def test_are_skipped_outside_ci(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("recordings.FOLDER", tmp_path)
        monkeypatch.delenv("CI", raising=False)
        assert recordings() == []

    @pytest.mark.parametrize(("folder", "told"), [("absent", "absent does not exist"), (".", "has no recordings")])
    def test_ci_requires_them(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, told: str) -> None:
        monkeypatch.setattr("recordings.FOLDER", tmp_path / folder)
        monkeypatch.setenv("CI", "true")
        with pytest.raises(FileNotFoundError, match=told):
            recordings()

    def test_a_damaged_recording_is_always_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "damaged.npz").write_text("nothing")
        monkeypatch.setattr("recordings.FOLDER", tmp_path)
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(NotARecordingError, match="is not a recording: it is no"):
            recordings()
