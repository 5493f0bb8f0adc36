"""Inputs that are refused, and that a refusal changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import Recorder, ignore, tiny_config
from typer.testing import CliRunner

from metta.api import (
    AgentModelConfig,
    ExperienceConfig,
    Notice,
    Override,
    PPOConfig,
    TrainingState,
    compute_advantages,
    compute_gradient_stats,
    eval_policy,
    load_checkpoint,
    make_agent,
    make_environment,
    make_experience_manager,
    make_optimizer,
    resume_run,
    rollout,
    save_checkpoint,
    train_ppo,
    train_run,
)
from metta.config.batch_plan import plan_batch
from metta.errors import MettaError, UsageError
from metta.rl.curricula.curriculum import Curriculum
from metta.run.resume.restore_run import restore_run
from metta.run.training_run import TrainingRun
from metta_cli.main import app


def agent_for(env):
    spaces = env.single_observation_space, env.single_action_space
    return make_agent(*spaces, global_features=[], device="cpu", config=AgentModelConfig(hidden_dim=8, backbone="mlp"))


@pytest.mark.parametrize("override", ["run.device=cuda", "logging.wandb=true", "checkpoint.checkpoint_dir=elsewhere"])
def test_an_override_that_a_run_cannot_resume_with_is_not_kept(tmp_path: Path, monkeypatch, override: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("metta.run.train.check_loggers", refuse_wandb)
    monkeypatch.chdir(tmp_path)
    train_run(tiny_config(tmp_path / "run", "run.total_timesteps=512"), ignore)
    before = (tmp_path / "run" / "config.toml").read_bytes()
    with pytest.raises(MettaError):
        resume_run(tmp_path / "run", ignore, [Override.parse(override)])
    assert (tmp_path / "run" / "config.toml").read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()
    assert resume_run(tmp_path / "run", ignore, [Override.parse("run.total_timesteps=1024")]).agent_step == 1024
    assert "total_timesteps = 1024" in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")


def refuse_wandb(config) -> None:
    if config.wandb:
        raise UsageError("no key")


def test_a_second_run_is_refused_wherever_the_first_keeps_its_checkpoints(tmp_path: Path) -> None:
    elsewhere = f"checkpoint.checkpoint_dir='{tmp_path / 'kept'}'"
    train_run(tiny_config(tmp_path / "first", "run.total_timesteps=512", elsewhere), ignore)
    metrics = (tmp_path / "first" / "metrics.jsonl").read_bytes()
    with pytest.raises(UsageError, match="first already contains a run"):
        train_run(tiny_config(tmp_path / "first"), ignore)
    assert (tmp_path / "first" / "metrics.jsonl").read_bytes() == metrics
    with pytest.raises(UsageError, match="kept contains the checkpoints of another run"):
        train_run(tiny_config(tmp_path / "second", elsewhere), ignore)
    assert not (tmp_path / "second").exists()


def test_a_world_whose_episodes_never_end_is_trained_and_not_evaluated(tmp_path: Path) -> None:
    endless = ["env.game.max_steps=0", "env.game.episode_lifetime=0", "simulation.evaluate_interval=1"]
    heard = Recorder()
    ended = train_run(tiny_config(tmp_path / "run", "run.total_timesteps=1024", *endless), heard)
    assert ended.reason == "finished"
    assert any(isinstance(event, Notice) and "never end" in event.text for event in heard.events)


def test_a_policy_does_not_play_in_an_environment_with_other_spaces() -> None:
    env = make_environment(num_agents=2, width=9, height=9)
    agent = agent_for(env)
    actions = [{"type": "noop", "key": "noop"}]
    for other in ({"actions": actions}, {"observation_width": 9}, {"num_observation_tokens": 50}):
        world = make_environment(num_agents=2, width=9, height=9, **other)
        with pytest.raises(UsageError, match="made for another environment"):
            eval_policy(agent, world, num_episodes=1)
        with pytest.raises(UsageError, match="made for another environment"):
            make_experience_manager(world, agent, ExperienceConfig(batch_size=64, minibatch_size=64, bptt_horizon=8))


def test_a_type_id_with_another_meaning_is_another_environment() -> None:
    rock, lava = ([{"type": "wall", "name": name, "type_id": 20}] for name in ("rock", "lava"))
    agent = agent_for(make_environment(num_agents=2, width=9, height=9, objects=rock))
    with pytest.raises(UsageError, match="object_type_names"):
        eval_policy(agent, make_environment(num_agents=2, width=9, height=9, objects=lava), num_episodes=1)


def test_gradients_are_zero_where_no_update_was_made() -> None:
    env = make_environment(num_agents=2, width=9, height=9)
    agent = agent_for(env)
    optimizer = make_optimizer(agent)
    config = ExperienceConfig(batch_size=64, minibatch_size=32, bptt_horizon=8)
    experience = make_experience_manager(env, agent, config)
    rollout(experience, agent)
    train_ppo(agent, optimizer, experience)
    assert compute_gradient_stats(agent)["grad_norm_max"] > 0
    stopped = train_ppo(agent, optimizer, experience, PPOConfig(target_kl=1e-12))
    assert stopped["updates"] == 0
    assert compute_gradient_stats(agent)["grad_norm_max"] == 0


def test_a_plan_has_no_more_minibatches_than_segments() -> None:
    plan = plan_batch(ExperienceConfig(batch_size=512, minibatch_size=8, bptt_horizon=8), num_agents=5)
    assert plan.num_minibatches == plan.segments == 60


def test_scenes_continue_to_take_turns_in_replays(tmp_path: Path) -> None:
    run = TrainingRun(tiny_config(), Curriculum.from_config(tiny_config()))
    run.record(tmp_path)
    run.save(tmp_path)
    state = TrainingState.load(str(tmp_path / "trainer_state_000000.pt"))
    assert restore_run(tiny_config(), state, tmp_path).state().extra_args["episodes_recorded"] == 1


def test_update_epochs_must_be_at_least_1() -> None:
    env = make_environment(num_agents=2, width=9, height=9)
    agent = agent_for(env)
    config = ExperienceConfig(batch_size=64, minibatch_size=64, bptt_horizon=8)
    experience = make_experience_manager(env, agent, config)
    with pytest.raises(UsageError, match="update_epochs"):
        train_ppo(agent, make_optimizer(agent), experience, update_epochs=0)


def test_metadata_may_have_any_plain_keys(tmp_path: Path) -> None:
    agent = agent_for(make_environment(num_agents=2, width=9, height=9))
    save_checkpoint(agent, tmp_path, 2, {7: "x"})
    assert load_checkpoint(agent, tmp_path / "checkpoint_000002.pt") == {7: "x", "epoch": 2}


def test_a_dictionary_is_no_env_config() -> None:
    with pytest.raises(UsageError, match=r"must be an EnvConfig; got dict\. Create one with EnvConfig\.model_validate"):
        make_environment({"game": {"num_agents": 2}})


@pytest.mark.parametrize("wrong", [{"gamma": 1.5}, {"gamma": -0.1}, {"gae_lambda": float("nan")}])
def test_discounts_are_from_0_to_1(wrong: dict) -> None:
    env = make_environment(num_agents=2, width=9, height=9)
    agent = agent_for(env)
    experience = make_experience_manager(env, agent, ExperienceConfig(batch_size=64, minibatch_size=64, bptt_horizon=8))
    rollout(experience, agent)
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be from 0 to 1; got"):
        compute_advantages(experience, **wrong)


def test_no_epoch_is_negative(tmp_path: Path) -> None:
    agent = agent_for(make_environment(num_agents=2, width=9, height=9))
    with pytest.raises(UsageError, match="epoch must be at least 0; got -1"):
        save_checkpoint(agent, tmp_path / "new", -1)
    assert not (tmp_path / "new").exists()


def test_check_refuses_a_processor_that_train_would_refuse() -> None:
    result = CliRunner().invoke(app, ["check", "quickstart", "--set", "agent.obs_process_func=flaten_obs_dict"])
    assert result.exit_code == 2
    assert (
        'agent.obs_process_func  must be "flatten_obs_dict"; got "flaten_obs_dict"; did you mean "flat' in result.stderr
    )
    assert result.stdout == ""
