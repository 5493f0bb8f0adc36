"""The feature `nearest_seen`: where agents remember things to be. The reference simulator has it, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metta.config.env.env_config import EnvConfig
from metta.config.parts.registries import FEATURES
from metta.errors import ConfigError, UsageError
from metta.geometry import LEFT, RIGHT
from metta.world.env import MettaGridEnv

CORRIDOR = """
#############
#_.........r#
#############
"""


def corridor(agent_col: int, *settings: dict[str, Any]) -> MettaGridEnv:
    """One agent that sees two cells to each side, in a corridor with an altar at one end and a mine at the other."""
    rows = CORRIDOR.split()
    drawing = "\n".join([rows[0], rows[1][:agent_col] + "@" + rows[1][agent_col + 1 :], rows[2]])
    game = {"num_agents": 1, "width": 13, "height": 3, "observation_width": 5, "observation_height": 5}
    features = [
        {"type": "nearest_seen", "name": f"seen_{index}", "settings": each} for index, each in enumerate(settings)
    ]
    builder = {"type": "Ascii", "map": drawing}
    env = MettaGridEnv(EnvConfig.model_validate({"game": game, "map_builder": builder, "features": features}), seed=0)
    env.reset()
    return env


def places(env: MettaGridEnv, observations: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, col) from the agent in its window, and the value, of each token of the features."""
    first = env.spec.feature_names.index("seen_0")
    tokens = [(location, value) for location, feature, value in observations[0].tolist() if first <= feature < 255]
    return [((location >> 4) - 2, (location & 15) - 2, value) for location, value in tokens]


def test_an_agent_remembers_what_it_saw() -> None:
    env = corridor(3, {"to": "altar"}, {"to": "mine_red"}, {"to": "altar", "holding": "heart"})
    observations = env.step(np.array([[2, RIGHT]]))[0]
    assert places(env, observations) == [(0, -2, 1), (0, 0, 0), (0, -2, 1)]
    for _ in range(4):  # the token stays at the edge of the window, in the direction of the altar
        observations = env.step(np.array([[1, 0]]))[0]
        assert places(env, observations)[0] == (0, -2, 1)
    assert places(env, observations)[1] == (0, 0, 0)  # the mine is four steps away
    for _ in range(2):
        observations = env.step(np.array([[1, 0]]))[0]
    assert places(env, observations)[:2] == [(0, -2, 1), (0, 2, 1)]


def test_an_agent_remembers_what_a_converter_held_when_it_was_seen_last() -> None:
    env = corridor(2, {"to": "altar", "holding": "heart"}, {"to": "altar"})
    env.step(np.array([[2, LEFT]]))
    observations = env.step(np.array([[4, 0]]))[0]  # the agent takes the heart
    assert places(env, observations) == [(0, 0, 0), (0, -1, 1)]


def test_memory_ends_with_the_episode() -> None:
    env = corridor(6, {"to": "altar"})
    env.step(np.array([[2, LEFT]]))
    for _ in range(3):
        observations = env.step(np.array([[1, 0]]))[0]
    assert places(env, observations) == [(0, -2, 1)]
    observations, _ = env.reset()
    assert places(env, observations) == [(0, 0, 0)]


def test_maps_may_be_wider_than_a_number_has_bits() -> None:
    game = {"num_agents": 2, "width": 90, "height": 7, "observation_width": 9, "observation_height": 9}
    builder = {"border_width": 1, "objects": {"altar": 6, "wall": 20}}
    features = [{"type": "nearest_seen", "name": "seen_0", "settings": {"to": "altar"}}]
    env = MettaGridEnv(
        EnvConfig.model_validate({"game": game, "map_builder": builder, "features": features}), 4, seed=3
    )
    env.reset()
    generator = np.random.default_rng(0)
    known: list[set[tuple[int, int]]] = [set() for _ in range(env.agents)]
    for _ in range(150):
        for agent, (row, col) in enumerate(env.positions.tolist()):
            altars = np.argwhere(env.cells(agent // 2) == env.config.object_types["altar"].type_id)
            known[agent] |= {(r, c) for r, c in altars.tolist() if abs(r - row) <= 4 and abs(c - col) <= 4}
            away = sorted((abs(r - row) + abs(c - col), r - row, c - col) for r, c in known[agent])
            found = env._worlds.part_arrays["features.seen_0:values"][agent].tolist()
            assert found == ([*away[0][1:], 1] if away else [0, 0, 0])
        moves = np.stack([generator.choice([1, 1, 1, 2], env.agents), generator.integers(0, 4, env.agents)], axis=1)
        moves[moves[:, 0] == 1, 1] = 0
        env.step(moves)
    assert any(known)


def test_a_program_may_place_tokens_anywhere_in_the_window() -> None:
    value = np.int16(7)

    @FEATURES.register("test.compass", at="offset")
    def compass(worlds: Any) -> np.ndarray:
        return np.tile(np.array([1, -9, value], np.int16), (worlds.agents, 1))

    env = MettaGridEnv(EnvConfig(features=[{"type": "test.compass", "name": "seen_0"}]), seed=0)
    observations, _ = env.reset()
    tokens = observations[0][observations[0, :, 1] == env.spec.feature_names.index("seen_0")].tolist()
    assert [(location >> 4, location & 15, units) for location, _, units in tokens] == [(6, 0, 7)]
    value = np.int16(256)
    with pytest.raises(UsageError, match='feature "seen_0" must return values from 0 to 255, but returned 256'):
        env.reset()


def test_unknown_names_are_named() -> None:
    with pytest.raises(ConfigError, match='unknown entity "alter"; did you mean "altar"'):
        EnvConfig().override(features=[{"type": "nearest_seen", "settings": {"to": "alter"}}])
