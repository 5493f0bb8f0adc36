"""Observations: which tokens, in which order, and where the list is cut."""

from __future__ import annotations

import numpy as np
import pytest
from board import ALL_ACTIONS, Board, MakeBackend, chest

from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv
from metta.world.observation.observe import CHUNK


def seen(board: Board, agent: int = 0) -> list[tuple[int, int, str, int]]:
    """The tokens after the four global ones."""
    return board.tokens(agent)[4:]


class TestGlobalTokens:
    def test_come_first_in_the_middle(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^.", max_steps=4, time_punishment=0.5).act("rotate 3")
        assert board.tokens()[:4] == [
            (0, 0, "episode_completion_pct", 64),  # a quarter of 255 is 63.75
            (0, 0, "last_action", 2),
            (0, 0, "last_action_arg", 3),
            (0, 0, "last_reward", 50),
        ]

    def test_last_action_and_reward_are_0_after_reset(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^.", max_steps=4, time_punishment=0.5)
        assert [value for *_, value in board.tokens()[:4]] == [0, 0, 0, 0]

    def test_completion_without_a_limit_is_0(self, make_backend: MakeBackend) -> None:
        assert Board(make_backend, "^.").act().act().tokens()[0][3] == 0

    def test_completion_is_rounded_half_up(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^.", max_steps=10)
        assert [board.act().tokens()[0][3] for _ in range(10)] == [26, 51, 77, 102, 128, 153, 179, 204, 230, 255]

    @pytest.mark.parametrize(("action", "shown"), [("300 7", (44, 7)), ("-1 0", (255, 0)), ("move 515", (1, 3))])
    def test_requests_show_their_low_byte_even_if_invalid(
        self, make_backend: MakeBackend, action: str, shown: tuple[int, int]
    ) -> None:
        tokens = Board(make_backend, "^.").act(action).tokens()
        assert (tokens[1][3], tokens[2][3]) == shown


class TestEntities:
    def test_an_agent(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend, "1<.", chests=[chest("laser", 3, "1")], groups=["red"], group_settings={"red": {"id": 7}}
        )
        board.act("change_color 0").act("get")
        own = [token for token in seen(board) if token[:2] == (0, 0)]
        assert own == [
            (0, 0, "type_id", 0),
            (0, 0, "agent:group", 7),
            (0, 0, "agent:frozen", 0),
            (0, 0, "agent:orientation", 2),
            (0, 0, "agent:color", 1),
            (0, 0, "inv:laser", 3),
        ]

    def test_a_frozen_agent(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^>^").act("noop", "attack 2")
        assert (0, 2, "agent:frozen", 1) in board.tokens(0)
        assert (0, 0, "agent:frozen", 0) in board.tokens(0)
        assert (0, 0, "agent:frozen", 1) in board.tokens(2)

    def test_a_wall_and_a_block(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "#^b")
        assert seen(board)[5:] == [(0, 1, "type_id", 14), (0, 1, "swappable", 1), (0, -1, "type_id", 1)]

    def test_a_converter(self, make_backend: MakeBackend) -> None:
        kiln = {
            "type": "converter",
            "name": "kiln",
            "type_id": 99,
            "color": 5,
            "output": {"laser": 2, "ore_red": 1},
            "conversion_ticks": 9,
            "initial_items": 4,
            "max_output": 100,
        }
        board = Board(make_backend, "^k", objects=[kiln])
        assert seen(board)[5:] == [
            (0, 1, "type_id", 99),
            (0, 1, "agent:color", 5),
            (0, 1, "converting", 1),
            (0, 1, "inv:ore_red", 4),
            (0, 1, "inv:laser", 4),
        ]

    def test_a_cooling_converter_shows_as_converting_and_an_idle_one_does_not(self, make_backend: MakeBackend) -> None:
        kiln = {"type": "mine", "name": "kiln", "output": {"laser": 1}, "cooldown": 3, "max_output": 2}
        board = Board(make_backend, "^k", objects=[kiln])
        busy = [(0, 1, "converting", 1) in board.act().tokens() for _ in range(6)]
        assert busy == [True, True, True, False, False, False]


class TestOrder:
    def test_by_distance_then_row_then_right_before_left(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            """
            #######
            #######
            #######
            ###^###
            #######
            #######
            #######
            """,
            num_observation_tokens=100,
            observation_height=5,
            observation_width=7,
        )
        places = [token[:2] for token in seen(board)][5:]
        expected = []
        for distance in range(1, 6):
            for row in range(-2, 3):
                col = distance - abs(row)
                expected += [(row, side) for side in ([col, -col] if col > 0 else [col] * (col == 0)) if col <= 3]
        assert places == expected
        assert len(places) == 5 * 7 - 1
        assert places[:8] == [(-1, 0), (0, 1), (0, -1), (1, 0), (-2, 0), (-1, 1), (-1, -1), (0, 2)]

    def test_the_window_does_not_turn_with_the_agent(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ".b.\n.^.\n...")
        before = board.tokens()[9:]
        assert board.act("turn_left").tokens()[9:] == before == [(-1, 0, "type_id", 14), (-1, 0, "swappable", 1)]

    def test_cells_outside_the_map_have_no_tokens(self, make_backend: MakeBackend) -> None:
        assert len(Board(make_backend, "^").tokens()) == 9

    def test_entities_outside_the_window_are_not_seen(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^.b", observation_width=3)
        assert len(board.tokens()) == 9
        assert len(board.act("turn_right").act("move").tokens()) == 11


class TestCut:
    @pytest.mark.parametrize("capacity", [1, 3, 4, 7, 9, 10, 11, 12, 30])
    def test_the_list_is_cut_anywhere(self, make_backend: MakeBackend, capacity: int) -> None:
        whole = Board(make_backend, "^b", num_observation_tokens=50).tokens()
        board = Board(make_backend, "^b", num_observation_tokens=capacity)
        assert len(whole) == 11
        assert board.tokens() == whole[:capacity]
        assert board.observations.shape == (1, capacity, 3)
        assert (board.observations[0, 11:] == 0xFF).all()

    def test_dropped_tokens_are_counted(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^b", num_observation_tokens=8).act()
        game = board.backend.statistics()["game"]
        assert game["tokens_written"] == 16
        assert game["tokens_dropped"] == 6
        assert not game.get("tokens_free_space")

    def test_unused_tokens_are_counted(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^b", num_observation_tokens=20).act()
        assert board.backend.statistics()["game"]["tokens_free_space"] == 18

    def test_objects_are_counted(self, make_backend: MakeBackend) -> None:
        game = Board(make_backend, "^b#b_").backend.statistics()["game"]
        assert {key: count for key, count in game.items() if key.startswith("objects.")} == {
            "objects.block": 2,
            "objects.wall": 1,
            "objects.altar": 1,
        }


def test_names_and_scales_are_those_of_the_original() -> None:
    spec = EnvConfig.model_validate({"game": {"inventory_item_names": ["heart", "ore_red", "battery_red"]}}).spec
    assert dict(zip(spec.feature_names, spec.feature_scales, strict=True)) == {
        "type_id": 1,
        "agent:group": 10,
        "hp": 30,
        "agent:frozen": 1,
        "agent:orientation": 1,
        "agent:color": 255,
        "converting": 1,
        "swappable": 1,
        "episode_completion_pct": 255,
        "last_action": 10,
        "last_action_arg": 10,
        "last_reward": 100,
        "inv:heart": 100,
        "inv:ore_red": 100,
        "inv:battery_red": 100,
    }


def test_tokens_show_what_happened_this_step(make_backend: MakeBackend) -> None:
    """All agents are observed after all have acted."""
    board = Board(make_backend, "^>.", actions=ALL_ACTIONS).act("noop", "move")
    assert (0, 2, "type_id", 0) in board.tokens(0)
    assert np.array_equal(board.tokens(1)[:1], board.tokens(0)[:1])


@pytest.mark.parametrize(("height", "width"), [(11, 11), (15, 15), (1, 15), (15, 1), (5, 9)])
def test_each_world_of_a_large_batch_is_observed_as_if_it_were_alone(height: int, width: int) -> None:
    """Also with several chunks of agents, the last one incomplete; large windows have smaller chunks."""
    config = EnvConfig(
        game={
            **{"num_agents": 24, "width": 24, "height": 20},
            **{"observation_height": height, "observation_width": width},
        }
    )
    worlds = CHUNK // 24 + 3
    batch = MettaGridEnv(config, worlds, seed=3)
    alone = {world: MettaGridEnv(config, 1, seed=3, first_world=world) for world in (0, 11, 13, worlds - 1)}
    actions = np.array(config.spec.flat_actions)
    generator = np.random.default_rng(0)
    observations, _ = batch.reset()
    for env in alone.values():
        env.reset()
    for _ in range(3):
        chosen = actions[generator.integers(len(actions), size=batch.agents)]
        observations = batch.step(chosen, out=observations)[0]
        for world, env in alone.items():
            rows = slice(24 * world, 24 * world + 24)
            np.testing.assert_array_equal(env.step(chosen[rows])[0], observations[rows])
