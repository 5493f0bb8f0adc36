"""An egocentric policy decides in a turned world as in the original one, turned: every input is turned with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from random_worlds import random_tasks

from metta.agent.policy import MettaAgent, make_agent
from metta.checkpoint.onnx_policy import OnnxPolicy
from metta.config.agent import OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.loading.load import load_config, load_tasks, parse_config
from metta.config.loading.presets import presets
from metta.errors import ConfigError, UsageError
from metta.geometry import CLOCKWISE, DOWN, LEFT, UP
from metta.world.env import MettaGridEnv

MAP = ["#######", "#m..g.#", "#.....#", "#..@.a#", "#b.@..#", "#....m#", "#######"]
GLYPHS = {"#": "wall", "m": "mine_red", "g": "generator_red", "a": "altar", "b": "block", ".": "empty", "@": "agent"}
GLOBAL_FEATURES = ["agent:orientation", "last_action_arg", "agent:group"]


def world(rows: list[str]) -> MettaGridEnv:
    builder = {"type": "Ascii", "map": "\n".join(rows), "legend": GLYPHS}
    return MettaGridEnv(
        EnvConfig().override(num_agents=2, observation_width=5, observation_height=5, map_builder=builder),
        seed=0,
    )


def observations_after(env: MettaGridEnv, actions: list[list[tuple[str, int]]]) -> list[torch.Tensor]:
    """What both agents see at the start and after each pair of actions."""
    seen = [torch.from_numpy(env.reset(seed=0)[0].copy())]
    for step in actions:
        observations, *_ = env.step(np.array([(env.spec.action_names.index(name), value) for name, value in step]))
        seen.append(torch.from_numpy(observations.copy()))
    return seen


def turned_action(action: tuple[str, int]) -> tuple[str, int]:
    """The action that does in the turned world what `action` does in the original one."""
    name, argument = action
    return (name, CLOCKWISE[argument]) if name == "rotate" else action


def agent_for(env: MettaGridEnv, global_features: Sequence[str] = GLOBAL_FEATURES, **settings: object) -> MettaAgent:
    torch.manual_seed(0)
    config = AgentModelConfig(hidden_dim=16, **settings)  # type: ignore[arg-type]
    agent = make_agent(env.single_observation_space, env.single_action_space, global_features, "cpu", config)
    with torch.no_grad():
        for weight in agent.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return agent


def outputs(agent: MettaAgent, observations: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[steps, agents, actions]` and values `[steps, agents]` of an episode."""
    steps, agents = len(observations), len(observations[0])
    with torch.no_grad():
        logits, values, _ = agent(
            torch.stack(observations), agent.initial_memory(agents), torch.zeros(steps, agents, dtype=torch.bool)
        )
    return logits, values


def tasks_of(preset: str) -> Iterator[EnvConfig]:
    """The world of each scene of a preset, with endless episodes and observations of which nothing is cut off."""
    for _, config in load_tasks(load_config(preset)).scenes:
        yield endless(config)


def random_square_task(seed: int) -> Iterator[EnvConfig]:
    """A random world with every type of action and a square window."""
    (config,) = random_tasks(np.random.default_rng(seed), 1, every_action=True)
    yield endless(config.override(observation_width=config.game.observation_height))


def endless(config: EnvConfig) -> EnvConfig:
    return config.override(max_steps=0, episode_lifetime=0, num_observation_tokens=500)


def is_walled(env: MettaGridEnv) -> bool:
    """Whether there are walls all around the map. At other edges the rule of attacks differs between directions."""
    cells = env.cells()
    return bool((np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]]) > 0).all())


def turned_env(env: MettaGridEnv) -> MettaGridEnv:
    """An environment for the states of `env` by a quarter turn clockwise."""
    config = env.config
    height, width = config.game.height, config.game.width
    builder = {"type": "Random", "objects": {}, "border_width": int(is_walled(env))}
    return MettaGridEnv(config.override(width=height, height=width, map_builder=builder), seed=1)


def turned_state(env: MettaGridEnv, turned: MettaGridEnv) -> dict[str, Any]:
    """The state of `env` by a quarter turn clockwise, for `turned`."""
    state = env.state()
    here, there = env._worlds, turned._worlds
    rows, cols = np.divmod(np.arange(here.slot_size), here.stride)
    moved = cols * there.stride + there.stride - 1 - rows
    grid = state["grid"].copy()
    grid[moved] = state["grid"][: here.slot_size]
    placed = state["converter_cell"] >= 0
    converter_cell = np.where(placed, moved[state["converter_cell"]], -1)
    last_action = state["last_action"].copy()
    clockwise = np.array(CLOCKWISE)
    return state | {
        "grid": grid,
        "cell": moved[state["cell"]],
        "orientation": clockwise[state["orientation"]],
        "converter_cell": converter_cell,
        "last_action": last_action,
    }


def in_frames(agent: MettaAgent, observations: np.ndarray) -> np.ndarray:
    """`[agents, tokens] int64`: the tokens of each observation in the frame of its agent, sorted."""
    frame = agent.egocentric_frame
    assert frame is not None
    tokens = torch.from_numpy(observations)
    turned = frame(tokens, frame.agent_orientation(tokens)).long()
    return np.sort((turned * torch.tensor([1 << 16, 1 << 8, 1])).sum(-1).numpy())


@pytest.fixture
def upper_half() -> Iterator[str]:
    """An observation processor that depends on directions: it keeps rows up to the center."""
    name = "upper half"

    @OBSERVATION_PROCESSORS.register(name)
    def keep_upper_half(observations: torch.Tensor, spec: EnvSpec) -> torch.Tensor:
        kept = (observations[:, :, :1] >> 4) <= spec.observation_height // 2
        return torch.where(kept, observations, 255)

    yield name
    del OBSERVATION_PROCESSORS._registered[name]


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "attention"])
@pytest.mark.parametrize("processor", ["flatten_obs_dict", "upper half"])
def test_a_turned_world_is_the_same_to_it(backbone: str, processor: str, upper_half: str) -> None:
    env = world(MAP)
    turned = world(["".join(row) for row in zip(*reversed(MAP), strict=True)])  # by a quarter turn clockwise
    actions = [
        [("rotate", LEFT), ("rotate", DOWN)],
        [("move", 0), ("move", 0)],
        [("rotate", UP), ("put_recipe_items", 0)],
        [("attack", 3), ("rotate", LEFT)],
    ]
    seen = observations_after(env, actions)
    # agents are numbered in reading order: the upper one comes second in the turned map
    turned_actions = [[turned_action(action) for action in reversed(step)] for step in actions]
    turned_seen = [observations.flip(0) for observations in observations_after(turned, turned_actions)]
    seen, turned_seen = seen[1:], turned_seen[1:]  # all agents face up before their first rotation, in both worlds
    agent = agent_for(env, backbone=backbone, obs_process_func=processor, egocentric=True)
    logits, values = outputs(agent, seen)
    turned_logits, turned_values = outputs(agent, turned_seen)
    torch.testing.assert_close(turned_values, values)
    names = [(env.spec.action_names[action], argument) for action, argument in env.spec.flat_actions]
    index = [names.index(turned_action(name)) for name in names]
    torch.testing.assert_close(turned_logits[..., index], logits)
    plain = agent_for(env, backbone=backbone, obs_process_func=processor)
    assert not torch.allclose(outputs(plain, turned_seen)[1], outputs(plain, seen)[1], atol=1e-3)
    memory = agent.initial_memory(2)
    with torch.no_grad():
        onnx = OnnxPolicy(agent)(turned_seen[0], tuple(memory.tensors.values()), torch.zeros(2, dtype=torch.bool))
    torch.testing.assert_close(onnx[0], turned_logits[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(onnx[1], turned_values[0], rtol=1e-4, atol=1e-5)


WORLDS = {
    **{preset.name: partial(tasks_of, preset.name) for preset in presets()},
    **{f"random {seed}": partial(random_square_task, seed) for seed in range(6)},
}
"""name -> its worlds: of every preset, and random ones with every type of action"""


@pytest.mark.parametrize("name", WORLDS)
def test_all_inputs_of_a_turned_world_are_the_same(name: str) -> None:
    """The same state, turned, step by step: the tokens in the agents' frames, rewards, logits and masks are equal."""
    generator = np.random.default_rng(0)
    for config in WORLDS[name]():
        env = MettaGridEnv(config, seed=1)
        env.reset()
        turned = turned_env(env)
        agent = agent_for(env, global_features=[], backbone="mlp", egocentric=True)
        frame = agent.egocentric_frame
        assert frame is not None
        types = [type_ for _, type_, action in config.action_table]
        is_absolute = [type_ == "rotate" and entry.delta is None for _, type_, entry in config.action_table]
        flat = env.spec.flat_actions
        index = np.array(
            [flat.index((action, CLOCKWISE[value] if is_absolute[action] else value)) for action, value in flat]
        )
        used = [number for number, (action, _) in enumerate(flat) if is_walled(env) or "attack" not in types[action]]
        seen_types = set()
        for _ in range(25):
            turned.load_state(turned_state(env, turned))
            assert np.array_equal(turned.action_masks()[:, index[used]], env.action_masks()[:, used])
            chosen = generator.choice(used, size=env.agents)
            seen, rewards, *_ = env.step(np.array(flat)[chosen])
            turned_seen, turned_rewards, *_ = turned.step(np.array(flat)[index[chosen]])
            assert np.array_equal(turned_rewards, rewards)
            assert np.array_equal(turned.action_success, env.action_success)
            assert np.array_equal(turned.orientations, np.array(CLOCKWISE)[env.orientations])
            assert np.array_equal(in_frames(agent, turned_seen), in_frames(agent, seen))
            seen_types |= {types[flat[number][0]] for number in chosen}
        logits, values = outputs(agent, [torch.from_numpy(seen)])
        turned_logits, turned_values = outputs(agent, [torch.from_numpy(turned_seen)])
        torch.testing.assert_close(turned_logits[..., index], logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(turned_values, values, rtol=1e-4, atol=1e-5)
        assert seen_types == {types[flat[number][0]] for number in used}


def test_a_rotation_that_counts_quarters_is_not_turned() -> None:
    env = MettaGridEnv(
        EnvConfig().override(
            num_agents=1,
            width=5,
            height=5,
            map_builder={"objects": {}, "border_width": 1},
            actions=[{"type": "rotate", "key": "right", "delta": 1}, {"type": "rotate", "key": "rotate"}],
        )
    )
    frame = agent_for(env, backbone="mlp", egocentric=True).egocentric_frame
    assert frame is not None
    logit_index = frame.logit_index.tolist()
    assert [row[0] for row in logit_index] == [0, 0, 0, 0]
    assert [sorted(row) for row in logit_index] == [list(range(5))] * 4
    assert logit_index[UP] == list(range(5))
    assert frame.is_absolute.nonzero().flatten().tolist() == [1]


def test_a_window_that_is_not_square_is_refused() -> None:
    text = "[agent]\negocentric = true\n[env.game]\nobservation_width = 9\n"
    with pytest.raises(ConfigError, match=r"line 2 +agent.egocentric +needs a square observation window"):
        parse_config(text, "wide.toml")
    env = MettaGridEnv(EnvConfig().override(num_agents=1, observation_width=9))
    with pytest.raises(UsageError, match="observation_height 11 and observation_width 9"):
        agent_for(env, egocentric=True)
