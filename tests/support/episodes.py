"""Episodes for replay tests: worlds, a scripted policy, episodes recorded from them, and readers of replay files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from metta.agent.memory.state import Memory
from metta.agent.policy import PolicyOutput
from metta.baselines.random_policy import RandomPolicy
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.env.objects import DEFAULT_ACTIONS
from metta.replay.recording import Replay, record_episode
from metta.world.env import MettaGridEnv

FREE_ATTACKS = [
    action.model_dump(exclude_unset=True) | ({"consumed_resources": {}} if action.type == "attack" else {})
    for action in DEFAULT_ACTIONS
]

LIVELY = EnvConfig.model_validate(
    {
        "game": {
            "num_agents": 6,
            "width": 10,
            "height": 8,
            "max_steps": 90,
            "freeze_duration": 4,
            "observation_width": 5,
            "observation_height": 3,
            "groups": {
                "foxes": {"id": 3, "sprite": 1},
                "hares": {"id": 1, "sprite": 1, "group_reward_pct": 0.5},
            },
        },
        "actions": FREE_ATTACKS,
        "map_builder": {"border_width": 1, "objects": {"mine_red": 6, "generator_red": 4, "altar": 2, "block": 6}},
    }
)
"""A small world of two groups, mines and blocks, in which attacks cost nothing."""


def crowded() -> EnvConfig:
    """A large world: 64 agents in four rooms, 1000 steps."""
    room = {
        "width": 25,
        "height": 25,
        "border_width": 0,
        "objects": {"mine_red": 10, "altar": 5, "block": 20, "wall": 20},
    }
    return EnvConfig.model_validate(
        {
            "game": {"num_agents": 64, "max_steps": 1000, "groups": {"red": {"id": 0}, "blue": {"id": 1}}},
            "actions": FREE_ATTACKS,
            "map_builder": {"type": "Rooms", "room": room, "door_width": 3},
        }
    )


def is_lively(replay: Replay) -> bool:
    """Whether every kind of change that a replay can show occurs; tests on other episodes could pass by accident."""
    most_lost = np.diff(replay.inventories.astype(int), axis=0).min()
    return bool(
        replay.is_frozen.any()
        and replay.colors.any()
        and replay.inventories.any()
        and most_lost < 0
        and replay.converter_is_busy.any()
        and not replay.converter_is_busy.all()
        and (replay.block_positions != replay.block_positions[0]).any()
        and (replay.rewards > 0).any()
        and not replay.action_success.all()
    )


class ScriptedPolicy:
    """Plays a script: `script[step][agent]` is (action name, argument); the last step is repeated."""

    uses_action_masks = False

    def __init__(self, spec: EnvSpec, script: Sequence[Sequence[tuple[str, int]]]):
        self.spec = spec
        self.script = script
        self.played = 0

    def initial_memory(self, agents: int) -> Memory:
        return Memory()

    def act(
        self,
        observations: torch.Tensor,
        memory: Memory,
        episode_starts: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        action_masks: torch.Tensor | None = None,
    ) -> PolicyOutput:
        step = self.script[min(self.played, len(self.script) - 1)]
        self.played += 1
        actions = [(self.spec.action_names.index(name), argument) for name, argument in step]
        zeros = torch.zeros(len(actions))
        return PolicyOutput(torch.tensor(actions, dtype=torch.int32), zeros.long(), zeros, zeros, memory)


def drawn(*rows: str, legend: dict[str, str] | None = None, **game: Any) -> EnvConfig:
    """A world with the map `rows`, in which all rewards and costs are zero except those set in `game`."""
    quiet = {"time_punishment": 0.0, "ore_red_reward": 0.0, "battery_red_reward": 0.0, "heart_reward": 0.0}
    return EnvConfig.model_validate(
        {
            "game": {"observation_width": 3, "observation_height": 3, "max_steps": 50, **quiet, **game},
            "actions": FREE_ATTACKS,
            "map_builder": {"type": "Ascii", "map": "\n".join(rows), "legend": legend or {}},
        }
    )


def simulated(replay: Replay) -> Iterator[MettaGridEnv]:
    """The simulator in each state of the episode, replayed with the recorded actions."""
    env = MettaGridEnv(replay.config, seed=replay.seed, auto_reset=False)
    env.reset()
    yield env
    for actions in replay.actions:
        env.step(actions)
        yield env


def unpacked(file: bytes) -> dict[str, Any]:
    """The content of a `.json.z` file."""
    return dict(json.loads(zlib.decompress(file)))


def value_at(entity: dict[str, Any], key: str, step: int) -> Any:
    """A property at a step: the value of the last change up to then; 0 for a missing property."""
    value = entity.get(key, 0)
    if not isinstance(value, list):
        return value
    return next(changed for at, changed in reversed(value) if at <= step)


def shortest(value: np.float32) -> float:
    """The float32 as a replay file stores it: its shortest decimal."""
    return float(str(value))


HOSTILE_NAMES = [
    "</script><img src=x onerror=\"document.title='hacked'\">",
    "</title><script>document.title='hacked'</script>",
    '"><svg onload="document.title=\'hacked\'">',
    "{{style}} {{episode}} $& \\1 \\u003c <!--",
]


def hostile() -> Replay:
    """An episode in which every name is markup.

    A config with such names is refused, but replays escape names without relying on that.
    """
    config = EnvConfig.model_validate(
        {
            "game": {
                "num_agents": 2,
                "width": 6,
                "height": 6,
                "max_steps": 30,
                "inventory_item_names": ["thing"],
                "groups": {"one": {"id": 0}, "two": {"id": 1}},
            },
            "objects": [{"type": "mine", "name": "source", "type_id": 99, "output": {"thing": 1}}],
            "actions": [{"type": "get_items", "key": key} for key in ("take", "grab")],
            "map_builder": {"border_width": 1, "objects": {"source": 14}},
        }
    )
    replay = record_episode(RandomPolicy(config.spec), config, seed=0)
    mine, group, item, action = HOSTILE_NAMES
    groups = {group: config.game.groups["one"], "__proto__": config.game.groups["two"]}
    renamed = config.model_copy(
        update={
            "game": config.game.model_copy(update={"inventory_item_names": [item], "groups": groups}),
            "objects": [config.objects[0].model_copy(update={"name": mine, "output": {item: 1}})],
            "actions": [config.actions[0].model_copy(update={"key": action}), config.actions[1]],
        }
    )
    for derived in ("object_types", "action_table", "spec"):
        renamed.__dict__.pop(derived, None)  # computed from the old names
    return replace(replay, config=renamed)
