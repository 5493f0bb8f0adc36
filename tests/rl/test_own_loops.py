"""Loops of the user's own: what does not fit is refused, and weights and gradients of others stay out of the update."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from metta.api import (
    MettaAgent,
    TrainingState,
    compute_advantages,
    load_checkpoint,
    make_agent,
    make_environment,
    make_optimizer,
    rollout,
    save_checkpoint,
    train_ppo,
)
from metta.config.self_play import SelfPlayConfig
from metta.config.training import OptimizerConfig, PPOConfig
from metta.errors import UsageError
from metta.rl.experience import Experience, make_experience_manager
from metta.rl.frozen_policies.self_play import FrozenPolicy, OpponentPool
from metta.rl.rollout import rollout_policies

SetUp = Callable[..., tuple[MettaAgent, Experience]]
OTHERS = {
    "mask_actions": {"mask_actions": True},
    "critic": {"critic": "group"},
    "memory and hidden_dim": {"hidden_dim": 12},
}


def weights_of(agent: MettaAgent) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(agent.parameters()).detach().clone()


@pytest.mark.parametrize(("name", "settings"), OTHERS.items())
def test_the_experience_of_another_agent_is_refused(set_up: SetUp, name: str, settings: dict[str, object]) -> None:
    (agent, experience), (other, its_experience) = set_up(), set_up(agent=settings)
    message = f"made for another agent, whose {name} differ; make one for this agent"
    rollout(experience, agent)
    for given, stranger in ((experience, other), (its_experience, agent)):
        with pytest.raises(UsageError, match=message):
            rollout(given, stranger)
        with pytest.raises(UsageError, match=message):
            train_ppo(stranger, make_optimizer(stranger), given)


def test_the_agent_of_another_environment_is_refused(set_up: SetUp) -> None:
    agent, _ = set_up()
    _, experience = set_up(env=make_environment(num_agents=2, width=9, height=9, observation_width=5, seed=0))
    with pytest.raises(UsageError, match="was made for another environment: observation_width"):
        rollout_policies({"": experience}, {"": agent})


def test_the_optimizer_of_another_agent_is_refused(set_up: SetUp) -> None:
    (agent, experience), (other, _) = set_up(), set_up()
    rollout(experience, agent)
    with pytest.raises(UsageError, match="the optimizer has none of the agent's weights"):
        train_ppo(agent, make_optimizer(other), experience)


def test_an_agent_needs_the_spaces_of_the_environment() -> None:
    with pytest.raises(UsageError, match=r"takes env.single_observation_space and .*; got Box and Discrete"):
        make_agent(gymnasium.spaces.Box(0, 1), gymnasium.spaces.Discrete(3), [], "cpu")


def test_progress_reaches_its_total(set_up: SetUp) -> None:
    agent, experience = set_up()
    calls: list[tuple[int, int]] = []
    rollout(experience, agent, on_progress=lambda done, total: calls.append((done, total)))
    steps, agents = experience.values.shape
    assert calls == [(step * agents, steps * agents) for step in range(1, steps + 1)]


def test_advantages_of_the_user_are_learned_from(set_up: SetUp) -> None:
    ends = []
    for keeps_returns in (True, False):
        agent, experience = set_up()
        rollout(experience, agent)
        compute_advantages(experience)
        if not keeps_returns:
            experience.returns = None
        train_ppo(agent, make_optimizer(agent), experience)
        ends.append(weights_of(agent))
    torch.testing.assert_close(*ends)


def test_advantages_of_another_shape_are_refused(set_up: SetUp) -> None:
    agent, experience = set_up()
    rollout(experience, agent)
    steps, agents = experience.values.shape
    experience.advantages = torch.zeros(agents, steps)
    with pytest.raises(UsageError, match=rf"\[steps, agents\] = \[{steps}, {agents}\]; got \[{agents}, {steps}\]"):
        train_ppo(agent, make_optimizer(agent), experience)


def test_gradients_from_elsewhere_and_weights_of_others_do_not_change_the_update(set_up: SetUp) -> None:
    ends = []
    for spoils in (False, True):
        agent, experience = set_up()
        frozen = {id(weight) for weight in agent.value_head.parameters()}
        trained = [weight for weight in agent.parameters() if id(weight) not in frozen]
        rollout(experience, agent)
        if spoils:
            for weight in agent.parameters():
                weight.grad = torch.full_like(weight, 100.0)
        for _ in range(2):
            optimizer = torch.optim.Adam(trained)
            stats = train_ppo(agent, optimizer, experience, PPOConfig(max_grad_norm=0.5))
            ends.append((weights_of(agent), stats["grad_norm"]))
    assert torch.equal(ends[1][0], ends[3][0])
    assert ends[0][1] == ends[2][1] < 10


def test_an_agent_with_masks_does_not_act_without_them(set_up: SetUp, busy_env) -> None:
    agent, _ = set_up(agent={"mask_actions": True})
    observations = torch.from_numpy(busy_env.reset(seed=1)[0])
    masks, memory = torch.from_numpy(busy_env.action_masks()), agent.initial_memory(busy_env.agents)
    with pytest.raises(UsageError, match="mask_actions = True, so it needs action_masks"):
        agent.act(observations, memory)
    indices = agent.act(observations, memory, action_masks=masks).action_index
    starts = torch.zeros(1, busy_env.agents, dtype=torch.bool)
    with pytest.raises(UsageError, match="so it needs action_masks"):
        agent.evaluate_actions(observations[None], indices[None], memory, starts)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_pools_that_never_play_are_refused(set_up: SetUp, busy_env, share: float) -> None:
    agent, _ = set_up()
    policies = [] if share else [FrozenPolicy("given_000", agent)]
    message = (
        r"pool of opponents is empty: add_snapshot\(0, agent\)" if share else "plays no agents: set share or groups"
    )
    with pytest.raises(UsageError, match=message):
        make_experience_manager(
            busy_env, agent, opponents=OpponentPool(SelfPlayConfig(share=share, snapshot_interval=1), policies)
        )


def test_a_trainer_state_holds_an_environment(set_up: SetUp, busy_env, tmp_path: Path) -> None:
    agent, _ = set_up()
    busy_env.reset(seed=3)
    state = busy_env.state()
    path = TrainingState(1, 10, 10, make_optimizer(agent).state_dict(), extra_args={"env": state}).save(tmp_path)
    busy_env.step(torch.ones(busy_env.agents, 2, dtype=torch.int32).numpy())
    assert busy_env.state()["clock"] != state["clock"]
    busy_env.load_state(TrainingState.load(path).extra_args["env"])
    restored = busy_env.state()
    assert restored.keys() == state.keys()
    assert all(np.array_equal(restored[name], value) for name, value in state.items())


def test_loaded_weights_are_the_reference_of_the_l2_init_loss(set_up: SetUp, tmp_path: Path) -> None:
    (agent, _), (other, experience) = set_up(), set_up()
    with torch.no_grad():
        agent.policy_head.output.bias += 1
    save_checkpoint(agent, tmp_path, epoch=1)
    load_checkpoint(other, tmp_path / "checkpoint_000001.pt")
    rollout(experience, other)
    stats = train_ppo(other, torch.optim.SGD(other.parameters(), 0.0), experience, PPOConfig(l2_init_loss_coef=1.0))
    assert stats["l2_init_loss"] == 0


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_optimizers_train_groups_that_are_added_and_can_be_copied(set_up: SetUp, kind: str) -> None:
    agent, _ = set_up()
    optimizer = make_optimizer(agent, OptimizerConfig(type=kind))
    extra = torch.nn.Linear(3, 2)
    optimizer.add_param_group({"params": [*extra.parameters()], "lr": 0.5})
    copied, also_extra = deepcopy((optimizer, extra))
    for each, layer in ((optimizer, extra), (copied, also_extra)):
        before = layer.weight.detach().clone()
        layer(torch.ones(1, 3)).sum().backward()
        each.step()
        torch.testing.assert_close(layer.weight, before - 0.5, atol=1e-4, rtol=0)
    assert torch.equal(extra.weight, also_extra.weight)
    again = make_optimizer(agent, OptimizerConfig(type=kind))
    again.add_param_group({"params": [*extra.parameters()]})
    again.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in again.param_groups][-1] == 0.5
    extra.weight.grad = torch.zeros_like(extra.weight)
    again.step()
    assert int(again.state[extra.weight]["step"]) == 2
