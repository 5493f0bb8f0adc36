"""Policies with `agent.mask_actions`: what they sample, what they learn, and that every room gives them masks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rl_fixtures import padded_observations
from tiny_runs import (
    TINY,
    Recorder,
    assert_same_weights,
    ignore,
    interrupt,
    metrics_of,
    only_learner,
    tiny_config,
    train_epoch,
    weights_of,
)
from typer.testing import CliRunner

from metta.agent.policy import MettaAgent, Policy, make_agent
from metta.api import RandomPolicy, ScriptedPolicy, load_config, load_policy, resume_run, save_checkpoint, train_run
from metta.config.agent import AgentModelConfig
from metta.config.self_play import SelfPlayConfig
from metta.config.training import ExperienceConfig, OptimizerConfig, PPOConfig
from metta.errors import UsageError
from metta.evaluation.evaluate import evaluate
from metta.evaluation.match import play_match
from metta.replay.episode_player import EpisodePlayer
from metta.rl.advantages import compute_advantages
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.experience import Experience, make_experience_manager
from metta.rl.frozen_policies.kickstarting import among_allowed
from metta.rl.frozen_policies.self_play import FrozenPolicy, OpponentPool
from metta.rl.losses import teacher_divergence
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, loss_terms, train_ppo, update_policy
from metta.rl.rollout import rollout
from metta.run.training_run import TrainingRun
from metta.world.env import MettaGridEnv
from metta_cli.main import app

MASKED = "agent.mask_actions=true"

PRESETS: dict[str, dict[str, Any]] = {
    "quickstart": {"backbone": "mlp", "egocentric": True},
    "simple": {"backbone": "attention"},
    "hearts": {"backbone": "mlp", "forward_lstm": False},
    "arena_small": {"backbone": "cnn", "egocentric": True},
    "object_use": {"backbone": "mlp", "dtypes_fp16": True},
    "predator_prey": {"backbone": "mlp"},
}
"""preset -> settings of its agent"""


def opinionated(env: MettaGridEnv, seed: int = 1, **settings: Any) -> MettaAgent:
    """An agent whose policy is far from uniform, so that it would often take actions that fail."""
    torch.manual_seed(seed)
    config = AgentModelConfig(**{"hidden_dim": 16, "backbone": "mlp", "mask_actions": True} | settings)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    with torch.no_grad():
        agent.policy_head.output.weight.mul_(200)
    return agent


def is_allowed(masks: torch.Tensor, action_index: torch.Tensor) -> torch.Tensor:
    return masks.gather(-1, action_index.unsqueeze(-1)).squeeze(-1)


def replayed_masks(experience: Experience, env: MettaGridEnv, seed: int) -> Iterator[np.ndarray]:
    """The masks before each step of a rollout, of equal worlds in which the same actions are taken."""
    worlds = MettaGridEnv(env.configs, experience.plan.num_worlds, seed)
    worlds.reset()
    flat_actions = np.array(env.spec.flat_actions)
    for t in range(experience.steps_collected):
        yield worlds.action_masks()
        worlds.step(flat_actions[experience.action_index[t].numpy()])


@pytest.mark.parametrize("preset", PRESETS)
def test_masked_actions_are_never_sampled_and_the_first_ratios_are_one(preset: str) -> None:
    env = MettaGridEnv(load_config(preset).env, seed=5)
    agent = opinionated(env, **PRESETS[preset])
    plan = {"batch_size": 64 * 96, "minibatch_size": 64 * 24, "bptt_horizon": 24}
    config = ExperienceConfig(**plan, forward_pass_minibatch_target_size=64, async_factor=1)
    experience = make_experience_manager(env, agent, config, 5)
    rollout(experience, agent)
    masks = experience.action_masks
    assert masks is not None
    assert bool(is_allowed(masks, experience.action_index).all())
    for t, expected in enumerate(replayed_masks(experience, env, 5)):
        np.testing.assert_array_equal(masks[t], expected)
    preferred = agent(
        experience.observations.at(0), agent.initial_memory(masks.shape[1]), experience.episode_starts[:1]
    )
    assert not bool(is_allowed(masks[:1], preferred[0].argmax(-1)).all()), "the masks of this test never matter"
    compute_advantages(experience)
    tolerance = 0.2 if agent.config.dtypes_fp16 else 1e-3
    for minibatch in experience.minibatches():
        terms = loss_terms(agent, minibatch, UpdateSettings(PPOConfig()))
        assert abs(float(terms["approx_kl"])) < tolerance
        assert all(bool(term.isfinite()) for term in terms.values())
        entropy = minibatch.action_masks.sum(-1).log().mean()
        assert float(terms["entropy"]) <= float(entropy) + 1e-5


def test_an_update_never_makes_masked_actions_possible(set_up) -> None:
    agent, experience = set_up(agent={"mask_actions": True})
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=0.02))
    for _ in range(4):
        rollout(experience, agent)
        assert bool(is_allowed(experience.action_masks, experience.action_index).all())
        stats = train_ppo(agent, optimizer, experience, PPOConfig(ent_coef=0.1), update_epochs=3)
        assert all(np.isfinite(value) for value in stats.values())


def test_masks_are_computed_by_the_thread_that_steps_the_worlds(set_up, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, experience = set_up(agent={"mask_actions": True}, async_factor=2)
    threads, compute = [], MettaGridEnv.action_masks

    def watched(env: MettaGridEnv) -> np.ndarray:
        threads.append(threading.current_thread().name)
        return compute(env)

    monkeypatch.setattr(MettaGridEnv, "action_masks", watched)
    rollout(experience, agent)
    assert len(threads) == 2 * experience.steps_collected
    assert all(name.startswith("simulator") for name in threads)


def test_without_mask_actions_no_masks_are_computed(set_up, busy_env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MettaGridEnv, "action_masks", lambda env: pytest.fail("masks are computed"))
    agent, experience = set_up()
    rollout(experience, agent)
    compute_advantages(experience)
    assert next(experience.minibatches()).action_masks is None
    for policy in (agent, RandomPolicy(busy_env.spec), ScriptedPolicy(busy_env.config)):
        evaluate(policy, busy_env, 2)
        EpisodePlayer(policy, busy_env.config).step()


def test_an_experience_for_the_other_setting_is_refused(set_up) -> None:
    masked, of_masked = set_up(agent={"mask_actions": True})
    plain, of_plain = set_up()
    for experience, agent in ((of_plain, masked), (of_masked, plain)):
        with pytest.raises(
            UsageError, match="made for another agent, whose mask_actions differ; make one for this agent"
        ):
            rollout(experience, agent)


def test_the_random_policy_samples_evenly_among_allowed_actions(busy_env) -> None:
    policy = RandomPolicy(busy_env.spec)
    actions = len(busy_env.spec.flat_actions)
    masks = torch.zeros(6000, actions, dtype=torch.bool)
    masks[:, [1, 4, 5]] = True
    observations = torch.zeros(6000, 1, 3)
    output = policy.act(observations, policy.initial_memory(6000), None, torch.manual_seed(0), action_masks=masks)
    counts = torch.bincount(output.action_index, minlength=actions)
    assert counts.sum() == counts[[1, 4, 5]].sum()
    torch.testing.assert_close(counts[[1, 4, 5]] / 6000, torch.full((3,), 1 / 3), rtol=0, atol=0.03)
    torch.testing.assert_close(output.log_probs, torch.full((6000,), 1 / 3).log())


# -- every room that lets policies act ---------------------------------------------------------------------------------


class Watched:
    """A policy that checks the masks that it gets against those that environments computed last."""

    def __init__(self, policy: Policy, computed: list[np.ndarray]):
        self.policy, self.computed = policy, computed
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def act(self, observations, memory, episode_starts=None, generator=None, deterministic=False, action_masks=None):
        self.calls += 1
        assert (action_masks is not None) == self.policy.uses_action_masks
        output = self.policy.act(observations, memory, episode_starts, generator, deterministic, action_masks)
        if action_masks is not None:
            rows = {row.tobytes() for row in self.computed[-1]}
            assert {row.tobytes() for row in action_masks.numpy()} <= rows
            assert bool(is_allowed(action_masks, output.action_index).all())
        return output


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The masks that environments compute."""
    masks, compute = [], MettaGridEnv.action_masks

    def watched(env: MettaGridEnv) -> np.ndarray:
        masks.append(compute(env))
        return masks[-1]

    monkeypatch.setattr(MettaGridEnv, "action_masks", watched)
    return masks


def test_evaluations_matches_and_players_give_masks_to_policies_that_use_them(computed: list[np.ndarray]) -> None:
    env = MettaGridEnv(tiny_config("").env, seed=2)
    masked, other = Watched(opinionated(env), computed), Watched(opinionated(env, 2), computed)
    plain = Watched(opinionated(env, 3, mask_actions=False), computed)
    steps = env.config.game.max_steps
    for deterministic in (False, True):
        evaluate(masked, env, 3, deterministic=deterministic)
    assert (masked.calls, len(computed)) == (2 * steps, 2 * steps)
    play_match(masked, other, env, 2)
    play_match(plain, masked, env, 2)
    assert len(computed) == masked.calls == 4 * steps  # once for both sides
    assert plain.calls == other.calls == steps
    player = EpisodePlayer(masked, env.config)
    for _ in range(steps):
        player.step({0: (0, 0)})
    player.start_episode(plain)
    player.step()


@pytest.fixture(scope="module")
def masked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "masked"
    settings = ("run.total_timesteps=1024", "simulation.evaluate_interval=1", "simulation.replay_interval=1")
    train_run(tiny_config(run_dir, MASKED, *settings), ignore)
    return run_dir


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "RUN"],
        ["eval", "RUN", "--against", "RUN"],
        ["eval", "random", "--against", "RUN", "--env", "quickstart"],
        ["eval", "RUN", "--env", "hearts"],
        ["eval", "RUN", "--suite", "navigation,arena_small"],
        ["replay", "RUN"],
    ],
    ids=" ".join,
)
def test_commands_let_the_policy_act_with_masks(
    command: list[str], masked_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in worlds with other objects and actions."""
    acted, act = [], MettaAgent.act

    def watched(agent: MettaAgent, *inputs: Any, **keywords: Any) -> Any:
        output = act(agent, *inputs, **keywords)
        masks = keywords.get("action_masks", inputs[5] if len(inputs) > 5 else None)
        acted.append(bool(is_allowed(masks, output.action_index).all()))
        return output

    monkeypatch.setattr(MettaAgent, "act", watched)
    monkeypatch.chdir(tmp_path)
    few = ["--episodes", "1"] if command[0] == "eval" else []
    words = [str(masked_run) if word == "RUN" else word for word in command]
    short = ["--set", "env.game.max_steps=20"] if "--env" in command else []
    ran = CliRunner().invoke(app, [*words, *few, *short])
    assert ran.exit_code == 0, ran.output
    assert acted
    assert all(acted)


def test_a_policy_of_another_world_takes_only_actions_that_it_knows_and_that_can_succeed(tmp_path: Path) -> None:
    """An action that the policy does not know has no probability, unless all that it knows are masked."""
    env = MettaGridEnv(load_config("hearts").env)
    save_checkpoint(opinionated(env), tmp_path)
    world = load_config("arena_small").env
    agent = load_policy(tmp_path / "checkpoint_000000.pt", env_config=world).agent
    assert agent.uses_action_masks
    known = {name for name, _, _ in env.config.action_table}
    is_known = torch.tensor([world.action_table[action][0] in known for action, _ in agent.spec.flat_actions])
    assert not bool(is_known.all())
    worlds = MettaGridEnv(world, 4, seed=0)
    observations, _ = worlds.reset()
    memory, generator = agent.initial_memory(worlds.agents), torch.Generator().manual_seed(0)
    for _ in range(40):
        masks = torch.from_numpy(worlds.action_masks())
        output = agent.act(torch.from_numpy(observations), memory, None, generator, action_masks=masks)
        memory = output.memory
        assert bool(is_allowed(masks, output.action_index).all())
        assert bool((is_known[output.action_index] | ~(masks & is_known).any(-1)).all())
        observations = worlds.step(output.actions.numpy())[0]


# -- self-play, teachers, curricula ------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner_masks", [False, True])
def test_opponents_act_with_the_masks_of_their_own_agents(learner_masks: bool, computed: list[np.ndarray]) -> None:
    """Learners and opponents with and without masks; sides change within the rollout, at the ends of episodes."""
    env = MettaGridEnv(tiny_config("").env, seed=3)
    masked = Watched(opinionated(env, 2), computed)
    plain = Watched(opinionated(env, 3, mask_actions=False), computed)
    pool = OpponentPool(
        SelfPlayConfig(policies=["some.pt"], share=0.5),
        [FrozenPolicy("given_000", masked), FrozenPolicy("given_001", plain)],
    )
    config = ExperienceConfig(
        batch_size=768, minibatch_size=384, bptt_horizon=24, forward_pass_minibatch_target_size=32, async_factor=1
    )
    agent = opinionated(env, mask_actions=learner_masks)
    experience = make_experience_manager(env, agent, config, 4, opponents=pool)
    (batch,) = experience.agent_batches
    played, step = [], batch.env.step

    def recorded(actions: np.ndarray, out: Any = None) -> Any:
        sides = batch.opponents
        plays_masked = np.repeat(sides.policy_numbers == -1, sides.count)  # the number of given_000
        played.append((actions.copy(), batch.learner_rows, batch.opponent_rows[plays_masked]))
        return step(actions, out=out)

    batch.env.step = recorded
    rollout(experience, agent)
    assert masked.calls
    assert plain.calls
    assert len({tuple(rows) for _, rows, _ in played}) > 1, "the sides never changed"
    worlds = MettaGridEnv(env.configs, experience.plan.num_worlds, 4)
    worlds.reset()
    index_of = {action: index for index, action in enumerate(env.spec.flat_actions)}
    for t, (actions, learners, masked_opponents) in enumerate(played):
        masks = worlds.action_masks()
        assert masks[masked_opponents, [index_of[tuple(action)] for action in actions[masked_opponents].tolist()]].all()
        if learner_masks:
            np.testing.assert_array_equal(experience.action_masks[t], masks[learners])
            taken = [index_of[tuple(action)] for action in actions[learners].tolist()]
            assert masks[learners, taken].all()
        worlds.step(actions)


@pytest.mark.parametrize("masked", [(True, False), (False, True), (True, True)], ids=str)
def test_a_teacher_is_compared_over_the_actions_that_the_student_may_take(masked: tuple[bool, bool], busy_env) -> None:
    agent = opinionated(busy_env, mask_actions=masked[0])
    teacher = opinionated(busy_env, 2, mask_actions=masked[1])
    config = ExperienceConfig(
        batch_size=512, minibatch_size=128, bptt_horizon=8, forward_pass_minibatch_target_size=16, async_factor=2
    )
    experience = make_experience_manager(busy_env, agent, config, 4, teacher)
    rollout(experience, agent)
    masks = torch.from_numpy(np.stack(list(replayed_masks(experience, busy_env, 4))))
    with torch.no_grad():
        memory = teacher.initial_memory(experience.plan.agents)
        logits, _, _ = teacher(padded_observations(experience)[:-1], memory, experience.episode_starts[:-1])
    expected = logits.masked_fill(~masks, float("-inf")).softmax(-1)
    torch.testing.assert_close(experience.teacher_probs, expected, rtol=1e-3, atol=1e-4)
    optimizer = make_optimizer(agent, OptimizerConfig(learning_rate=0.01))
    stats = update_policy(agent, optimizer, experience, UpdateSettings(PPOConfig(), 2, 1.0, 0.5))
    assert 0 < stats["teacher_kl"] < 100
    assert all(np.isfinite(value) for value in stats.values())
    experience.remove_teacher()
    assert experience.role.uses_action_masks == masked[0]
    rollout(experience, agent)


def test_a_teacher_that_takes_only_masked_actions_teaches_nothing() -> None:
    teacher = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    allowed = among_allowed(teacher, torch.tensor([[False, False, True], [True, True, False]]))
    torch.testing.assert_close(allowed, torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.6, 0.0]]))
    assert float(teacher_divergence(allowed[:1], torch.zeros(1, 3))) == 0


RUNS: dict[str, Callable[[Path], list[str]]] = {
    "self-play": lambda given: ["self_play.share=0.5", "self_play.snapshot_interval=2", "env.game.max_steps=50"],
    "against a masked policy": lambda given: ["self_play.share=0.5", f"self_play.policies=['{given}']"],
    "with a masked teacher": lambda given: [f"kickstarting.teacher='{given}'"],
    "with a scripted teacher": lambda given: ["kickstarting.teacher='scripted'"],
    "V-trace, priorities": lambda given: ["vtrace.enabled=true", "prioritized_sampling.enabled=true"],
    "scenes": lambda given: [f"curriculum.scenes=['{given.parents[2]}/one.toml', '{given.parents[2]}/two.toml']"],
}
"""settings beside masks, given a policy"""


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_with_masks_resumes_bit_identically(kind: str, masked_run: Path, tmp_path: Path) -> None:
    given = masked_run / "checkpoints" / "checkpoint_000002.pt"
    for name, actions in (("one", ["noop", "move", "rotate", "get_items", "attack"]), ("two", ["move", "rotate"])):
        tables = "".join(f'[[env.actions]]\ntype = "{action}"\nkey = "{action}"\n' for action in actions)
        world = TINY[TINY.index("[env.game]") : TINY.index("[agent]")]
        (masked_run.parent / f"{name}.toml").write_text(world + tables)
    settings = [MASKED, "run.total_timesteps=2560", *RUNS[kind](given)]
    train_run(tiny_config(tmp_path / "straight", *settings), ignore)
    train_run(tiny_config(tmp_path / "stopped", *settings), Recorder(2, interrupt))
    resume_run(tmp_path / "stopped", ignore)
    assert metrics_of(tmp_path / "straight") == metrics_of(tmp_path / "stopped")
    assert_same_weights(weights_of(tmp_path / "straight", 5), weights_of(tmp_path / "stopped", 5))


def test_a_run_whose_only_masked_policy_is_its_teacher_or_opponent_computes_masks(masked_run: Path) -> None:
    given = masked_run / "checkpoints" / "checkpoint_000002.pt"
    for settings in (["self_play.share=0.5", f"self_play.policies=['{given}']"], [f"kickstarting.teacher='{given}'"]):
        config = tiny_config("", *settings)
        run = TrainingRun(config, Curriculum.from_config(config))
        train_epoch(run)
        assert only_learner(run).experience.action_masks is None
        assert only_learner(run).experience.agent_batches[0].action_masks is not None
        run.close()
