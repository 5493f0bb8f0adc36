"""Key bindings of `metta play` in worlds with different actions."""

from __future__ import annotations

from typing import Any

import pytest

from metta.config.env.env_config import EnvConfig
from metta_cli.key_bindings import KeyBindings

UP, DOWN, LEFT, RIGHT = range(4)


def key_bindings(*actions: dict[str, Any]) -> KeyBindings:
    return KeyBindings(EnvConfig.model_validate({"actions": list(actions)} if actions else {}))


@pytest.mark.parametrize("key", ["up", "down", "left", "right"])
@pytest.mark.parametrize("facing", [UP, DOWN, LEFT, RIGHT])
def test_an_arrow_turns_and_then_moves(key: str, facing: int) -> None:
    direction = ["up", "down", "left", "right"].index(key)
    expected = (1, 0) if facing == direction else (2, direction)
    assert key_bindings().action(key, facing) == expected


def test_every_action_of_the_original_has_a_key() -> None:
    bindings = key_bindings()
    keys = ["space", "up", "left", "b", "p", "g", "1", "9", "a", "x", "c"]
    expected = [(0, 0), (1, 0), (2, LEFT), (1, 1), (3, 0), (4, 0), (5, 1), (5, 9), (6, 0), (7, 0), (8, 0)]
    assert [bindings.action(key, UP) for key in keys] == expected
    assert bindings.action("z", UP) is None
    assert [key for key, _ in bindings.help] == ["arrows", "b", "space", "p", "g", "1-9", "a", "x", "c"]


def test_rotations_by_quarters_turn_toward_the_arrow() -> None:
    right = {"type": "rotate", "key": "turn_right", "delta": 1}
    left = {"type": "rotate", "key": "turn_left", "delta": -1}
    bindings = key_bindings(right, left)
    assert bindings.action("right", UP) == (0, 0)
    assert bindings.action("left", UP) == (1, 0)
    assert bindings.action("up", RIGHT) == (1, 0)
    assert bindings.action("down", UP) == (0, 0)  # the first of two turns
    assert bindings.action("up", UP) is None  # no action moves


def test_a_second_action_of_a_type_gets_a_spare_key_and_a_disabled_one_none() -> None:
    bindings = key_bindings(
        {"type": "gift", "key": "give_ore", "item": "ore_red"},
        {"type": "gift", "key": "give_heart", "item": "heart"},
        {"type": "swap", "key": "swap", "enabled": False},
    )
    assert bindings.help == [("f", "give 1 ore_red"), ("h", "give 1 heart")]
    assert bindings.action("h", UP) == (1, 0)
    assert bindings.action("x", UP) is None
