"""An egocentric policy decides in a turned world as in the original one, turned: every input is turned with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from metta.agent.policy import MettaAgent, make_agent
from metta.checkpoint.onnx_policy import OnnxPolicy
from metta.config.agent import OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.loading.load import parse_config
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


def agent_for(env: MettaGridEnv, **settings: object) -> MettaAgent:
    torch.manual_seed(0)
    config = AgentModelConfig(hidden_dim=16, **settings)  # type: ignore[arg-type]
    agent = make_agent(env.single_observation_space, env.single_action_space, GLOBAL_FEATURES, "cpu", config)
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
