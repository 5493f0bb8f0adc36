"""Action masks: masked actions certainly fail, allowed ones can succeed, and nothing but the observation decides.

Three oracles: the masks from the tokens alone (`masks_from_tokens.py`), the engine in other turn orders, and the
reference simulator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from consistent_worlds import acts_first, helped, play
from masks_from_tokens import mask_from_tokens
from random_worlds import random_actions, random_tasks
from reference import ReferenceWorld

from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import load_config
from metta.config.loading.presets import presets
from metta.errors import UsageError
from metta.world.action_failures import failure_reason
from metta.world.env import MettaGridEnv
from metta.world.maps.build import build_map
from metta.world.observation.mask_tables import is_walled

WORLDS = 6
ALL_TYPES = {"move", "rotate", "put_items", "get_items", "attack", "attack_nearest", "swap", "change_color"}
ALL_TYPES |= {"gift", "use", "noop"}


def tasks_of(seed: int) -> list[EnvConfig]:
    """Two random tasks; in some, each task disables other actions, noop among them."""
    generator = np.random.default_rng(seed)
    num_agents = 1 if seed % 5 == 4 else None
    tasks = random_tasks(generator, every_action=seed % 3 == 2, num_agents=num_agents)
    if seed % 2:
        return tasks
    return [
        task.override(
            actions=[
                {**action.model_dump(exclude_unset=True), "enabled": bool(generator.random() < 0.7)}
                for action in task.actions
            ]
        )
        for task in tasks
    ]


@dataclass
class Played:
    """A batch of random worlds that are played with random actions."""

    seed: int
    auto_reset: bool = True
    generator: np.random.Generator = field(init=False)
    env: MettaGridEnv = field(init=False)
    observations: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)
        self.env = MettaGridEnv(tasks_of(self.seed), WORLDS, seed=self.seed, auto_reset=self.auto_reset)
        self.observations, _ = self.env.reset()

    def play(self, steps: int) -> None:
        for _ in range(steps):
            actions = random_actions(self.generator, self.env.config, self.env.agents)
            self.observations = self.env.step(actions)[0]


def type_of(config: EnvConfig, action: int) -> str:
    return config.action_table[action][1]


def test_masks_are_those_of_the_tokens_alone() -> None:
    """In worlds with small windows, few tokens, groups, costs, gifts, open edges, and tasks with other actions."""
    counts: Counter[tuple[str, bool]] = Counter()
    full = stuck = 0
    for seed in range(21):
        played = Played(seed)
        env = played.env
        walled = [is_walled(task) for task in env.configs]
        flat = env.spec.flat_actions
        for start in range(2):
            played.play(9)
            masks, tasks = env.action_masks(), env.tasks.repeat(env.num_agents)
            for row in range(start, env.agents, 2):
                mask, tokens, task = masks[row], played.observations[row], int(tasks[row])
                expected = mask_from_tokens(env.configs[task], walled[task], tokens)
                told = [(type_of(env.configs[task], action), argument) for action, argument in flat]
                wrong = [pair for pair, ours, theirs in zip(told, mask, expected, strict=True) if ours != theirs]
                assert not wrong, f"seed {seed}, row {row}: {wrong}\n{env.render(row // env.num_agents)}"
                counts.update((pair[0], bool(allowed)) for pair, allowed in zip(told, mask, strict=True))
                full += tokens[-1, 0] != 0xFF
                stuck += mask.sum() == 1
    assert {type_ for type_, allowed in counts if allowed} == ALL_TYPES
    assert {type_ for type_, allowed in counts if not allowed} == ALL_TYPES
    assert full > 100
    assert stuck > 25


@pytest.mark.parametrize("name", [preset.name for preset in presets()])
def test_masks_in_a_preset(name: str) -> None:
    """They equal those of the tokens; an agent that follows them, whatever it does, fails only because of others."""
    env = MettaGridEnv(load_config(name).env, 2, seed=1)
    generator = np.random.default_rng(0)
    observations, _ = env.reset()
    flat = np.array(env.spec.flat_actions)
    walled = is_walled(env.config)
    assert walled
    masked = 0
    for step in range(40):
        masks = env.action_masks()
        assert masks.shape == (env.agents, len(flat))
        if step % 10 == 9:
            for row in range(0, env.agents, 5):
                task = int(env.tasks[row // env.num_agents])
                assert masks[row].tolist() == mask_from_tokens(env.configs[task], walled, observations[row])
        masked += (~masks).sum()
        chosen = (masks * generator.random(masks.shape)).argmax(axis=1)
        observations = env.step(flat[chosen])[0]
    assert masked > 4 * env.agents
    failures = sum(
        count for name, count in env.episode_stats()["agent"][0].items() if name.endswith((".invalid_arg", "type"))
    )
    assert failures == 0


@pytest.mark.parametrize("seed", range(8))
def test_a_masked_action_fails_whatever_others_do(seed: int) -> None:
    """Random turn orders, and random actions of all other agents, in the engine."""
    played = Played(seed, auto_reset=False)
    env, generator = played.env, played.generator
    trial = MettaGridEnv(env.configs, WORLDS, seed=seed, auto_reset=False)
    flat, rows = np.array(env.spec.flat_actions), np.arange(env.agents)
    masked = 0
    for _ in range(3):
        played.play(6)
        masks, state = env.action_masks(), env.state()
        for _ in range(30):
            trial.load_state(state)
            chosen = generator.integers(len(flat), size=env.agents)
            order = np.concatenate([generator.permutation(env.num_agents) for _ in range(WORLDS)])
            trial.step(flat[chosen], order=order)
            is_masked = ~masks[rows, chosen]
            masked += is_masked.sum()
            assert not (trial.action_success & is_masked).any()
        for row in generator.integers(env.agents, size=6).tolist():
            for index in np.flatnonzero(~masks[row]).tolist():
                assert failure_reason(env, row, env.spec.flat_actions[index]) is not None
    assert masked > 50


def test_is_walled_is_about_every_map() -> None:
    """In walled worlds no map has anything in its top row and leftmost column but walls and converters."""
    seen = Counter(
        _edge_is_closed(config, seed)
        for seed in range(60)
        for config in tasks_of(seed)
        if config.map_builder.type != "Custom"
    )
    assert seen[True, True] > 10
    assert seen[False, False] > 10
    assert not seen[True, False]


def _edge_is_closed(config: EnvConfig, seed: int) -> tuple[bool, bool]:
    cells = build_map(config, np.random.default_rng(seed))
    immovable = {kind.type_id for kind in config.object_types.values() if not kind.swappable}
    return is_walled(config), {*cells[0].tolist(), *cells[:, 0].tolist()} <= immovable


@pytest.mark.parametrize(
    ("builder", "walled"),
    [
        ({"type": "Ascii", "map": "###\n#@.\n###"}, True),
        ({"type": "Ascii", "map": "#_#\n_@.\n#.#"}, True),
        ({"type": "Ascii", "map": "#b#\n#@.\n###"}, False),
        ({"type": "Ascii", "map": "###\n.@.\n###"}, False),
        ({"type": "Ascii", "map": ".@.", "border_width": 1}, True),
        ({"border_width": {"min": 0, "max": 2}}, False),
        ({"border_width": {"min": 1, "max": 2}}, True),
        ({"type": "Rooms", "room": {"border_width": 1}}, True),
        ({"type": "Rooms", "border_width": 0, "room": {"border_width": 1}}, False),
        ({"type": "Choice", "builders": [{"border_width": 1}, {"border_width": 2}]}, True),
        ({"type": "Choice", "builders": [{"border_width": 1}, {"border_width": 0}]}, False),
    ],
)
def test_which_worlds_are_walled(builder: dict[str, Any], walled: bool) -> None:
    sizes = {"num_agents": 1, "width": 9, "height": 9} if builder.get("type") not in ("Ascii", "Rooms") else {}
    config = EnvConfig.model_validate({"game": sizes, "map_builder": builder})
    assert is_walled(config) == walled


def test_a_swappable_border_is_no_wall() -> None:
    walls = [{"type": "wall", "name": "wall", "type_id": 1, "swappable": True}]
    config = EnvConfig.model_validate({"game": {"num_agents": 1}, "objects": walls})
    assert not is_walled(config)


def test_masks_need_a_reset() -> None:
    with pytest.raises(UsageError, match=r"call reset\(\) first"):
        MettaGridEnv(load_config("quickstart").env).action_masks()


NO_NOOP = [
    {"type": "attack", "key": "attack", "consumed_resources": {"laser": 1}},
    {"type": "move", "key": "jump", "enabled": False},
    {"type": "move", "key": "move"},
]


def test_without_noop_the_first_action_of_the_world_stays() -> None:
    """The agent is boxed in and has no laser. The first action that the world has is attack, whatever it costs."""
    config = EnvConfig.model_validate({"actions": NO_NOOP, "map_builder": {"type": "Ascii", "map": "###\n#@#\n###"}})
    env = MettaGridEnv(config)
    env.reset()
    assert env.action_masks().tolist() == [[index == 0 for index in range(len(env.spec.flat_actions))]]


class InReference:
    """A random world in the middle of an episode, in the reference simulator, with the masks of the engine."""

    def __init__(self, seed: int, num_agents: int | None, steps: int):
        self.generator = generator = np.random.default_rng(seed)
        (self.config,) = random_tasks(generator, 1, every_action=seed % 3 == 2, num_agents=num_agents)
        self.agents, self.flat = self.config.game.num_agents, self.config.spec.flat_actions
        env = MettaGridEnv(self.config, seed=seed, auto_reset=False)
        self.observations, _ = env.reset()
        self.world = ReferenceWorld(env.config, env.cells())
        for _ in range(steps):
            actions, order = random_actions(generator, self.config, self.agents), generator.permutation(self.agents)
            self.observations = env.step(actions, order=order)[0]
            self.world.step(actions, order)
        self.masks = env.action_masks()

    def pairs(self, allowed: bool) -> list[tuple[int, tuple[int, int]]]:
        """(agent, action) of all that is allowed or masked."""
        return [(agent, self.flat[index]) for agent, index in np.argwhere(self.masks == allowed).tolist()]

    def plays(self, agent: int, action: tuple[int, int], others: Iterable[tuple[tuple[int, int], ...]]) -> bool:
        """Whether an action ever succeeds with one of the actions of `others`, in any turn order."""
        for chosen in others:
            actions = np.array([*chosen[:agent], action, *chosen[agent:]])
            for order in permutations(range(self.agents)):
                if play(self.world, actions, np.array(order))[agent]:
                    return True
        return False


@pytest.mark.parametrize("seed", range(4))
def test_with_one_other_agent_masked_actions_always_fail(seed: int) -> None:
    """All actions of the other agent, before and after it, in the reference simulator."""
    case = InReference(seed, 2, steps=12)
    masked = case.pairs(allowed=False)
    assert masked
    for agent, action in masked:
        assert not case.plays(agent, action, ((other,) for other in case.flat)), (agent, action)


@pytest.mark.parametrize("seed", range(4, 8))
def test_with_two_other_agents_masked_actions_fail_in_all_orders(seed: int) -> None:
    """Random actions of the other agents in all six turn orders, in the reference simulator."""
    case = InReference(seed, 3, steps=12)
    others = list(product(case.flat, case.flat))
    for agent, action in case.pairs(allowed=False):
        some = [others[index] for index in case.generator.integers(len(others), size=4).tolist()]
        assert not case.plays(agent, action, some), (agent, action)


def test_an_allowed_action_succeeds_in_a_world_that_looks_the_same() -> None:
    """In the reference simulator, with the agent's turn after what other agents can do (`consistent_worlds.py`).

    What the observation holds of the agent, and of the cells that the action reaches, is equal in both worlds. They may
    differ in what masks do not examine: what other agents hold, and whether they have space to move; when converters
    finish; and what the observation does not hold.
    """
    counts: Counter[tuple[str, bool]] = Counter()
    for seed in range(15):
        case = InReference(seed, 1 if seed % 5 == 4 else None, steps=4 + seed)
        allowed = case.pairs(allowed=True)
        for number in case.generator.permutation(len(allowed))[:30].tolist():
            agent, action = allowed[number]
            type_ = type_of(case.config, action[0])
            if type_ == "noop" or case.masks[agent].sum() == 1:
                continue  # always allowed
            is_direct = acts_first(case.world, agent, action)
            counts[type_, is_direct] += 1
            tokens = case.observations[agent]
            assert is_direct or any(
                acts_first(world, agent, action) for world in helped(case.world, agent, action, tokens)
            ), (seed, agent, type_, action)
    assert {type_ for type_, is_direct in counts if is_direct} >= {"move", "attack", "swap"}
    assert {type_ for type_, _ in counts} >= ALL_TYPES - {"noop", "gift"}
    assert sum(counts.values()) > 300


ACTIONS = [
    {"type": "noop", "key": "noop"},
    {"type": "move", "key": "move"},
    {"type": "rotate", "key": "rotate"},
    {"type": "put_items", "key": "put"},
    {"type": "get_items", "key": "get"},
    {"type": "attack", "key": "hit", "defense_resources": {"ore_blue": 1}},
    {"type": "swap", "key": "swap"},
    {"type": "gift", "key": "gift", "item": "ore_red"},
    {"type": "move", "key": "walk", "required_resources": {"ore_red": 1}},
]
MINE = {"type": "mine", "name": "mine_red", "cooldown": 50, "initial_items": 2, "max_output": 1}
BLUE = {"type": "mine", "name": "mine_blue", "cooldown": 50, "initial_items": 2, "max_output": 1}
STUCK_BLOCK = {"type": "wall", "name": "block", "type_id": 14, "swappable": False}
CASES = [
    # (map; settings; actions before, of agents in row-major order; action of the first agent; allowed)
    # a converter ahead: what it holds, what the agent holds, whether it is busy
    ("r\n@", {}, [], ("get", 0), True),
    ("r\n@", {}, [["get"]], ("get", 0), True),  # it has started a conversion
    ("_\n@", {}, [["get"]], ("get", 0), False),
    ("R\n@", {}, [], ("put", 0), False),
    (".\n@", {}, [], ("get", 0), False),
    ("r\n@", {"default_item_max": 0}, [], ("get", 0), False),
    # a full agent: another one may rob it, if that does not freeze it, or use up what defends it
    ("rr\n@@", {"default_item_max": 1, "freeze_duration": 3}, [["get", "noop"]], ("get", 0), False),
    ("rr\n@@", {"default_item_max": 1, "freeze_duration": 0}, [["get", "noop"]], ("get", 0), True),
    ("bb\n@@", {"default_item_max": 1, "freeze_duration": 3}, [["get", "noop"]], ("get", 0), True),
    ("bb\n@.", {"default_item_max": 1, "freeze_duration": 0}, [["get"]], ("get", 0), False),
    # an observation that is exactly full may have been cut off before the cell ahead
    (".\n@", {"num_observation_tokens": 9}, [], ("get", 0), True),
    (".\n@", {"num_observation_tokens": 10}, [], ("get", 0), False),
    ("#\n@", {"num_observation_tokens": 9}, [], ("move", 0), True),
    ("#\n@", {"num_observation_tokens": 10}, [], ("move", 0), False),
    # swaps: an agent ahead is frozen by a third one, or by its own attack at an open edge
    ("@.\n@@", {"freeze_duration": 3}, [[("rotate", 1), "noop", "noop"]], ("swap", 0), True),
    ("@.\n@@", {"freeze_duration": 0}, [[("rotate", 1), "noop", "noop"]], ("swap", 0), False),
    ("####\n#@.#\n#@@#", {"freeze_duration": 3}, [[("rotate", 1), "noop", "noop"]], ("swap", 0), True),
    ("###\n#@#\n#@#", {"freeze_duration": 3}, [[("rotate", 1), "noop"]], ("swap", 0), False),
    ("@\n@", {"freeze_duration": 3}, [[("rotate", 1), "noop"]], ("swap", 0), True),
    ("s\n@", {}, [], ("swap", 0), False),
    # moves into the cell of an agent: it may leave, unless it is frozen
    ("@.\n@@", {"freeze_duration": 3}, [[("rotate", 1), "noop", "noop"]], ("move", 0), True),
    ("@\n@", {"freeze_duration": 3}, [[("rotate", 1), "noop"], [("hit", 2), "noop"]], ("move", 0), False),
    ("@\n@", {"freeze_duration": 3}, [[("rotate", 1), "noop"], [("hit", 2), "noop"]], ("swap", 0), True),
    # attacks: the attacker itself at the top and left edge, unless it sees what is there or the map is walled
    ("@", {}, [], ("hit", 2), True),
    ("@", {}, [[("rotate", 1)]], ("hit", 2), False),
    ("#\n.\n@", {}, [], ("hit", 2), False),
    ("#\n.\n@", {}, [], ("hit", 8), False),
    (".\n.\n@", {}, [], ("hit", 8), True),
    ("###\n#@#\n###", {}, [], ("hit", 8), False),
    ("@\n@", {}, [[("rotate", 1), "noop"]], ("hit", 2), True),
    ("@\n@", {}, [[("rotate", 1), "noop"]], ("hit", 5), False),
    # gifts: the agent ahead, one that can come there, and items that another agent may give first
    ("r.\n@.\n@.", {}, [["get", "noop"], [("rotate", 1), "noop"]], ("gift", 0), True),
    ("r.\n@.\n@.", {}, [[("rotate", 1), "noop"]], ("gift", 0), True),
    ("r.\n@.\n@.", {}, [[("rotate", 1), ("rotate", 1)]], ("gift", 0), False),
    ("r.\n@.", {}, [["get"], [("rotate", 3)]], ("gift", 0), False),
    ("r..\n@.@", {}, [["get", ("rotate", 2)], [("rotate", 3), "noop"]], ("gift", 0), True),
    ("r..\n@.@", {}, [["get", ("rotate", 0)], [("rotate", 3), "noop"]], ("gift", 0), False),
    # resources that another agent may give first
    (".\n@\n@", {}, [], ("walk", 0), True),
    (".\n@\n@", {}, [["noop", ("rotate", 1)]], ("walk", 0), False),
    ("r\n@\n.", {}, [["get"]], ("walk", 1), True),
]  # fmt: skip


@pytest.mark.parametrize(("drawing", "settings", "before", "action", "allowed"), CASES)
def test_masks_of_drawn_worlds(
    drawing: str, settings: dict[str, Any], before: list[list[Any]], action: tuple[str, int], allowed: bool
) -> None:
    """In the engine, and from the tokens."""
    config = EnvConfig.model_validate(
        {
            "game": settings,
            "objects": [MINE, BLUE, STUCK_BLOCK],
            "actions": ACTIONS,
            "map_builder": {"type": "Ascii", "map": drawing, "legend": {"b": "mine_blue", "s": "block"}},
        }
    )
    env = MettaGridEnv(config)
    observations, _ = env.reset()
    names = config.spec.action_names
    for actions in before:
        pairs = [one if isinstance(one, tuple) else (one, 0) for one in actions]
        observations = env.step(np.array([(names.index(name), argument) for name, argument in pairs]))[0]
    index = config.spec.flat_actions.index((names.index(action[0]), action[1]))
    assert env.action_masks()[0, index] == allowed
    assert mask_from_tokens(config, is_walled(config), observations[0])[index] == allowed
