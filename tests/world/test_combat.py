"""Attacks: targets, freezing, stealing and defense."""

from __future__ import annotations

from typing import Any

import pytest
from board import ALL_ACTIONS, Board, MakeBackend, chest


def attack_with(**costs: Any) -> list[dict[str, Any]]:
    return [{**action, **costs} if action["key"] == "attack" else action for action in ALL_ACTIONS]


class TestTargets:
    """Target cells by argument for an attacker that faces up:  7 8 9 / 4 5 6 / 1 2 3 / attacker."""

    @pytest.mark.parametrize(
        ("argument", "row", "col"),
        [(1, 2, 1), (2, 2, 2), (3, 2, 3), (4, 1, 1), (5, 1, 2), (6, 1, 3), (7, 0, 1), (8, 0, 2), (9, 0, 3)],
    )
    @pytest.mark.parametrize("turns", [0, 1, 2, 3], ids=["up", "right", "down", "left"])
    def test_nine_cells_ahead(self, make_backend: MakeBackend, argument: int, row: int, col: int, turns: int) -> None:
        rows = [["#"] * 5 for _ in range(4)]
        rows[3][2], rows[row][col] = "^", "^"
        for _ in range(turns):  # a quarter turn clockwise of the whole drawing
            rows = [list(line) for line in zip(*rows[::-1], strict=True)]
        flat = [cell for line in rows for cell in line if cell == "^"]
        assert len(flat) == 2
        board = Board(make_backend, "\n".join(map("".join, rows)))
        attacker = self._attacker(rows, turns)
        facing = ("turn_up", "turn_right", "turn_down", "turn_left")[turns]
        board.act(*(facing if agent == attacker else "noop" for agent in range(2)))
        for other in range(10):
            board.act(*(f"attack {other}" if agent == attacker else "noop" for agent in range(2)))
            assert board.success[attacker] == (other == argument)
        assert board.is_frozen(1 - attacker)

    def _attacker(self, rows: list[list[str]], turns: int) -> int:
        """Index, in reading order, of the agent at the edge where the attacker was drawn."""
        rim = {0: (3, 2), 1: (2, 0), 2: (0, 2), 3: (2, 3)}[turns]
        places = [(r, c) for r, line in enumerate(rows) for c, cell in enumerate(line) if cell == "^"]
        return places.index(rim)

    def test_over_walls(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">#b^").act("attack 8")
        assert board.success[0]
        assert board.is_frozen(1)

    @pytest.mark.parametrize(
        ("drawing", "victim"),
        [
            ("...\n>^^\n...", 1),  # near before far
            (".^.\n>^.\n.^.", 2),  # straight before left and right
            (".^.\n>..\n.^.", 0),  # left before right
            ("..^\n>..\n.^.", 2),  # near right before far left
            ("....\n>..^\n....", 1),
            ("...^\n>...\n....", 0),
        ],
    )
    def test_attack_nearest_looks_straight_left_right_then_further(
        self, make_backend: MakeBackend, drawing: str, victim: int
    ) -> None:
        board = Board(make_backend, "#" * len(drawing.split("\n")[0]) + "\n" + drawing)
        attacker = [glyph for glyph in drawing if glyph in "^>"].index(">")
        agents = range(board.num_agents)
        board.act(*("attack_nearest" if agent == attacker else "noop" for agent in agents))
        assert [agent for agent in agents if board.is_frozen(agent)] == [victim]

    @pytest.mark.parametrize("drawing", ["#>...^", "#<.^"], ids=["too far", "behind"])
    def test_attack_nearest_fails_without_a_target(self, make_backend: MakeBackend, drawing: str) -> None:
        assert not Board(make_backend, drawing).act("attack_nearest").success[0]

    def test_at_the_top_and_left_edge_an_attacker_hits_itself(self, make_backend: MakeBackend) -> None:
        """Rows and columns below 0 count as 0, so the cell ahead is the attacker's."""
        board = Board(make_backend, "^..").act("attack_nearest")
        assert board.success[0]
        assert board.is_frozen(0)
        assert board.counters()["attack.own_team.agent"] == 1

    def test_beyond_the_bottom_and_right_edge_there_is_nothing(self, make_backend: MakeBackend) -> None:
        assert not Board(make_backend, "#v").act("attack_nearest").success[0]
        assert not Board(make_backend, "#>").act("attack_nearest").success[0]

    def test_the_left_edge_shifts_targets(self, make_backend: MakeBackend) -> None:
        """Facing up in column 0, one cell to the left of straight ahead is straight ahead."""
        board = Board(make_backend, "^\n^", freeze_duration=5).act("noop", "attack 1")
        assert board.success[1]
        assert board.is_frozen(0)


class TestFreeze:
    @pytest.mark.parametrize("duration", [1, 2, 5])
    def test_costs_that_many_actions_from_the_next_one_on(self, make_backend: MakeBackend, duration: int) -> None:
        board = Board(make_backend, ">^...", freeze_duration=duration)
        board.act("attack 2", "turn_right")  # attacks come first, so this turn is lost already
        lost = 1
        while not board.act("noop", "turn_right").success[1]:
            lost += 1
        assert lost == duration
        assert board.counters(1)["status.frozen.ticks"] == duration
        assert board.counters(1)["status.frozen.ticks.agent"] == duration
        assert "action.rotate.failed" not in board.counters(1)

    def test_attacks_come_before_everything_else(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^.", freeze_duration=1).act("attack 2", "turn_right", order=[1, 0])
        assert board.drawn() == ">^."

    @pytest.mark.parametrize(("order", "frozen"), [([0, 1], 1), ([1, 0], 0)])
    def test_among_attacks_the_first_wins(self, make_backend: MakeBackend, order: list[int], frozen: int) -> None:
        board = Board(make_backend, "#><", freeze_duration=3).act("attack 2", "attack 2", order=order)
        assert [board.is_frozen(0), board.is_frozen(1)] == [frozen == 0, frozen == 1]
        assert board.success[1 - frozen]
        assert not board.success[frozen]

    @pytest.mark.parametrize(("order", "after"), [([0, 1], "^>."), ([1, 0], ">^.")], ids=["still frozen", "thawed"])
    def test_the_last_lost_turn_thaws_in_its_turn(
        self, make_backend: MakeBackend, order: list[int], after: str
    ) -> None:
        """A swap with an agent that thaws in the same step succeeds only before its turn."""
        board = Board(make_backend, ">^.", freeze_duration=2).act("attack 2")
        assert board.act("swap", "noop", order=order).drawn() == after
        assert not board.is_frozen(1)

    def test_a_hit_renews_the_freeze(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^", freeze_duration=3).act("attack 2")
        board.act().act("attack 2")
        assert board.is_frozen(1)
        board.act()
        assert board.is_frozen(1)
        board.act()
        assert not board.is_frozen(1)

    def test_0_does_not_freeze(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^", freeze_duration=0).act("attack 2", "turn_down")
        assert board.success.all()
        assert not board.is_frozen(1)

    def test_minus_1_never_thaws(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^", freeze_duration=-1).act("attack 2")
        for _ in range(20):
            board.act("noop", "turn_down")
        assert board.is_frozen(1)
        assert (0, 1, "agent:frozen", 1) in board.tokens(0)
        assert board.counters(1)["status.frozen.ticks"] == 21

    def test_a_lost_action_of_a_frozen_agent_is_not_penalized(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^", freeze_duration=3, action_failure_penalty=0.5).act("attack 2", "move")
        assert board.rewards.tolist() == [0, 0]

    def test_groups_freeze_differently(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            "^>^",
            groups=["red", "blue", "red"],
            group_settings={"red": {"props": {"freeze_duration": 2}}, "blue": {"props": {"freeze_duration": 9}}},
        )
        board.act("noop", "attack 2", "noop").act()
        assert not board.is_frozen(2)


class TestStealing:
    def after_theft(self, make_backend: MakeBackend, **game: Any) -> Board:
        """Red has stolen from blue, which held 3 ore and 2 hearts."""
        board = Board(
            make_backend,
            """
            .1.
            >^2
            """,
            groups=["red", "blue"],
            chests=[chest("ore_red", 3, "1"), chest("heart", 2, "2")],
            **game,
        )
        return board.act("noop", "get").act("noop", "turn_right").act("noop", "get").act("attack 2")

    def test_takes_everything(self, make_backend: MakeBackend) -> None:
        board = self.after_theft(make_backend)
        assert board.held(0) == {"ore_red": 3, "heart": 2}
        assert board.held(1) == {}
        red, blue = board.counters(0), board.counters(1)
        assert red["ore_red.stolen.red"] == red["ore_red.gained"] == 3
        assert blue["ore_red.stolen_from.blue"] == blue["ore_red.lost"] == 3
        assert red["heart.stolen.red"] == 2
        assert {key: count for key, count in red.items() if "attack" in key} == {
            "action.attack.success": 1,
            "action.attack.agent": 1,
            "action.attack.agent.red": 1,
            "action.attack.agent.red.blue": 1,
            "attack.other_team.red": 1,
            "attack.win.red": 1,
            "attack.win.red.blue": 1,
            "attack.win.other_team.red": 1,
        }
        assert {key: count for key, count in blue.items() if "attack" in key} == {
            "attack.loss.blue": 1,
            "attack.loss.blue.red": 1,
            "attack.loss.from_other_team.blue": 1,
        }

    def test_up_to_the_cap_of_the_attacker(self, make_backend: MakeBackend) -> None:
        board = self.after_theft(make_backend, group_settings={"red": {"props": {"item_max": {"ore_red": 1}}}})
        assert board.held(0) == {"ore_red": 1, "heart": 2}
        assert board.held(1) == {"ore_red": 2}

    def test_moves_the_rewards_too(self, make_backend: MakeBackend) -> None:
        board = self.after_theft(make_backend, heart_reward=1.0, ore_red_reward=0.5)
        assert board.rewards.tolist() == [3.5, -3.5]

    def test_frozen_agents_lose_nothing_more(self, make_backend: MakeBackend) -> None:
        board = self.after_theft(make_backend, freeze_duration=5, group_settings={"red": {"props": {"heart_max": 1}}})
        assert board.held(1) == {"heart": 1}
        board.act("attack 2")
        assert board.success[0]
        assert board.held(1) == {"heart": 1}
        assert board.counters(0)["attack.win.red"] == 1
        assert board.counters(0)["action.attack.agent"] == 2

    def test_permanently_frozen_agents_lose_items_each_time(self, make_backend: MakeBackend) -> None:
        board = self.after_theft(make_backend, freeze_duration=-1).act("attack 2")
        assert board.counters(0)["attack.win.red"] == 2

    def test_one_team(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^").act("attack 2")
        assert board.counters(0)["attack.win.own_team.agent"] == 1
        assert board.counters(1)["attack.loss.from_own_team.agent"] == 1
        assert board.counters(0)["attack.own_team.agent"] == 1

    def test_a_thief_can_lose_its_loot_in_the_same_step(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<>v\n###^", chests=[chest("heart", 2, "1")], freeze_duration=0)
        board.act("get").act("turn_right", "turn_left")
        board.act("noop", "attack 2", "attack_nearest", "noop", order=[1, 2, 0, 3])
        assert board.held(0) == {}
        assert board.held(1) == {"heart": 2}


class TestDefense:
    ARMOUR = attack_with(defense_resources={"armor": 1, "laser": 1})

    def test_blocks_and_is_consumed(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            ".1.\n>^2",
            actions=self.ARMOUR,
            chests=[chest("armor", 2, "1"), chest("laser", 1, "2")],
            groups=["red", "blue"],
        )
        board.act("noop", "get").act("noop", "turn_right").act("noop", "get").act("attack 2")
        assert board.success[0]
        assert not board.is_frozen(1)
        assert board.held(1) == {"armor": 1}
        assert board.counters(0)["attack.blocked.blue"] == board.counters(0)["attack.blocked.blue.red"] == 1
        board.act("attack 2")
        assert board.is_frozen(1)
        assert board.held(1) == {}
        assert board.held(0) == {"armor": 1}

    def test_a_missing_defense_item_gets_a_token_with_0(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^", actions=self.ARMOUR).act("attack 2")
        assert board.item_tokens(1) == {}  # the theft updates all items with tokens and removes those of 0
        board.act("attack 2")
        assert board.item_tokens(1) == {"armor": 0}  # frozen agents lose nothing

    def test_no_defense_without_a_list(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^1", chests=[chest("armor", 1, "1")])
        board.act("noop", "turn_right").act("noop", "get").act("attack 2")
        assert board.is_frozen(1)

    def test_an_attack_costs_its_resources_even_if_it_misses(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend, "1<.", actions=attack_with(consumed_resources={"laser": 1}), chests=[chest("laser", 2, "1")]
        )
        board.act("get").act("attack 0").act("turn_right").act("attack_nearest")
        assert not board.success[0]
        assert board.held() == {}
        assert board.act("attack 5").item_tokens() == {"laser": 0}
