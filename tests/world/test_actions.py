"""Effects of each action on drawn maps. Every test runs on the engine and on the reference simulator."""

from __future__ import annotations

from typing import Any

import pytest
from board import ALL_ACTIONS, Board, MakeBackend, chest, picture


class TestMove:
    def test_forward_is_where_the_agent_faces(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            """
            .........
            .^.<.v.>.
            .........
            """,
        )
        board.act("move", "move", "move", "move")
        assert board.success.all()
        assert board.drawn() == picture(
            """
            .^.......
            ..<.....>
            .....v...
            """
        )

    def test_argument_1_is_backwards_and_keeps_the_orientation(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            """
            .........
            .^.<.v.>.
            .........
            """,
        )
        board.act(*["move 1"] * 4)
        assert board.drawn() == picture(
            """
            .....v...
            ....<.>..
            .^.......
            """
        )

    @pytest.mark.parametrize("obstacle", ["#", "b", "_", "r"])
    def test_objects_block_moves(self, make_backend: MakeBackend, obstacle: str) -> None:
        board = Board(make_backend, f">{obstacle}.")
        board.act("move")
        assert not board.success[0]
        assert board.drawn() == f">{obstacle}."

    def test_agents_block_moves(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">>.").act("move")
        assert board.drawn() == ">>."
        assert board.success.tolist() == [False, True]

    @pytest.mark.parametrize(
        ("order", "after", "success"),
        [([1, 0], ".>>", [True, True]), ([0, 1], ">.>", [False, True])],
        ids=["front first", "back first"],
    )
    def test_turn_order_decides_whether_a_cell_is_free(
        self, make_backend: MakeBackend, order: list[int], after: str, success: list[bool]
    ) -> None:
        board = Board(make_backend, ">>.").act("move", "move", order=order)
        assert board.drawn() == after
        assert board.success.tolist() == success

    @pytest.mark.parametrize(("order", "after"), [([0, 1], ".><"), ([1, 0], "><.")])
    def test_the_first_in_turn_order_gets_the_cell(
        self, make_backend: MakeBackend, order: list[int], after: str
    ) -> None:
        board = Board(make_backend, ">.<").act("move", "move", order=order)
        assert board.drawn() == after

    def test_a_whole_column_moves_if_the_head_goes_first(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">>>>>>>>>.").act(*["move"] * 9, order=range(8, -1, -1))
        assert board.drawn() == ".>>>>>>>>>"

    def test_edges_stop(self, make_backend: MakeBackend) -> None:
        drawing = picture(
            """
            ^.>
            <.v
            """
        )
        board = Board(make_backend, drawing).act(*["move"] * 4)
        assert board.drawn() == drawing
        assert not board.success.any()


class TestRotate:
    def test_absolute(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^^^^").act("rotate 0", "rotate 1", "rotate 2", "rotate 3")
        assert board.success.all()
        assert board.drawn() == "^v<>"

    def test_delta_turns_clockwise(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^v<>").act(*["right"] * 4)
        assert board.success.all()
        assert board.drawn() == "><^v"
        assert board.act(*["left"] * 4).drawn() == "^v<>"
        assert board.act(*["back"] * 4).drawn() == "v^><"

    def test_delta_takes_no_argument(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^").act("right 1")
        assert not board.success[0]
        assert board.drawn() == "^"
        assert board.counters()["action.invalid_arg"] == 1


class TestSwap:
    def test_with_a_block(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">b.").act("swap")
        assert board.drawn() == "b>."
        assert board.counters() == {"action.rotate.success": 1, "action.swap.success": 1, "action.swap.block": 1}

    @pytest.mark.parametrize("front", ["#", "_", ".", ">"])
    def test_with_nothing_else(self, make_backend: MakeBackend, front: str) -> None:
        board = Board(make_backend, f">{front}.").act("swap")
        assert not board.success[0]
        assert board.drawn() == f">{front}."

    def test_with_a_frozen_agent_keeps_orientations_and_the_freeze(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^.", freeze_duration=3).act("attack 2")
        assert board.act("swap").drawn() == "^>."
        assert board.is_frozen(1)
        assert board.counters()["action.swap.agent"] == 1

    def test_a_block_can_be_carried_along(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            """
            >b^
            ...
            """,
        )
        # the first agent swaps into the middle; the second, later in the same step, finds no block there
        board.act("swap", "turn_left", order=[0, 1]).act("noop", "swap")
        assert not board.success[1]
        assert board.drawn() == picture("b><\n...")


class TestChangeColor:
    def test_the_four_arguments(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^")
        colors = []
        for argument in (1, 0, 0, 0, 2, 2, 3, 1):
            board.act(f"change_color {argument}")
            assert board.success[0]
            colors.append(board.color())
        assert colors == [0, 1, 2, 3, 6, 12, 6, 5]

    def test_doubling_stops_above_127(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^")
        for _ in range(6):
            board.act("change_color 0").act("change_color 2")
        assert board.act("change_color 0").color() == 127
        assert board.act("change_color 2").color() == 254
        assert board.act("change_color 2").color() == 254
        assert board.success[0]
        board.act("change_color 3").act("change_color 0")
        assert board.color() == 128
        assert board.act("change_color 2").color() == 128

    def test_ends_of_the_range(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^").act("change_color 1")
        assert board.color() == 0
        assert board.success[0]
        for _ in range(260):
            board.act("change_color 0")
        assert board.color() == 255
        assert board.success[0]


class TestItems:
    def test_get_takes_everything_there_is(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">1", chests=[chest("heart", 7, "1")]).act("get")
        assert board.held() == {"heart": 7}
        assert board.stock() == {}
        assert not board.act("get").success[0]

    def test_get_takes_what_fits(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">1", chests=[chest("armor", 7, "1")], item_max={"armor": 5}).act("get")
        assert board.held() == {"armor": 5}
        assert board.stock() == {"armor": 2}
        assert not board.act("get").success[0]
        assert board.counters() == {
            "action.rotate.success": 1,
            "action.get.success": 1,
            "action.get.failed": 1,
            "action.failure_penalty": 1,
            "armor.get": 5,
            "armor.gained": 5,
        }

    def test_put_gives_at_most_one_recipe(self, make_backend: MakeBackend) -> None:
        recipe = {"input": {"ore_red": 3}, "output": {"heart": 1}, "max_output": 0, "initial_items": 0}
        board = Board(
            make_backend,
            "1^g",
            chests=[chest("ore_red", 5, "1")],
            objects=[{"type": "converter", "name": "goldsmith", **recipe}],
        )
        board.act("turn_left").act("get").act("turn_right").act("put")
        assert (board.held(), board.stock(1)) == ({"ore_red": 2}, {"ore_red": 3})
        board.act("put")
        assert (board.held(), board.stock(1)) == ({}, {"ore_red": 5})
        assert not board.act("put").success[0]
        assert board.counters()["ore_red.put"] == 5
        assert board.converter_counters(1)["ore_red.added"] == 5

    def test_put_and_get_need_a_converter(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">#>b>.")
        for action in ("put", "get", "use"):
            assert not board.act(action, action, action).success.any()

    def test_converters_hold_255_at_most(self, make_backend: MakeBackend) -> None:
        recipe = {"input": {"ore_red": 200}, "output": {"heart": 1}, "max_output": 0, "initial_items": 0}
        board = Board(
            make_backend,
            """
            1.
            ^g
            1.
            """,
            chests=[chest("ore_red", 255, "1")],
            objects=[{"type": "converter", "name": "goldsmith", **recipe}],
            default_item_max=255,
        )
        board.act("get").act("turn_right").act("put").act("put")
        assert board.stock(1) == {"ore_red": 255}
        assert board.held() == {}
        board.act("turn_down").act("get").act("turn_right")
        assert not board.act("put").success[0]
        assert board.held() == {"ore_red": 255}


class TestGift:
    def test_hands_over_one(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<>.", chests=[chest("heart", 3, "1")]).act("get").act("turn_right")
        board.act("gift")
        assert board.success[0]
        assert (board.held(0), board.held(1)) == ({"heart": 2}, {"heart": 1})
        assert board.counters(0)["heart.lost"] == 1
        assert board.counters(1)["heart.gained"] == 1

    def test_fails_without_a_receiver(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<.", chests=[chest("heart", 3, "1")]).act("get").act("turn_right").act("gift")
        assert not board.success[0]
        assert board.held() == {"heart": 3}

    def test_fails_without_the_item(self, make_backend: MakeBackend) -> None:
        assert not Board(make_backend, ">^").act("gift").success[0]

    def test_fails_if_the_receiver_is_at_its_cap(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<>2", chests=[chest("heart", 1, "1"), chest("heart", 2, "2")], heart_max=2)
        board.act("get", "get").act("turn_right").act("gift")
        assert not board.success[0]
        assert (board.held(0), board.held(1)) == ({"heart": 1}, {"heart": 2})

    def test_no_gift_to_the_giver_at_the_edge(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^1", chests=[chest("heart", 1, "1")]).act("turn_right").act("get").act("turn_left")
        assert not board.act("gift").success[0]
        assert board.held() == {"heart": 1}

    def test_passes_on_within_a_step(self, make_backend: MakeBackend) -> None:
        drawing = "1<>^"
        board = Board(make_backend, drawing, chests=[chest("heart", 1, "1")]).act("get").act("turn_right")
        board.act("gift", "gift", order=[0, 1, 2])
        assert board.held(2) == {"heart": 1}
        board = Board(make_backend, drawing, chests=[chest("heart", 1, "1")]).act("get").act("turn_right")
        board.act("gift", "gift", order=[1, 0, 2])
        assert board.held(1) == {"heart": 1}
        assert board.success.tolist() == [True, False, True]

    def test_to_a_frozen_agent(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<>", chests=[chest("heart", 1, "1")], freeze_duration=9).act("get")
        board.act("turn_right").act("attack 2").act("gift")
        assert board.held(1) == {"heart": 1}


class TestUse:
    GOLDSMITH = {  # noqa: RUF012  # read only
        "type": "converter",
        "name": "goldsmith",
        "input": {"ore_red": 1},
        "output": {"heart": 1},
        "conversion_ticks": 1,
        "cooldown": 0,
        "initial_items": 0,
    }

    def test_puts_in_and_then_takes_out(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<g", chests=[chest("ore_red", 2, "1")], objects=[self.GOLDSMITH])
        board.act("use").act("turn_right")
        assert board.held() == {"ore_red": 2}
        board.act("use")
        assert board.held() == {"ore_red": 1}
        board.act("use")  # the heart is ready, and output comes first
        assert board.held() == {"ore_red": 1, "heart": 1}
        board.act("use").act("use")
        assert board.held() == {"heart": 2}
        assert not board.act("use").success[0]
        assert board.counters()["action.use.success"] == 5

    def test_puts_in_if_the_output_does_not_fit(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<g", chests=[chest("ore_red", 2, "1")], objects=[self.GOLDSMITH], heart_max=0)
        board.act("use").act("turn_right").act("use").act("use")
        assert board.held() == {}
        assert board.success[0]

    @pytest.mark.parametrize(
        ("use", "works"), [("mine_red", [True, False, False]), ("mine", [True, True, False]), (None, [True] * 3)]
    )
    def test_applies_only_to_its_object_types(
        self, make_backend: MakeBackend, use: str | None, works: list[bool]
    ) -> None:
        actions = [*ALL_ACTIONS[:3], {"type": "use", "key": "work", "use": use}]
        board = Board(make_backend, ">r>1>_", chests=[chest("ore_red", 2, "1")], actions=actions)
        assert board.act(*["work"] * 3).success.tolist() == works


class TestCosts:
    def actions(self, **costs: Any) -> list[dict[str, Any]]:
        return [{**action, **costs} if action["key"] == "move" else action for action in ALL_ACTIONS]

    def board(self, make_backend: MakeBackend, drawing: str, units: int = 3, **costs: Any) -> Board:
        chests = [chest("ore_red", units, "1")]
        return Board(make_backend, drawing, chests=chests, actions=self.actions(**costs)).act("get").act("turn_right")

    def test_what_is_consumed_is_required_unless_said_otherwise(self, make_backend: MakeBackend) -> None:
        board = self.board(make_backend, "1<..", 3, consumed_resources={"ore_red": 2})
        assert board.act("move").drawn() == "1.>."
        assert board.held() == {"ore_red": 1}
        assert board.act("move").drawn() == "1.>."
        assert not board.success[0]
        assert board.held() == {"ore_red": 1}

    def test_resources_are_consumed_even_if_the_action_fails(self, make_backend: MakeBackend) -> None:
        board = self.board(make_backend, "1<#", 3, consumed_resources={"ore_red": 1}).act("move")
        assert not board.success[0]
        assert board.held() == {"ore_red": 2}

    def test_required_without_being_consumed(self, make_backend: MakeBackend) -> None:
        costs = {"required_resources": {"ore_red": 3}, "consumed_resources": {"ore_red": 1}}
        board = self.board(make_backend, "1<..", 3, **costs).act("move").act("move")
        assert board.drawn() == "1.>."
        assert board.held() == {"ore_red": 2}

    def test_consumed_without_being_required(self, make_backend: MakeBackend) -> None:
        costs: dict[str, Any] = {"required_resources": {}, "consumed_resources": {"ore_red": 2}}
        board = self.board(make_backend, "1<...", 3, **costs).act("move").act("move").act("move")
        assert board.drawn() == "1...>"
        assert board.held() == {}
        assert board.counters()["ore_red.lost"] == 3

    def test_a_missing_required_item_gets_a_token_with_0(self, make_backend: MakeBackend) -> None:
        """Items are checked in the order of their ids up to the first that is short; updates remove the token."""
        actions = self.actions(required_resources={"ore_red": 1, "heart": 2, "laser": 1})
        board = Board(make_backend, ">...", actions=actions)
        assert board.item_tokens() == {}
        assert board.act("move").item_tokens() == {"ore_red": 0}

    def test_the_check_continues_while_items_suffice(self, make_backend: MakeBackend) -> None:
        actions = self.actions(required_resources={"ore_red": 1, "heart": 2, "laser": 1})
        board = Board(make_backend, "1<..", chests=[chest("ore_red", 2, "1")], actions=actions)
        assert board.act("get").act("turn_right").act("move").item_tokens() == {"ore_red": 2, "heart": 0}

    def test_an_update_to_0_removes_the_token(self, make_backend: MakeBackend) -> None:
        board = self.board(make_backend, "1<..", 1, consumed_resources={"ore_red": 1})
        assert board.act("move").item_tokens() == {}
        assert board.act("move").item_tokens() == {"ore_red": 0}

    def test_getting_what_does_not_fit_removes_the_token(self, make_backend: MakeBackend) -> None:
        actions = self.actions(required_resources={"ore_red": 1})
        board = Board(make_backend, "1<..", chests=[chest("ore_red", 2, "1")], actions=actions, item_max={"ore_red": 0})
        assert board.act("move").item_tokens() == {"ore_red": 0}
        assert board.act("get").item_tokens() == {}


class TestFailure:
    def test_penalty_and_counters(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">#", action_failure_penalty=0.25).act("move")
        assert board.rewards.tolist() == [-0.25]
        assert board.counters() == {
            "action.rotate.success": 1,
            "action.move.failed": 1,
            "action.failure_penalty": 1,
        }

    def test_an_unknown_action_is_penalized_in_both_phases(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^", action_failure_penalty=0.25).act("77 3")
        assert board.rewards.tolist() == [-0.5]
        assert board.counters() == {"action.invalid_type": 2, "action.invalid_type.77.3": 2}
        assert not board.success[0]

    def test_a_negative_action_is_unknown(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^", action_failure_penalty=0.25).act("-1 0")
        assert board.rewards.tolist() == [-0.5]
        assert board.counters() == {"action.invalid_type": 2, "action.invalid_type.-1.0": 2}

    @pytest.mark.parametrize("action", ["move 2", "move -1", "rotate 4", "attack 10", "noop 1", "change_color -300"])
    def test_an_argument_out_of_range_is_penalized_once(self, make_backend: MakeBackend, action: str) -> None:
        board = Board(make_backend, "^", action_failure_penalty=0.25).act(action)
        assert board.rewards.tolist() == [-0.25]
        number, argument = board.parse(action)
        assert board.counters() == {"action.invalid_arg": 1, f"action.invalid_arg.{number}.{argument}": 1}
        assert board.drawn() == "^"

    def test_a_frozen_agent_is_penalized_for_invalid_actions_and_does_not_thaw(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">^", freeze_duration=2, action_failure_penalty=0.25).act("attack 2", "noop")
        for _ in range(3):
            board.act("noop", "move 9")
            assert board.rewards.tolist() == [0, -0.25]
        assert board.is_frozen(1)
        assert board.act("noop", "noop").rewards.tolist() == [0, 0]
        assert not board.is_frozen(1)

    def test_a_disabled_action_fails(self, make_backend: MakeBackend) -> None:
        actions = [{**action, "enabled": action["key"] != "move"} for action in ALL_ACTIONS]
        board = Board(make_backend, ">.", actions=actions, action_failure_penalty=0.25).act("move")
        assert board.drawn() == ">."
        assert board.rewards.tolist() == [-0.25]
        assert board.counters()["action.move.failed"] == 1
        assert board.config.spec.action_names[1] == "move"
        assert all(board.config.spec.action_names[pair[0]] != "move" for pair in board.config.spec.flat_actions)

    def test_a_disabled_action_costs_nothing(self, make_backend: MakeBackend) -> None:
        disabled = {"type": "move", "key": "fly", "enabled": False, "consumed_resources": {"ore_red": 1}}
        board = Board(make_backend, "1<.", chests=[chest("ore_red", 2, "1")], actions=[*ALL_ACTIONS, disabled])
        board.act("get").act("turn_right").act("fly")
        assert board.held() == {"ore_red": 2}
        assert not board.success[0]

    def test_disabling_attack_disables_attack_nearest(self, make_backend: MakeBackend) -> None:
        actions = [{**action, "enabled": action["key"] != "attack"} for action in ALL_ACTIONS]
        board = Board(make_backend, ">^", actions=actions)
        assert not board.act("attack 2").success[0]
        assert not board.act("attack_nearest").success[0]
        assert not board.is_frozen(1)
