"""Kickstarting: the teacher's outputs, its terms of the loss, their annealing, and resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rl_fixtures import padded_observations
from tiny_runs import (
    Recorder,
    assert_same_weights,
    ignore,
    interrupt,
    metrics_of,
    tiny_config,
    weights_of,
)

from metta.agent.policy import make_agent
from metta.api import resume_run, train_run
from metta.config.agent import AgentModelConfig
from metta.config.training import KickstartingConfig, OptimizerConfig, PPOConfig
from metta.errors import ConfigError, UsageError
from metta.rl.advantages import compute_advantages
from metta.rl.experience import make_experience_manager
from metta.rl.losses import teacher_divergence
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, loss_terms, train_ppo, update_policy
from metta.rl.rollout import rollout
from metta.run.learners.policy_files import teacher_file
from metta.world.env import MettaGridEnv

QUIET = PPOConfig(ent_coef=0.0, vf_coef=0.0, norm_adv=False)


@pytest.fixture
def taught(busy_env, set_up):
    """A function that makes a policy, a teacher of another architecture, and an experience with both."""

    def build(**experience):
        agent, plain = set_up(**experience)
        torch.manual_seed(2)
        config = AgentModelConfig(hidden_dim=24, lstm_layers=2, mlp_layers=0, backbone="mlp")
        teacher = make_agent(busy_env.single_observation_space, busy_env.single_action_space, [], "cpu", config)
        with torch.no_grad():
            teacher.policy_head.output.weight.mul_(200)  # a policy far from uniform
        return agent, teacher, make_experience_manager(busy_env, agent, plain.config, 4, teacher)

    return build


def test_the_divergence_is_kl_from_teacher_to_policy():
    teacher = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    logits = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log() + 3.0
    by_hand = (0.5 * torch.tensor(0.5 / 0.25).log() + 0.5 * torch.tensor(0.5 / 0.75).log()) / 2
    assert teacher_divergence(teacher, logits) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.parametrize("cpu_offload", [False, True])
def test_the_teacher_sees_whole_episodes_with_its_own_memory(taught, busy_env, cpu_offload):
    """The outputs of two epochs equal one forward pass over all their steps, across the boundary of the epochs."""
    agent, teacher, experience = taught(cpu_offload=cpu_offload)
    observations, episode_starts, probabilities, teacher_values = [], [], [], []
    for _ in range(2):
        rollout(experience, agent)
        steps = experience.steps_collected
        observations.append(padded_observations(experience)[:steps])
        episode_starts.append(experience.episode_starts[:steps].clone())
        probabilities.append(experience.teacher_probs.clone())
        teacher_values.append(experience.teacher_values.clone())
    with torch.no_grad():
        memory = teacher.initial_memory(experience.plan.agents)
        logits, values, _ = teacher(torch.cat(observations), memory, torch.cat(episode_starts))
    assert torch.cat(episode_starts)[1:].any()
    torch.testing.assert_close(torch.cat(probabilities), logits.softmax(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat(teacher_values), values, rtol=1e-4, atol=1e-5)


def test_a_teacher_does_not_change_the_rollout(taught, set_up):
    agent, _, experience = taught()
    other, plain = set_up()
    for policy, collected in ((agent, experience), (other, plain)):
        rollout(collected, policy)
    assert torch.equal(padded_observations(experience), padded_observations(plain))
    assert torch.equal(experience.log_probs, plain.log_probs)


def test_minibatches_hold_the_teachers_outputs_of_their_own_steps(taught):
    agent, teacher, experience = taught()
    rollout(experience, agent)
    compute_advantages(experience)
    for minibatch in experience.minibatches():
        starts_episode = minibatch.episode_starts[0]
        labels = minibatch.labels
        assert labels is not None
        with torch.no_grad():
            memory = teacher.initial_memory(minibatch.action_index.shape[1])
            logits, values, _ = teacher(minibatch.observations, memory, minibatch.episode_starts)
        probabilities = labels.probabilities[:, starts_episode]
        torch.testing.assert_close(probabilities, logits.softmax(-1)[:, starts_episode], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(labels.values[:, starts_episode], values[:, starts_episode])


@pytest.mark.parametrize(("coef", "value_coef"), [(0.5, 0.0), (0.0, 0.3)])
def test_coef_and_value_coef_weigh_their_terms(taught, coef, value_coef):
    agent, _, experience = taught()
    rollout(experience, agent)
    compute_advantages(experience)
    minibatch = next(experience.minibatches())
    plain = loss_terms(agent, minibatch, UpdateSettings(QUIET))
    terms = loss_terms(agent, minibatch, UpdateSettings(QUIET, 1, coef, value_coef))
    assert terms["teacher_kl"] > 0.01
    added = coef * terms["teacher_kl"] + value_coef * terms["teacher_value_loss"]
    assert terms["loss"].item() == pytest.approx((plain["loss"] + added).item(), abs=1e-6)
    terms["loss"].backward()
    assert bool(agent.policy_head.output.weight.grad.any())
    grad = agent.value_head.output.weight.grad
    assert (grad is not None and bool(grad.any())) == bool(value_coef)


def test_the_policy_learns_to_imitate_the_teacher(taught):
    agent, _, experience = taught()
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=0.01))
    divergences = []
    for _ in range(6):
        rollout(experience, agent)
        divergences.append(update_policy(agent, optimizer, experience, UpdateSettings(QUIET, 3, 5.0))["teacher_kl"])
    assert divergences[-1] < 0.7 * divergences[0]


def test_without_a_teacher_its_statistics_are_absent(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    assert "teacher_kl" not in train_ppo(agent, make_optimizer(agent), experience)


def test_a_teacher_for_another_world_is_refused(set_up, busy_env):
    agent, experience = set_up()
    other = MettaGridEnv(busy_env.configs[0].override(observation_width=5))
    teacher = make_agent(
        other.single_observation_space, other.single_action_space, [], "cpu", AgentModelConfig(hidden_dim=8)
    )
    with pytest.raises(UsageError, match="observation_width differ"):
        make_experience_manager(busy_env, agent, experience.config, 4, teacher)


def test_the_coefficients_are_constant_then_annealed():
    config = KickstartingConfig(teacher="some.pt", hold_steps=100, anneal_steps=200)
    assert [config.share(step) for step in (0, 100, 200, 300, 400)] == [1, 1, 0.5, 0, 0]
    assert KickstartingConfig(teacher="some.pt", hold_steps=5).share(10**9) == 1
    assert KickstartingConfig(anneal_steps=10).share(0) == 0


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    return train_run_of(run_dir, "run.total_timesteps=512", "agent.hidden_dim=24").checkpoint


def train_run_of(run_dir: Path, *overrides: str, listener=ignore):
    return train_run(tiny_config(run_dir, *overrides), listener)


def test_a_run_resumes_bit_identically_without_the_teachers_file(teacher_path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pt"
    mine.write_bytes(teacher_path.read_bytes())
    settings = [f"kickstarting.teacher='{mine}'", "kickstarting.hold_steps=1024", "kickstarting.anneal_steps=2048"]
    train_run_of(tmp_path / "straight", *settings)
    train_run_of(tmp_path / "stopped", *settings, listener=Recorder(2, interrupt))
    mine.unlink()
    assert (tmp_path / "stopped" / "checkpoints" / teacher_file("")).exists()
    resume_run(tmp_path / "stopped", Recorder(7, interrupt))  # the teacher's terms are annealed to 0 by then
    resume_run(tmp_path / "stopped", ignore)
    straight, stopped = metrics_of(tmp_path / "straight"), metrics_of(tmp_path / "stopped")
    assert straight == stopped
    assert_same_weights(weights_of(tmp_path / "straight", 8), weights_of(tmp_path / "stopped", 8))
    assert ["teacher_kl" in line["losses"] for line in straight] == [True] * 6 + [False] * 2


def test_each_setting_of_kickstarting_changes_the_run(teacher_path: Path, tmp_path: Path) -> None:
    base = [f"kickstarting.teacher='{teacher_path}'", "run.total_timesteps=1536"]
    runs = {
        "teacher": [],
        "coef": ["kickstarting.coef=0.5"],
        "label_share": ["kickstarting.label_share=0.5"],
        "value_coef": ["kickstarting.value_coef=1.0"],
        "anneal_steps": ["kickstarting.anneal_steps=4096"],
        "hold_steps": ["kickstarting.anneal_steps=4096", "kickstarting.hold_steps=512"],
        "none": ["kickstarting.teacher=''"],
    }
    ends = []
    for name, settings in runs.items():
        train_run_of(tmp_path / name, *base, *settings)
        ends.append(weights_of(tmp_path / name, 3)["policy_head.output.weight"])
    for index, end in enumerate(ends):
        assert not any(torch.equal(end, other) for other in ends[index + 1 :])


def test_a_missing_or_unfit_teacher_is_refused_before_anything_is_written(tmp_path: Path, teacher_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kickstarting\.teacher  .*gone\.pt does not exist"):
        train_run_of(tmp_path / "run", f"kickstarting.teacher='{tmp_path / 'gone.pt'}'")
    walk = "env.actions=[{ type = 'move', key = 'walk' }]"
    with pytest.raises(ConfigError, match="does not fit this agent: none of the policy's actions"):
        train_run_of(tmp_path / "run", f"kickstarting.teacher='{teacher_path}'", walk)
    assert not (tmp_path / "run").exists()


def test_the_config_in_the_run_directory_names_the_teacher_in_full(teacher_path: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(teacher_path.parent)
    train_run_of(tmp_path / "run", f"kickstarting.teacher='{teacher_path.name}'", "run.total_timesteps=512")
    assert f'teacher = "{teacher_path}"' in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
