"""From a person's keys to an agent's actions: whatever actions the world has, by their type."""

from __future__ import annotations

from metta.api import EnvConfig

Action = tuple[int, int]
"""(action id, argument)"""

DIRECTIONS = {"up": 0, "down": 1, "left": 2, "right": 3}
CLOCKWISE = (0, 3, 1, 2)
"""Orientations in the order of quarter turns."""

KEY_OF_TYPE = {
    "noop": "space",
    "put_items": "p",
    "get_items": "g",
    "use": "u",
    "attack_nearest": "a",
    "swap": "x",
    "change_color": "c",
    "gift": "f",
}
"""The key of each type of action, beside the arrows that turn and walk and the digits that attack."""

SPARE_KEYS = "hijklmovwyz"
"""For actions of a type that has its key already, in this order."""


class KeyBindings:
    """What each key does in a world."""

    def __init__(self, env_config: EnvConfig):
        self.help: list[tuple[str, str]] = []
        """(key, what it does)"""
        self._moves: list[int] = []
        self._turns: list[tuple[int, int | None]] = []
        """(action id, quarter turns clockwise; None: to the direction that is its argument)"""
        self._keys: dict[str, Action] = {}
        spare = iter(SPARE_KEYS)
        named = []
        for action_id, (name, type_, action) in enumerate(env_config.action_table):
            if not env_config.can_act(action):
                continue
            if type_ == "move":
                self._moves.append(action_id)
            elif type_ == "rotate":
                self._turns.append((action_id, action.delta))
            elif type_ == "attack":
                self._keys |= {str(digit): (action_id, digit) for digit in range(1, 10)}
                named.append(("1-9", name))
            else:
                key = KEY_OF_TYPE[type_]
                key = next(spare, "") if key in self._keys else key
                self._keys[key] = (action_id, 0)
                named.append((key, name))
        if self._moves or self._turns:
            self.help.append(("arrows", "turn there, then walk"))
        if self._moves:
            self._keys["b"] = (self._moves[0], 1)
            self.help.append(("b", "walk backwards"))
        self.help += named

    def action(self, key: str, orientation: int) -> Action | None:
        """The action of a key for an agent that faces `orientation`; None for a key that means none."""
        if key not in DIRECTIONS:
            return self._keys.get(key)
        direction = DIRECTIONS[key]
        if direction == orientation:
            return (self._moves[0], 0) if self._moves else None
        quarters = (CLOCKWISE.index(direction) - CLOCKWISE.index(orientation)) % 4
        for action_id, delta in self._turns:
            if delta is None:
                return action_id, direction
            if delta % 4 == quarters:
                return action_id, 0
        return (self._turns[0][0], 0) if self._turns else None  # more than one turn away
