"""Teachers without weights: the scripted policy and registered policies label the steps of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_fixtures import padded_observations
from tiny_runs import (
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

from metta.agent.policy import make_agent
from metta.api import (
    POLICIES,
    Memory,
    PolicyOutput,
    ScriptedPolicy,
    evaluate,
    make_policy,
    resume_run,
    teacher_policies,
    train_run,
)
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.training import ExperienceConfig, KickstartingConfig, OptimizerConfig, PPOConfig
from metta.errors import ConfigError, UsageError
from metta.rl.advantages import compute_advantages
from metta.rl.experience import make_experience_manager
from metta.rl.frozen_policies.kickstarting import labeled_agents
from metta.rl.losses import teacher_divergence
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, loss_terms, update_policy
from metta.rl.rollout import rollout
from metta.run.learners.policy_files import teacher_file
from metta.world.env import MettaGridEnv

SIZES = ExperienceConfig(
    batch_size=1024, minibatch_size=256, bptt_horizon=16, async_factor=2, forward_pass_minibatch_target_size=16
)
GAME = {"num_agents": 2, "width": 9, "height": 9, "max_steps": 24, "time_punishment": 0.0}
ORE = EnvConfig(game={**GAME, "ore_red_reward": 1.0}, map_builder={"border_width": 1, "objects": {"mine_red": 3}})
HEART = EnvConfig(game=GAME, map_builder={"border_width": 1, "objects": {"altar": 3}})
"""Two tasks in which different objects are worth something."""


class Counter:
    """A policy that takes an action by the number of steps in the episode, and then by chance."""

    uses_action_masks = False

    def __init__(self, env_config: EnvConfig):
        self.spec = env_config.spec
        self.actions = torch.tensor(self.spec.flat_actions, dtype=torch.int32)

    def initial_memory(self, agents: int) -> Memory:
        return Memory({"steps": torch.zeros(1, agents, dtype=torch.int64)})

    def act(self, observations, memory, episode_starts=None, generator=None, deterministic=False, action_masks=None):
        if episode_starts is not None:
            memory = memory.cleared(episode_starts)
        steps = memory.tensors["steps"]
        index = (steps[0] + torch.randint(2, steps[0].shape, generator=generator)) % len(self.actions)
        zeros = torch.zeros(len(observations))
        return PolicyOutput(self.actions[index], index, zeros, zeros, Memory({"steps": steps + 1}))


@pytest.fixture
def counter() -> Iterator[str]:
    """The name under which `Counter` is registered for a test."""
    POLICIES.register("counter")(Counter)
    yield "counter"
    del POLICIES._registered["counter"]


def set_up(*env_configs: EnvConfig, teacher=None, label_share: float = 1.0, seed: int = 5):
    env = MettaGridEnv(list(env_configs), seed=seed)
    torch.manual_seed(1)
    config = AgentModelConfig(hidden_dim=16, mlp_layers=1, backbone="mlp")
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    return agent, make_experience_manager(env, agent, SIZES, teacher=teacher, label_share=label_share)


def test_divergence_and_gradient_are_finite_where_the_teacher_never_acts():
    """Also if the policy's own probability is exactly 0 there, such as that of a masked action."""
    teacher = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 0]])
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [3.0, 3.0, -torch.inf], [0.0, 0.0, -torch.inf]], requires_grad=True)
    divergence = teacher_divergence(teacher, logits)
    assert divergence.item() == pytest.approx(np.log(1 + np.e) / 3, rel=1e-5)  # equal policies and no label: 0
    divergence.backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert not bool(logits.grad[1:].any())


def test_labels_are_the_distribution_of_the_script_and_a_choice_without_logits(counter):
    for teacher in ("scripted", counter):
        agent, experience = set_up(ORE, teacher=make_policy(teacher, ORE))
        rollout(experience, agent)
        labels = experience.teacher_probs
        torch.testing.assert_close(labels.sum(-1), torch.ones(labels.shape[:2]))
        is_one_hot = (labels.max(-1).values == 1).float().mean()
        assert is_one_hot == 1 if teacher == counter else 0.3 < is_one_hot < 1
    starts = experience.episode_starts[:-1]
    assert set(labels.argmax(-1)[starts].tolist()) == {0, 1}


@pytest.mark.parametrize("teacher", ["scripted", "counter"])
def test_a_teacher_does_not_change_what_the_student_does(teacher, counter):
    agent, experience = set_up(ORE, teacher=make_policy(teacher, ORE))
    other, plain = set_up(ORE)
    for _ in range(2):
        rollout(experience, agent)
        rollout(plain, other)
    assert torch.equal(padded_observations(experience), padded_observations(plain))
    assert torch.equal(experience.log_probs, plain.log_probs)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_labeled_agents_are_a_share_of_all_and_of_each_position_in_a_world(share):
    labeled = labeled_agents(2400, share)
    assert labeled.float().mean() == pytest.approx(share, abs=0.002)
    for position in range(6):
        assert labeled[position::6].float().mean() == pytest.approx(share, abs=0.03)
    assert labeled_agents(3, share)[0]


def test_with_a_label_share_the_labels_of_the_same_agents_are_the_same_and_the_loss_is_their_mean():
    agent, whole = set_up(ORE, teacher=ScriptedPolicy(ORE))
    script, asked = ScriptedPolicy(ORE), []
    act = script.act
    script.act = lambda *inputs, **named: asked.append(len(inputs[0])) or act(*inputs, **named)
    _, part = set_up(ORE, teacher=script, label_share=0.3)
    for experience in (whole, part):
        rollout(experience, agent)
        compute_advantages(experience)
    is_labeled = labeled_agents(part.plan.agents, 0.3)
    assert 0 < int(is_labeled.sum()) < part.plan.agents
    assert sum(asked) == int(is_labeled.sum()) * part.steps_collected
    torch.testing.assert_close(part.teacher_probs[:, is_labeled], whole.teacher_probs[:, is_labeled])
    assert not part.teacher_probs[:, ~is_labeled].any()
    settings = UpdateSettings(PPOConfig(norm_adv=False), teacher_coef=1.0)
    sums = []
    for experience in (whole, part):
        terms = [loss_terms(agent, minibatch, settings) for minibatch in experience.minibatches()]
        sums.append(float(torch.stack([term["teacher_kl"] for term in terms]).mean()))
    kept = whole.label_weights.clone()
    whole.label_weights[:] = is_labeled / is_labeled.float().mean()
    terms = [loss_terms(agent, minibatch, settings) for minibatch in whole.minibatches()]
    whole.label_weights = kept
    assert sums[1] == pytest.approx(float(torch.stack([term["teacher_kl"] for term in terms]).mean()), rel=1e-4)
    assert sums[1] == pytest.approx(sums[0], rel=0.5)


def test_each_task_of_a_curriculum_has_its_own_script():
    """The labels equal those of the script of each world's task, over episodes that change the task."""
    agent, experience = set_up(ORE, HEART, teacher=[ScriptedPolicy(ORE), ScriptedPolicy(HEART)])
    rollout(experience, agent)
    tasks = [batch.env.tasks for batch in experience.agent_batches]
    assert {0, 1} <= set(np.concatenate(tasks).tolist())
    scripts = [ScriptedPolicy(ORE), ScriptedPolicy(HEART)]
    agents = experience.plan.agents
    of_script = []
    for script in scripts:
        memory, labels = script.initial_memory(agents), []
        for t in range(experience.steps_collected):
            starts = experience.episode_starts[t]
            output = script.act(experience.observations.padded(t), memory, starts)
            memory = output.memory
            labels.append(output.logits.softmax(-1))
        of_script.append(torch.stack(labels))
    distances = [(experience.teacher_probs - labels).abs().amax(-1) for labels in of_script]
    assert bool((torch.minimum(*distances) < 1e-6).all())
    differ = (of_script[0] - of_script[1]).abs().amax(-1) > 0.4
    assert bool((distances[0][differ] > 0.1).any())
    assert bool((distances[1][differ] > 0.1).any())
    # at the end, the task of each world is known
    task_of_agent = np.concatenate(tasks).repeat(ORE.game.num_agents)
    for task, distance in enumerate(distances):
        assert bool((distance[-1, torch.from_numpy(task_of_agent == task)] < 1e-6).all())


@pytest.mark.parametrize(("scripted_task", "has_values"), [(None, True), (0, False), (1, False)])
def test_values_are_learned_only_from_networks(scripted_task: int | None, has_values: bool) -> None:
    network, _ = set_up(ORE, HEART)
    scripts = [ScriptedPolicy(ORE), ScriptedPolicy(HEART)]
    teacher = [scripts[task] if task == scripted_task else network for task in (0, 1)]
    agent, experience = set_up(ORE, HEART, teacher=teacher)
    rollout(experience, agent)
    compute_advantages(experience)
    assert all((minibatch.labels.values is not None) == has_values for minibatch in experience.minibatches())


def test_tasks_that_differ_in_what_the_script_does_not_use_share_one_script():
    other = ORE.override(max_steps=30)
    assert ScriptedPolicy(other) == ScriptedPolicy(ORE) != ScriptedPolicy(HEART)
    _, experience = set_up(ORE, other, HEART, teacher=[ScriptedPolicy(each) for each in (ORE, other, HEART)])
    assert [len(batch.teacher.policies) for batch in experience.agent_batches] == [2, 2]


@pytest.mark.parametrize("teacher", ["scripted", "counter"])
@pytest.mark.parametrize("stop", [interrupt, kill])
def test_a_run_resumes_bit_identically_with_the_teachers_memory(teacher, stop, counter, tmp_path: Path) -> None:
    settings = [
        f"kickstarting.teacher='{teacher}'",
        "kickstarting.hold_steps=1024",
        "kickstarting.anneal_steps=2048",
        "kickstarting.label_share=0.5",
        "checkpoint.checkpoint_interval=1",
    ]
    train_run(tiny_config(tmp_path / "straight", *settings), ignore)
    listener = Recorder(3, stop)
    if stop is kill:
        with pytest.raises(Killed):
            train_run(tiny_config(tmp_path / "stopped", *settings), listener)
    else:
        train_run(tiny_config(tmp_path / "stopped", *settings), listener)
    assert f'teacher = "{teacher}"' in (tmp_path / "stopped" / "config.toml").read_text(encoding="utf-8")
    resume_run(tmp_path / "stopped", Recorder(5, interrupt))
    resume_run(tmp_path / "stopped", ignore)
    assert not (tmp_path / "stopped" / "checkpoints" / teacher_file("")).exists()
    straight, stopped = metrics_of(tmp_path / "straight"), metrics_of(tmp_path / "stopped")
    assert straight == stopped
    assert_same_weights(weights_of(tmp_path / "straight", 8), weights_of(tmp_path / "stopped", 8))
    assert ["teacher_kl" in line["losses"] for line in straight] == [True] * 6 + [False] * 2
    assert not any("teacher_value_loss" in line["losses"] for line in straight)


def test_a_registered_teacher_that_is_gone_is_named_on_resume(counter, tmp_path: Path) -> None:
    train_run(tiny_config(tmp_path / "run", "kickstarting.teacher='counter'"), Recorder(1, interrupt))
    del POLICIES._registered["counter"]
    try:
        with pytest.raises(UsageError, match='the policy "counter", the teacher of this run, is not installed'):
            resume_run(tmp_path / "run", ignore)
    finally:
        POLICIES.register("counter")(Counter)


def test_a_policy_that_is_none_and_one_that_cannot_play_are_refused(tmp_path: Path) -> None:
    POLICIES.register("nothing")(lambda env_config: 3)
    try:
        with pytest.raises(UsageError, match=r"lacks spec, uses_action_masks, initial_memory, act"):
            make_policy("nothing", ORE)
    finally:
        del POLICIES._registered["nothing"]
    still = EnvConfig(game=GAME, actions=[{"type": "move", "key": "walk"}])
    with pytest.raises(ConfigError, match="in the task slow, the scripted policy cannot play in this environment"):
        teacher_policies("scripted", {"fast": ORE, "slow": still})
    with pytest.raises(ConfigError, match='does not exist, here or as a run in runs/; did you mean "scripted"'):
        train_run(tiny_config(tmp_path / "run", "kickstarting.teacher='scriptd'"), ignore)
    assert not (tmp_path / "run").exists()


def test_values_need_a_checkpoint_as_teacher():
    with pytest.raises(ValueError, match='needs a checkpoint as teacher; the policy "scripted" has no values'):
        KickstartingConfig(teacher="scripted", value_coef=0.5)
    assert KickstartingConfig(teacher="mine.pt", value_coef=0.5).value_coef == 0.5


def test_the_policy_reaches_the_scripts_reward_by_its_labels_alone():
    """Without PPO: the student acts, the script labels, and after 40,000 agent steps it earns nearly as much."""
    env = MettaGridEnv(ORE, seed=3)
    torch.manual_seed(0)
    config = AgentModelConfig(hidden_dim=64, mlp_layers=1, backbone="mlp")
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    sizes = SIZES.model_copy(update={"async_factor": 1, "forward_pass_minibatch_target_size": 64})
    experience = make_experience_manager(env, agent, sizes, teacher=ScriptedPolicy(ORE))
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=4e-3))
    before = evaluate(agent, env, 40).mean_reward
    for _ in range(40):
        rollout(experience, agent)
        update_policy(agent, optimizer, experience, UpdateSettings(PPOConfig(ent_coef=0, vf_coef=0), 2, 10.0))
    scripted = evaluate(ScriptedPolicy(ORE), env, 40).mean_reward
    after = evaluate(agent, env, 40).mean_reward
    assert before < 0.3 * scripted
    assert after > 0.85 * scripted
