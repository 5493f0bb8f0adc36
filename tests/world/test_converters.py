"""Converters: start conditions, durations, inputs and output limits."""

from __future__ import annotations

from typing import Any

import pytest
from board import Board, MakeBackend, chest


def goldsmith(**changes: Any) -> dict[str, Any]:
    """Three ore make a heart."""
    recipe = {
        "type": "converter",
        "name": "goldsmith",
        "input": {"ore_red": 3},
        "output": {"heart": 1},
        "max_output": 5,
        "conversion_ticks": 1,
        "cooldown": 0,
        "initial_items": 0,
    }
    return recipe | changes


def fed(make_backend: MakeBackend, units: int = 255, **changes: Any) -> Board:
    """An agent with ore faces a goldsmith, converter number 1."""
    board = Board(
        make_backend,
        "1<g",
        chests=[chest("ore_red", units, "1")],
        objects=[goldsmith(**changes)],
        default_item_max=255,
    )
    return board.act("get").act("turn_right")


def busy_for(board: Board, limit: int = 30) -> int:
    """Steps until the goldsmith is idle."""
    for steps in range(limit):
        if not board.is_busy(1):
            return steps
        board.act()
    return limit


class TestTiming:
    @pytest.mark.parametrize(("ticks", "steps"), [(0, 1), (1, 1), (2, 2), (5, 5)])
    def test_a_conversion_takes_its_ticks_and_at_least_one(
        self, make_backend: MakeBackend, ticks: int, steps: int
    ) -> None:
        board = fed(make_backend, conversion_ticks=ticks).act("put")
        assert board.is_busy(1)
        assert board.stock(1) == {}
        assert busy_for(board) == steps
        assert board.stock(1) == {"heart": 1}

    @pytest.mark.parametrize(("ticks", "cooldown", "steps"), [(1, 1, 2), (1, 4, 5), (3, 2, 5), (0, 3, 4)])
    def test_then_it_cools_down(self, make_backend: MakeBackend, ticks: int, cooldown: int, steps: int) -> None:
        board = fed(make_backend, conversion_ticks=ticks, cooldown=cooldown).act("put")
        assert busy_for(board) == steps
        counters = board.converter_counters(1)
        assert counters["cooldown.started"] == counters["cooldown.completed"] == 1

    def test_output_is_there_before_the_cooldown_ends(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, cooldown=9).act("put").act("get")
        assert board.held()["heart"] == 1
        assert board.is_busy(1)

    def test_it_restarts_while_input_is_left(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, conversion_ticks=2).act("put").act("put").act("put")
        made = []
        for _ in range(5):
            made.append(board.stock(1).get("heart", 0))
            board.act()
        assert made == [1, 1, 2, 2, 3]

    def test_without_input_ticks_and_a_limit_it_fills_in_one_step(self, make_backend: MakeBackend) -> None:
        """Started by events, a conversion of 0 ticks ends at once, and the next begins."""
        board = Board(
            make_backend, "^g", objects=[goldsmith(input={}, conversion_ticks=0, max_output=5, output={"heart": 2})]
        )
        assert board.is_busy()
        board.act()
        assert board.stock() == {"heart": 6}
        assert board.converter_counters() == {
            "conversions.started": 3,
            "conversions.completed": 3,
            "heart.produced": 6,
            "goldsmith.produced": 3,
            "blocked.output_full": 1,
        }

    def test_at_construction_it_starts_at_once(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^g", objects=[goldsmith(input={}, conversion_ticks=3, initial_items=2)])
        assert board.is_busy()
        assert board.stock() == {"heart": 2}
        board.act().act()
        assert board.stock() == {"heart": 2}
        assert board.act().stock() == {"heart": 3}

    def test_the_catalogs_mine_gives_one_ore_every_51_steps(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^r")
        stocks = [board.act().stock()["ore_red"] for _ in range(160)]
        changes = [step + 1 for step in range(1, 160) if stocks[step] != stocks[step - 1]]
        assert stocks[0] == 2
        assert changes == [52, 103, 154]


class TestInput:
    def test_nothing_starts_while_input_is_short(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, units=2).act("put")
        assert not board.is_busy(1)
        assert board.stock(1) == {"ore_red": 2}
        assert board.converter_counters(1)["blocked.insufficient_input"] == 2  # the first at construction

    def test_input_is_taken_at_the_start(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend).act("put")
        assert board.stock(1) == {}
        assert board.converter_counters(1)["ore_red.consumed"] == 3

    def test_input_can_be_put_in_while_it_works(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, conversion_ticks=9).act("put").act("put").act("put")
        assert board.stock(1) == {"ore_red": 6}

    def test_putting_two_kinds_of_input_tries_to_start_twice(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            "1^2\n#g#",
            chests=[chest("ore_red", 1, "1"), chest("battery_red", 1, "2")],
            objects=[goldsmith(input={"ore_red": 1, "battery_red": 1})],
        )
        board.act("turn_left").act("get").act("turn_right").act("get").act("turn_down").act("put")
        assert board.is_busy(2)
        assert board.converter_counters(2)["blocked.insufficient_input"] == 2  # at construction, and after the ore
        assert board.held() == {}

    def test_a_full_converter_tries_again_though_nothing_fits(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            "1.\n^g\n1.",
            chests=[chest("ore_red", 255, "1")],
            objects=[goldsmith(input={"ore_red": 200, "battery_red": 1})],
            default_item_max=255,
        )
        board.act("get").act("turn_right").act("put").act("put").act("turn_down").act("get").act("turn_right")
        assert board.stock(1) == {"ore_red": 255}
        before = board.converter_counters(1)["blocked.insufficient_input"]
        assert not board.act("put").success[0]
        assert board.converter_counters(1)["blocked.insufficient_input"] == before + 1

    def test_putting_nothing_does_not_try_to_start(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">g", objects=[goldsmith()])
        before = board.converter_counters()["blocked.insufficient_input"]
        board.act("put")
        assert board.converter_counters()["blocked.insufficient_input"] == before

    def test_only_what_the_recipe_names_is_put_in(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<g", chests=[chest("laser", 3, "1")], objects=[goldsmith()])
        assert not board.act("get").act("turn_right").act("put").success[0]
        assert board.held() == {"laser": 3}


class TestOutput:
    def test_it_stops_when_full(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, max_output=2)
        for _ in range(6):
            board.act("put")
        assert board.stock(1) == {"ore_red": 12, "heart": 2}
        assert not board.is_busy(1)

    def test_taking_output_lets_it_restart(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, max_output=1).act("put").act("put").act("put")
        assert not board.is_busy(1)
        board.act("get")
        assert board.is_busy(1)
        assert board.stock(1) == {"ore_red": 3}

    def test_one_conversion_may_exceed_the_limit(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, max_output=1, output={"heart": 7}).act("put").act()
        assert board.stock(1) == {"heart": 7}

    def test_0_never_starts(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, max_output=0).act("put").act()
        assert board.stock(1) == {"ore_red": 3}

    def test_minus_1_never_stops(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, max_output=-1, input={"ore_red": 1})
        for _ in range(20):
            board.act("put")
        assert board.act().stock(1) == {"heart": 20}

    def test_what_does_not_fit_is_lost_but_counted(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, max_output=-1, input={"ore_red": 1}, output={"heart": 200})
        board.act("put").act("put").act()
        assert board.stock(1) == {"heart": 255}
        assert board.converter_counters(1)["heart.produced"] == 400

    def test_several_outputs_count_together(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, max_output=4, input={"ore_red": 1}, output={"heart": 1, "laser": 1})
        for _ in range(6):
            board.act("put")
        assert board.stock(1) == {"heart": 2, "laser": 2, "ore_red": 4}
        board.act("get")
        assert board.held()["heart"] == board.held()["laser"] == 2

    def test_an_item_that_is_input_and_output_counts_and_can_be_taken_back(self, make_backend: MakeBackend) -> None:
        board = fed(make_backend, input={"ore_red": 2, "battery_red": 1}, output={"ore_red": 5}, max_output=2)
        board.act("put")
        assert board.stock(1) == {"ore_red": 2}
        assert board.converter_counters(1)["blocked.output_full"] == 1
        board.act("get")
        assert board.stock(1) == {}
