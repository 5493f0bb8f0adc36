"""A policy in its own frame does in a turned world what it does in the world, turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metta.agent.policy import MettaAgent, make_agent
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import parse_config
from metta.errors import ConfigError, UsageError
from metta.world.env import MettaGridEnv

UP, DOWN, LEFT, RIGHT = range(4)
MAP = ["#######", "#m..g.#", "#.....#", "#..@.a#", "#b.@..#", "#....m#", "#######"]
GLYPHS = {"#": "wall", "m": "mine_red", "g": "generator_red", "a": "altar", "b": "block", ".": "empty", "@": "agent"}
CLOCKWISE = {UP: RIGHT, RIGHT: DOWN, DOWN: LEFT, LEFT: UP}


def world(rows: list[str]) -> MettaGridEnv:
    builder = {"type": "Ascii", "map": "\n".join(rows), "legend": GLYPHS}
    return MettaGridEnv(
        EnvConfig().override(num_agents=2, observation_width=5, observation_height=5, map_builder=builder)
    )


def seen(env: MettaGridEnv, facing: dict[str, int]) -> torch.Tensor:
    """What the agents see, each turned to face somewhere, by its place in the unturned map: upper, lower."""
    env.reset(seed=0)
    rotate = env.spec.action_names.index("rotate")
    observations, *_ = env.step(np.array([[rotate, facing["upper"]], [rotate, facing["lower"]]]))
    return torch.from_numpy(observations)


def agent_for(env: MettaGridEnv, **settings: object) -> MettaAgent:
    torch.manual_seed(0)
    config = AgentModelConfig(hidden_dim=16, use_prev_action=False, **settings)  # type: ignore[arg-type]
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    with torch.no_grad():
        for weight in agent.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return agent


def answers(agent: MettaAgent, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        logits, values, _ = agent(
            tokens.unsqueeze(0), agent.initial_memory(len(tokens)), torch.zeros(1, len(tokens), dtype=torch.bool)
        )
    return logits[0], values[0]


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "attention"])
def test_a_turned_world_is_the_same_to_it(backbone: str) -> None:
    env = world(MAP)
    turned = world(["".join(row) for row in zip(*reversed(MAP), strict=True)])  # by a quarter turn clockwise
    # the argument of a rotation counts from the way the agent faces; the last action is a global token of its own
    facing = {"upper": UP, "lower": LEFT}
    agent = agent_for(env, backbone=backbone, egocentric=True, observation_types=["grid_obs", "inventory"])
    logits, values = answers(agent, seen(env, facing))
    # the upper agent is to the right of the lower one in the turned map, and so comes second in its row
    tokens = seen(turned, {"upper": CLOCKWISE[LEFT], "lower": CLOCKWISE[UP]}).flip(0)
    turned_logits, turned_values = answers(agent, tokens)
    torch.testing.assert_close(turned_values, values)
    names = [(env.spec.action_names[action], argument) for action, argument in env.spec.flat_actions]
    for place, (name, argument) in enumerate(names):
        there = names.index((name, CLOCKWISE[argument])) if name == "rotate" else place
        torch.testing.assert_close(turned_logits[:, there], logits[:, place])
    plain = agent_for(env, backbone=backbone, observation_types=["grid_obs", "inventory"])
    assert not torch.allclose(answers(plain, tokens)[1], answers(plain, seen(env, facing))[1], atol=1e-3)


def test_a_rotation_that_counts_quarters_is_left_alone() -> None:
    env = MettaGridEnv(
        EnvConfig().override(
            num_agents=1,
            width=5,
            height=5,
            map_builder={"objects": {}, "border_width": 1},
            actions=[{"type": "rotate", "key": "right", "delta": 1}, {"type": "rotate", "key": "rotate"}],
        )
    )
    places = agent_for(env, backbone="mlp", egocentric=True).frame.places.tolist()  # type: ignore[union-attr]
    assert [row[0] for row in places] == [0, 0, 0, 0]
    assert [sorted(row) for row in places] == [list(range(5))] * 4
    assert places[UP] == list(range(5))


def test_a_window_that_cannot_be_turned_is_refused() -> None:
    text = "[agent]\nown_frame = true\n[env.game]\nobservation_width = 9\n"
    with pytest.raises(ConfigError, match=r"line 2 +agent.egocentric +needs a square window, which can be turned; "):
        parse_config(text, "wide.toml")
    env = MettaGridEnv(EnvConfig().override(num_agents=1, observation_width=9))
    with pytest.raises(UsageError, match="observation_height 11 and observation_width 9"):
        agent_for(env, egocentric=True)
