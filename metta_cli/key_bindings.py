"""Key bindings of `metta play`: the action of each key, for the actions that a world has."""

from __future__ import annotations

from metta import api

Action = tuple[int, int]
"""(action id, argument)"""

ORIENTATIONS = {"up": 0, "down": 1, "left": 2, "right": 3}
"""Orientation index of each arrow key."""

CLOCKWISE = (0, 3, 1, 2)
"""Orientation indices in clockwise order."""

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
"""Key of each type of action; arrows rotate and move, digits attack."""

SPARE_KEYS = "hijklmovwyz"
"""Keys of registered actions, one for each argument, and of the second and later actions of one type, in this order."""


class KeyBindings:
    """The action of each key in one world."""

    def __init__(self, env_config: api.EnvConfig):
        self.help: list[tuple[str, str]] = []
        """(key, meaning) pairs, in the order of display"""
        self._moves: list[int] = []
        """action ids; argument 0 moves forward, 1 backward"""
        self._rotations: list[tuple[int, int | None]] = []
        """(action id, clockwise quarter turns); None instead of turns if the argument is the new orientation"""
        self._actions: dict[str, Action] = {}
        words = api.action_words(env_config)
        spare_keys = iter(SPARE_KEYS)
        named = []
        for action_id, (name, type_, action) in enumerate(env_config.action_table):
            if not env_config.can_act(action):
                continue
            if type_ == "move":
                self._moves.append(action_id)
            elif type_ == "rotate":
                self._rotations.append((action_id, action.delta))
            elif type_ == "attack":
                self._actions |= {str(digit): (action_id, digit) for digit in range(1, 10)}
                named.append(("1-9", name))
            else:
                for argument, word in enumerate(words[action_id] if type_ not in KEY_OF_TYPE else words[action_id][:1]):
                    key = KEY_OF_TYPE.get(type_, "")
                    key = next(spare_keys, "") if not key or key in self._actions else key
                    if key:
                        self._actions[key] = (action_id, argument)
                        named.append((key, word))
        if self._moves or self._rotations:
            self.help.append(("arrows", "turn, then move"))
        if self._moves:
            self._actions["b"] = (self._moves[0], 1)
            self.help.append(("b", "move backward"))
        self.help += named

    def action(self, key: str, orientation: int) -> Action | None:
        """The action of a key for an agent with this orientation index; None if the key is not bound."""
        if key not in ORIENTATIONS:
            return self._actions.get(key)
        target = ORIENTATIONS[key]
        if target == orientation:
            return (self._moves[0], 0) if self._moves else None
        quarter_turns = (CLOCKWISE.index(target) - CLOCKWISE.index(orientation)) % 4
        for action_id, delta in self._rotations:
            if delta is None:
                return action_id, target
            if delta % 4 == quarter_turns:
                return action_id, 0
        return (self._rotations[0][0], 0) if self._rotations else None  # one of several turns needed
