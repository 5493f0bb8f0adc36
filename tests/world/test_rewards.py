"""Rewards: items, penalties, time punishment, sharing and the diversity bonus."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from board import Board, MakeBackend, chest

float32 = np.float32


class TestItems:
    def test_gained_units_pay(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, ">1", chests=[chest("heart", 7, "1")], heart_reward=0.25).act("get")
        assert board.rewards.tolist() == [1.75]

    def test_lost_units_are_paid_back(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<>.", chests=[chest("heart", 3, "1")], heart_reward=0.5)
        board.act("get").act("turn_right").act("gift")
        assert board.rewards.tolist() == [-0.5, 0.5]

    @pytest.mark.parametrize(("counted", "paid"), [(3.0, 1.5), (2.5, 1.25), (0.0, 0.0), (100.0, 3.5)])
    def test_only_so_many_units_count(self, make_backend: MakeBackend, counted: float, paid: float) -> None:
        board = Board(
            make_backend, ">1", chests=[chest("heart", 7, "1")], heart_reward=0.5, heart_max_reward=counted
        ).act("get")
        assert board.rewards.tolist() == [paid]

    def test_units_beyond_the_count_are_not_paid_back(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "1<>.", chests=[chest("heart", 3, "1")], heart_reward=0.5, heart_max_reward=2.0)
        board.act("get").act("turn_right").act("gift")
        assert board.rewards.tolist() == [0.0, 0.5]

    def test_every_item_has_its_price(self, make_backend: MakeBackend) -> None:
        items = ["ore_red", "battery_red", "heart", "armor", "laser"]
        prices: dict[str, Any] = {
            "ore_red_reward": 1.0,
            "battery_red_reward": 2.0,
            "heart_reward": 4.0,
            "item_rewards": {"armor": 8.0, "laser": 16.0},
        }
        for item, price in zip(items, (1.0, 2.0, 4.0, 8.0, 16.0), strict=True):
            board = Board(make_backend, ">1", chests=[chest(item, 1, "1")], **prices).act("get")
            assert board.rewards.tolist() == [price]

    def test_the_sum_is_rounded_in_the_order_of_items(self, make_backend: MakeBackend) -> None:
        """Score before and after in float32, each product rounded, then their difference."""
        board = Board(
            make_backend,
            ".1.\n2^.",
            chests=[chest("ore_red", 7, "1"), chest("heart", 3, "2")],
            ore_red_reward=0.1,
            heart_reward=0.7,
            ore_red_max=100.0,
        )
        board.act("get")
        ore = float32(0.1) * float32(7)
        assert board.rewards[0] == ore
        board.act("turn_left").act("get")
        assert board.rewards[0] == float32(ore + float32(0.7) * float32(3)) - ore

    def test_last_reward_is_seen_in_hundredths(self, make_backend: MakeBackend) -> None:
        for price, seen in ((0.125, 13), (0.005, 1), (0.004, 0), (2.55, 255), (9.0, 255), (-1.0, 0)):
            board = Board(make_backend, ">1", chests=[chest("heart", 1, "1")], heart_reward=price).act("get")
            assert ("last_reward", seen) in [token[2:] for token in board.tokens()]


class TestTime:
    def test_every_step_costs(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^^", time_punishment=-0.5).act().act("move")
        assert board.rewards.tolist() == [-0.5, -0.5]

    def test_it_adds_up_with_the_rest(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^", time_punishment=0.25, action_failure_penalty=1.0).act("move")
        assert board.rewards.tolist() == [-0.75]


class TestSharing:
    DRAWING = """
        1<.>2
        .v.^.
        .3...
    """

    def board(self, make_backend: MakeBackend, shares: dict[str, float], **game: Any) -> Board:
        """Two reds (agents 0 and 2) and two blues (1 and 3); each heart taken pays 1."""
        return Board(
            make_backend,
            self.DRAWING,
            groups=["red", "blue", "red", "blue"],
            group_settings={name: {"group_reward_pct": share} for name, share in shares.items()},
            chests=[chest("heart", units, glyph) for units, glyph in ((4, "1"), (8, "2"), (16, "3"))],
            heart_reward=1.0,
            **game,
        )

    @pytest.mark.parametrize(
        ("share", "expected"), [(0.0, [4, 0, 0, 0]), (0.5, [3, 0, 1, 0]), (1.0, [2, 0, 2, 0]), (0.25, [3.5, 0, 0.5, 0])]
    )
    def test_a_group_splits_its_share_evenly(
        self, make_backend: MakeBackend, share: float, expected: list[float]
    ) -> None:
        board = self.board(make_backend, {"red": share}).act("get")
        assert board.rewards.tolist() == expected

    def test_groups_have_shares_of_their_own(self, make_backend: MakeBackend) -> None:
        board = self.board(make_backend, {"red": 0.5, "blue": 1.0}).act("get", "get", "get")
        # red: 4 and 16 share half; blue: 8 and 0 share all
        assert board.rewards.tolist() == [2 + 5, 4, 8 + 5, 4]

    def test_penalties_are_shared_too(self, make_backend: MakeBackend) -> None:
        board = self.board(make_backend, {"red": 1.0}, action_failure_penalty=1.0).act("gift")
        assert board.rewards.tolist() == [-0.5, 0, -0.5, 0]

    def test_with_other_groups(self, make_backend: MakeBackend) -> None:
        board = self.board(make_backend, {}, reward_sharing_groups={"red": {"blue": 0.5}}).act("get")
        assert board.rewards.tolist() == [2, 1, 0, 1]

    def test_with_the_own_and_another_group(self, make_backend: MakeBackend) -> None:
        board = self.board(make_backend, {}, reward_sharing_groups={"red": {"blue": 0.25, "red": 0.5}}).act("get")
        assert board.rewards.tolist() == [2, 0.5, 1, 0.5]

    def test_it_changes_neither_the_token_nor_the_accumulated_reward(self, make_backend: MakeBackend) -> None:
        board = self.board(make_backend, {"red": 1.0}, heart_max_reward=1.0).act("get")
        assert board.rewards.tolist() == [0.5, 0, 0.5, 0]
        seen = [[value for *_, name, value in board.tokens(agent) if name == "last_reward"] for agent in range(4)]
        assert seen == [[100], [0], [0], [0]]
        assert board.backend.state()["accumulated reward of agents"].tolist() == [1, 0, 0, 0]

    def test_thirds_are_rounded_as_the_original_rounds(self, make_backend: MakeBackend) -> None:
        board = Board(
            make_backend,
            "1<^^",
            group_settings={"agent": {"group_reward_pct": 0.1}},
            chests=[chest("heart", 1, "1")],
            heart_reward=0.7,
        ).act("get")
        given = float32(0.7) * float32(0.1)
        pot = float32(given / float32(3))
        assert board.rewards.tolist() == [float32(float32(0.7) - given) + pot, pot, pot]


class TestDiversityBonus:
    def final(self, make_backend: MakeBackend, similarity: float, diversity: float, **game: Any) -> Board:
        """Reds hold 1 and 3 hearts, blues 5 and 5, all worth 1; in the last step each also gains 1 by time."""
        return (
            Board(
                make_backend,
                "1<>2\n3<>4",
                groups=["red", "red", "blue", "blue"],
                chests=[chest("heart", units, glyph) for units, glyph in ((1, "1"), (3, "2"), (5, "3"), (5, "4"))],
                heart_reward=1.0,
                diversity_bonus_enabled=True,
                similarity_coef=similarity,
                diversity_coef=diversity,
                **game,
            )
            .act(*["get"] * 4)
            .act("move", "move", "noop", "noop")
        )

    def test_by_hand(self, make_backend: MakeBackend) -> None:
        board = self.final(make_backend, 0.5, 0.25, max_steps=3, action_failure_penalty=-2.0)
        # episode rewards: red 3, 5 (mean 4, std 1), blue 5, 5 (mean 5, std 0 + 1e-6); last rewards 2, 2, 0, 0
        alike = np.exp(-1)  # one std from the own mean
        red = [1 + 0.5 * alike + 0.25 * (1 - np.exp(-2e6)), 1 + 0.5 * alike + 0.25 * (1 - 1)]
        assert board.truncated.all()
        assert board.rewards[:2] == pytest.approx([2 * red[0], 2 * red[1]], rel=1e-5)
        assert board.rewards[2:].tolist() == [0, 0]

    def test_only_at_the_end(self, make_backend: MakeBackend) -> None:
        board = self.final(make_backend, 0.5, 0.25, max_steps=9, time_punishment=1.0)
        assert board.rewards.tolist() == [1, 1, 1, 1]

    def test_at_termination_too(self, make_backend: MakeBackend) -> None:
        board = self.final(make_backend, 1.0, 0.0, episode_lifetime=3, time_punishment=1.0)
        assert board.terminated.all()
        # blues are exactly alike: twice the reward; reds are one std from their mean
        assert board.rewards == pytest.approx([1 + np.exp(-1), 1 + np.exp(-1), 2, 2], rel=1e-5)

    def test_off_unless_asked_for(self, make_backend: MakeBackend) -> None:
        board = Board(make_backend, "^", time_punishment=1.0, max_steps=1, similarity_coef=9.0).act()
        assert board.rewards.tolist() == [1]
