"""Labels of a world on screens and pages: a character for each kind of cell, and words for each action."""

from __future__ import annotations

from collections import Counter

from metta.config.env.env_config import EnvConfig
from metta.config.env.glyphs import distinct_glyphs
from metta.config.env.map_builder import AsciiConfig
from metta.config.env.objects import ATTACK_TARGETS, ActionConfig
from metta.config.parts.registries import ACTIONS
from metta.geometry import ORIENTATION_NAMES

TURN_WORDS = ("turn by nothing", "turn clockwise", "turn around", "turn counterclockwise")
"""Words of `rotate` with `delta`, indexed by clockwise quarter turns modulo 4."""

COLOR_WORDS = ("color + 1", "color - 1", "double color", "halve color")
"""Words of `change_color`, indexed by argument."""


def agent_names(config: EnvConfig) -> list[str]:
    """Name of a cell with an agent of each group: `agent` if there is one group, else `agent.GROUP`. `[groups]`"""
    groups = list(config.game.groups)
    return ["agent"] if len(groups) == 1 else [f"agent.{group}" for group in groups]


def cell_glyphs(config: EnvConfig) -> dict[str, str]:
    """A distinct character for each kind of cell, by name: `empty`, those of `agent_names`, and all object types.

    The same characters appear in `metta map`, in the terminal views and on replay pages. They are those of the legend
    if the map is drawn.
    """
    builder = config.map_builder
    own = builder.meanings if isinstance(builder, AsciiConfig) else {}
    return distinct_glyphs(["empty", *agent_names(config), *config.object_types], own)


def action_words(config: EnvConfig) -> list[list[str]]:
    """Usual words for each action, such as "turn right", indexed by action id and argument."""
    words = [_words(type_, action) for _, type_, action in config.action_table]
    uses = Counter(text for texts in words for text in texts)
    names = [name for name, _, _ in config.action_table]
    return [
        [f"{text} ({name})" if uses[text] > 1 else text for text in texts]
        for name, texts in zip(names, words, strict=True)
    ]


def _words(type_: str, action: ActionConfig) -> list[str]:
    match type_:
        case "noop":
            return ["wait"]
        case "move":
            return ["move forward", "move backward"]
        case "rotate" if action.delta is not None:
            return [TURN_WORDS[action.delta % 4]]
        case "rotate":
            return [f"turn {name}" for name in ORIENTATION_NAMES]
        case "attack":
            return ["attack nothing", *(_target_words(*target) for target in ATTACK_TARGETS)]
        case "change_color":
            return list(COLOR_WORDS)
        case "gift":
            return [f"give 1 {action.item}"]
        case "use":
            return [f"use {action.use}" if action.use else "use"]
        case _ if action.type in ACTIONS.simulated:
            return [type_.replace("_", " ")]
        case _:
            word, last = action.key.replace("_", " "), action.largest_argument
            return [f"{word} {argument}" for argument in range(last + 1)] if last else [word]


def _target_words(ahead: int, left: int) -> str:
    side = {1: ", 1 left", 0: "", -1: ", 1 right"}[left]
    return f"attack {ahead} ahead{side}"
