"""agent.critic: values that depend on what the other learners of the group or the world perceive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import registered_parts  # noqa: F401  # the reward of the world in which only the others' view predicts the return
import torch
from tiny_runs import (
    TEAM,
    Killed,
    Recorder,
    assert_same_weights,
    ignore,
    interrupt,
    kill,
    metrics_of,
    tiny_config,
    weights_of,
)

from metta.agent.heads import ValueHead
from metta.agent.policy import MettaAgent, make_agent
from metta.agent.sparse_tokens import PackedTokens
from metta.api import Override, resume_run, train_run
from metta.checkpoint.policy_checkpoint import save_checkpoint
from metta.checkpoint.weight_transfer import transfer_weights
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import parse_config
from metta.config.self_play import SelfPlayConfig
from metta.config.training import ExperienceConfig, OptimizerConfig, PPOConfig
from metta.errors import ConfigError
from metta.rl.advantages import compute_advantages
from metta.rl.experience import make_experience_manager, make_experiences
from metta.rl.frozen_policies.self_play import FrozenPolicy, OpponentPool
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import train_ppo
from metta.rl.prioritized_sampling import PrioritizedSampling
from metta.rl.rollout import rollout, rollout_policies
from metta.rl.weight_analysis import analyze_weights
from metta.world.env import MettaGridEnv

Game = dict[str, Any]
SIZES = {"batch_size": 768, "minibatch_size": 192, "bptt_horizon": 8, "forward_pass_minibatch_target_size": 24}


@pytest.fixture(scope="module")
def teams() -> MettaGridEnv:
    """Six agents of two groups, which stand in other cells of each map; episodes of 11 steps."""
    game: Game = {"num_agents": 6, "width": 9, "height": 9, "max_steps": 11, "groups": {"a": {"id": 0}, "b": {"id": 1}}}
    return MettaGridEnv(EnvConfig.model_validate({"game": game, "map_builder": {"objects": {"mine_red": 5}}}), seed=3)


def agent_in(env: MettaGridEnv, seed: int = 1, **settings: Any) -> MettaAgent:
    """An agent whose values depend on all weights."""
    torch.manual_seed(seed)
    config = AgentModelConfig(**{"hidden_dim": 8, "mlp_layers": 1, "backbone": "mlp", "bptt_horizon": 64} | settings)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    with torch.no_grad():
        for weight in agent.value_head.parameters():
            weight += 0.5 * torch.randn_like(weight)
    return agent


def test_only_values_depend_on_others_and_only_on_those_of_the_team(teams: MettaGridEnv) -> None:
    observations, groups = (
        PackedTokens.pack(torch.from_numpy(teams.reset(seed=1)[0])),
        torch.tensor([[0, 1, 1, 0, 1, 1]]),
    )
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for critic, others in (("own", set()), ("group", {1, 4, 5}), ("world", {0, 1, 3, 4, 5})):
        agent = agent_in(teams, critic=critic)
        memory = agent.initial_memory(6)
        values = agent.value(observations, memory, groups=groups)
        swapped = agent.value(observations.select(order), memory, groups=groups[:, order])
        torch.testing.assert_close(swapped, values[order])
        alone = agent.value(observations, memory)
        torch.testing.assert_close(alone, agent.value(observations, memory, groups=torch.zeros(6, 1)))
        assert torch.equal(alone, values) == (critic == "own")
        actions = agent.act(observations, memory, deterministic=True, groups=groups)
        assert actions.logits is not None
        assert torch.equal(actions.logits, agent.act(observations, memory, deterministic=True).logits)

        features = torch.randn(1, 6, 8, requires_grad=True)
        agent.value_head(features, groups.unsqueeze(0))[0, 2].backward()
        assert features.grad is not None
        assert set(features.grad[0].any(1).nonzero().flatten().tolist()) == others | {2}


def test_a_new_critic_has_the_weights_and_values_of_one_that_sees_less(teams: MettaGridEnv) -> None:
    features, groups = torch.randn(3, 6, 8), torch.zeros(3, 2, 3, dtype=torch.int16)
    heads = []
    for critic in ("own", "world"):
        torch.manual_seed(0)
        heads.append((ValueHead(8, 0, critic), torch.rand(())))
    assert torch.equal(heads[0][0](features, groups), heads[1][0](features, groups))
    assert heads[0][1] == heads[1][1]  # no random number is drawn for it


def test_a_run_takes_over_the_weights_of_one_with_another_critic(teams: MettaGridEnv, tmp_path: Path) -> None:
    """All but those that read other agents, so that it starts with the values of `own`."""
    observations, groups = PackedTokens.pack(torch.from_numpy(teams.reset(seed=1)[0])), torch.zeros(1, 6)
    for before, after in (("own", "world"), ("world", "own"), ("group", "world")):
        source, agent = agent_in(teams, critic=before), agent_in(teams, 2, critic=after)
        if agent.value_head.summary is not None:
            agent.value_head.summary.data.zero_()
        save_checkpoint(source, tmp_path)
        transfer = transfer_weights(agent, tmp_path / "checkpoint_000000.pt")
        summary = ("value head (summary)",)
        assert transfer.new == (() if after == "own" else summary)
        assert transfer.dropped == (() if before == "own" else summary)
        assert transfer.differing == (f'agent.critic is "{after}" here and "{before}" in the file',)
        if source.value_head.summary is not None:
            source.value_head.summary.data.zero_()
        values = [each.value(observations, each.initial_memory(6), groups=groups) for each in (source, agent)]
        torch.testing.assert_close(*values)


def against_itself(env: MettaGridEnv) -> OpponentPool:
    return OpponentPool(SelfPlayConfig(policies=["a.pt"], share=0.5), [FrozenPolicy("given_000", agent_in(env, 2))])


CASES: dict[str, dict[str, Any]] = {
    "group": {"critic": "group"},
    "world": {"critic": "world", "memory": "attention", "memory_window": 4},
    "self-play": {"critic": "group", "memory": "mingru", "mask_actions": True},
    "no memory": {"critic": "group", "forward_lstm": False, "mlp_layers": 0, "egocentric": True},
}


@pytest.mark.parametrize("case", CASES)
def test_the_values_of_a_rollout_are_those_of_the_update(teams: MettaGridEnv, case: str) -> None:
    """Of every step, the values that the same weights have in minibatches; and of all that bootstraps."""
    agent = agent_in(teams, **CASES[case])
    pool = against_itself(teams) if case == "self-play" else None
    experience = make_experience_manager(teams, agent, ExperienceConfig(**SIZES), 4, opponents=pool)
    learners, width = experience.plan.num_learners, experience.plan.agents
    assert learners == (3 if pool else 6)
    asked = record_final_values(agent)
    seen = set()
    for epoch in range(2):
        before, asked[:] = experience.next_values.clone(), []
        rollout(experience, agent)
        compute_advantages(experience)
        if epoch:
            torch.testing.assert_close(before, experience.values[0])
        assert experience.groups is not None
        seen |= {tuple(row) for row in experience.groups.view(-1, learners).tolist()}
        is_final = experience.final_values.flatten().nonzero().flatten()
        assert len(is_final) == sum(map(len, asked)) > 0
        torch.testing.assert_close(experience.final_values.flatten()[is_final].sort()[0], torch.cat(asked).sort()[0])
        counts = torch.zeros(experience.plan.segments, dtype=torch.int64)
        for minibatch in [*experience.minibatches(), *experience.minibatches(PrioritizedSampling(0.6, 0.4))]:
            assert minibatch.groups is not None
            columns, steps = minibatch.rows % width, minibatch.rows // width
            assert torch.equal(minibatch.groups.flatten(1), experience.groups[steps, columns])
            of_worlds = columns[0].view(-1, learners)
            assert torch.equal(of_worlds, of_worlds[:, :1] + torch.arange(learners))
            assert not (of_worlds[:, 0] % learners).any()
            if minibatch.weights is not None:
                assert torch.equal(*minibatch.weights.view(-1, learners).aminmax(dim=1))
            else:
                counts[steps[0] // experience.plan.horizon * width + columns[0]] += 1
            evaluation = agent.evaluate_actions(
                minibatch.observations,
                minibatch.action_index,
                minibatch.memory,
                minibatch.episode_starts,
                minibatch.action_masks,
                groups=minibatch.groups,
            )
            torch.testing.assert_close(evaluation.values, minibatch.values, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(evaluation.log_probs, minibatch.log_probs, rtol=1e-3, atol=1e-4)
        assert (counts == 1).all()
    assert len(seen) > 1 or not pool  # sides are drawn again
    dead = analyze_weights(agent, experience)
    assert ("value_head.hidden.1/dead" in dead) == (agent.config.mlp_layers > 0)
    experience.close()


def own_groups(agent: MettaAgent, observations: PackedTokens) -> torch.Tensor:
    """The group of each agent, `[agents] int64`, by the token that it sees of itself."""
    tokens, spec = observations.padded(agent.spec.num_observation_tokens), agent.spec
    is_own = (tokens[..., 0] == tokens[:, :1, 0]) & (tokens[..., 1] == spec.feature_names.index("agent:group"))
    return (tokens[..., 2].long() * is_own).sum(1)


def record_final_values(agent: MettaAgent) -> list[torch.Tensor]:
    """The values of final observations, from now on, computed for each world apart. Checks the groups of all values."""
    asked: list[torch.Tensor] = []
    value = agent.value

    def recorded(
        observations: PackedTokens,
        memory: Any,
        episode_starts: torch.Tensor | None = None,
        groups: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert groups is not None
        assert torch.equal(groups.flatten().long(), own_groups(agent, observations))
        if episode_starts is None:
            agents = torch.arange(groups.numel()).view_as(groups)
            asked.extend(
                value(observations.select(rows), memory.select(rows), groups=groups[None, world])
                for world, rows in enumerate(agents)
            )
        return value(observations, memory, episode_starts, groups)

    agent.value = recorded  # type: ignore[method-assign, assignment]  # calls are recorded
    return asked


def test_groups_are_those_of_the_learners_at_every_step(teams: MettaGridEnv) -> None:
    """Seen by the agents themselves: the token of their own group."""
    agents = {name: agent_in(teams, critic="group") for name in ("one", "other")}
    pools = {"one": against_itself(teams)}
    settings = ExperienceConfig(**SIZES)
    experiences = make_experiences(teams, agents, {"one": ["a"], "other": ["b"]}, settings, 4, opponents={})
    whole = make_experience_manager(teams, agents["one"], settings, 4, opponents=pools["one"])
    rollout_policies(experiences, agents)
    rollout(whole, agents["one"])
    for experience, known in ((experiences["one"], {0}), (experiences["other"], {1}), (whole, {0, 1})):
        assert experience.groups is not None
        for step in range(experience.steps_collected + 1):
            seen = own_groups(agents["one"], experience.observations.at(step))
            assert torch.equal(seen, experience.groups[step].long())
        assert set(experience.groups.flatten().tolist()) == known
        experience.close()


def explained_variance(critic: str, within: str) -> float:
    """Of values after 9 updates, where a reward is the share of others who did something that only they know of."""
    game: Game = {"num_agents": 6, "width": 9, "height": 9, "max_steps": 13, "time_punishment": 0.0}
    game |= {"observation_width": 1, "observation_height": 1, "groups": {"a": {"id": 1}, "b": {"id": 2}}}
    rewards = [{"type": "test.others_rotated", "settings": {"within": within}}]
    world = {"game": game, "map_builder": {"border_width": 1, "objects": {}}, "rewards": rewards}
    env = MettaGridEnv(EnvConfig.model_validate(world), seed=0)
    torch.manual_seed(0)
    config = AgentModelConfig(hidden_dim=16, mlp_layers=1, backbone="mlp", forward_lstm=False, critic=critic)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    sizes = {"batch_size": 1536, "minibatch_size": 384, "bptt_horizon": 8, "forward_pass_minibatch_target_size": 96}
    experience = make_experience_manager(env, agent, ExperienceConfig(**sizes, async_factor=1), seed=0)
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=0.01))
    ppo = PPOConfig(gamma=0.0, clip_vloss=False, vf_coef=1.0, ent_coef=0.1)
    for _ in range(10):
        rollout(experience, agent)
        losses = train_ppo(agent, optimizer, experience, ppo, update_epochs=2)
    experience.close()
    return losses["explained_variance"]


def test_the_view_of_the_group_explains_what_only_the_group_knows() -> None:
    """The return is the next reward: what the others of the group, or the world, did in the last step."""
    assert explained_variance("own", "group") < 0.1
    assert explained_variance("group", "group") > 0.95
    assert explained_variance("group", "world") < 0.6
    assert explained_variance("world", "world") > 0.9


EVERYTHING = (
    "run.total_timesteps=2048",
    "agent.critic='group'",
    "env.game.groups={a={id=1}, b={id=2}}",
    "prioritized_sampling.enabled=true",
    "vtrace.enabled=true",
    "normalization.values=true",
    "self_play={share=0.5, snapshot_interval=1, pool_size=1}",
    "kickstarting={value_coef=0.1, label_share=0.5}",
    "experience.stagger_episodes=true",
)
"""Sides that are drawn again, and a teacher whose values depend on groups, too."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    train_run(tiny_config(run_dir, *EVERYTHING[:3], "run.total_timesteps=512", "agent.critic='world'"), ignore)
    return run_dir


def test_killed_and_resumed_with_workers_it_ends_as_in_one_go(teacher: Path, tmp_path: Path) -> None:
    settings = (*EVERYTHING, f"kickstarting.teacher='{teacher}'")
    train_run(tiny_config(tmp_path / "straight", *settings), ignore)
    with pytest.raises(Killed):
        train_run(tiny_config(tmp_path / "killed", *settings), Recorder(1, kill))
    assert resume_run(tmp_path / "killed", Recorder(2, interrupt)).epoch == 2
    resume_run(tmp_path / "killed", ignore, [Override.parse("experience.workers=2")])
    lines = metrics_of(tmp_path / "straight")
    assert lines == metrics_of(tmp_path / "killed")
    assert all(line["losses"]["teacher_value_loss"] > 0 for line in lines)
    assert_same_weights(*(weights_of(tmp_path / name, 4) for name in ("straight", "killed")))


def test_a_teacher_labels_whole_worlds_if_its_values_depend_on_them(teams: MettaGridEnv) -> None:
    agent, teacher = agent_in(teams), agent_in(teams, 2, critic="world")
    settings = ExperienceConfig(**SIZES)
    experience = make_experience_manager(teams, agent, settings, 4, teacher, label_share=0.5)
    rollout(experience, agent)
    compute_advantages(experience)
    labeled = experience.label_weights.view(-1, 6)
    assert torch.equal(*labeled.aminmax(dim=1))
    assert 0 < int((labeled[:, 0] > 0).sum()) < len(labeled)
    first = experience.observations.at(0)
    with torch.no_grad():
        values = teacher.value(first, teacher.initial_memory(experience.plan.agents), groups=torch.zeros_like(labeled))
    expected = values * (experience.label_weights > 0)
    torch.testing.assert_close(experience.teacher_values[0], expected)
    assert next(iter(experience.minibatches())).groups is None  # the agent's own values do not depend on them
    experience.close()


def test_with_a_policy_for_each_agent_the_view_is_its_own(teams: MettaGridEnv, tmp_path: Path) -> None:
    each = 'policies.herd={groups=["hunters", "grazers"], share=false, agent={critic="world"}}'
    config = tiny_config(tmp_path / "run", "run.total_timesteps=512", TEAM[0], each)
    train_run(config, ignore)
    weights = weights_of(tmp_path / "run", 1)
    for index in range(4):
        assert weights[f"herd_{index}.value_head.summary"].any()


def test_minibatches_too_small_for_a_world_are_an_error_with_file_and_line(teams: MettaGridEnv) -> None:
    text = "[experience]\nbatch_size = 96\nminibatch_size = 24\nbptt_horizon = 8\n\n[agent]\ncritic = 'world'\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text + "[env.game]\nnum_agents = 4\n", "small.toml")
    assert str(caught.value) == (
        "small.toml has 1 problem\n"
        "  line 3  experience.minibatch_size  must be at least one segment for each agent of a world, whom the critic "
        "reads together: 4 agents x bptt_horizon 8 = 32; got 24; set minibatch_size = 32"
    )
    with pytest.raises(ConfigError, match=r"6 agents x bptt_horizon 8 = 48; got 24; set minibatch_size = 48"):
        make_experience_manager(
            teams, agent_in(teams, critic="group"), ExperienceConfig(**SIZES | {"minibatch_size": 24})
        )
