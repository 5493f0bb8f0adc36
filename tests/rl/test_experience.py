"""Rollouts and experience: stored arrays, minibatches, and the effect of each setting of `[experience]`."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from rl_fixtures import padded_observations

from metta.config.training import ExperienceConfig
from metta.errors import ConfigError, MettaError
from metta.rl.advantages import compute_advantages
from metta.rl.experience import make_experience_manager
from metta.rl.rollout import rollout
from metta.world.env import MettaGridEnv

ARRAYS = ("action_index", "log_probs", "values", "rewards", "terminated", "truncated", "episode_starts")
ARRAYS += ("final_values", "next_values")


def arrays(experience) -> dict[str, torch.Tensor]:
    memories = {f"memory {name}": tensor.clone() for name, tensor in experience.segment_memories.items()}
    masks = {} if experience.action_masks is None else {"action_masks": experience.action_masks.clone()}
    observations = {"observations": padded_observations(experience)}
    return observations | {name: getattr(experience, name).clone() for name in ARRAYS} | memories | masks


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def by_hand(env, agent, experience, seed):
    """The same rollout in a plain loop over a new env: the expected arrays."""
    plan = experience.plan
    worlds = MettaGridEnv(env.configs, plan.num_worlds, seed)
    generator = torch.Generator()
    generator.set_state(experience.policy_generator.get_state())
    frame, _ = worlds.reset()
    memory = agent.initial_memory(worlds.agents)
    episode_starts = torch.ones(worlds.agents, dtype=torch.bool)
    steps = []
    for _ in range(plan.segments_per_agent * plan.horizon):
        before, masks = memory, torch.from_numpy(worlds.action_masks())
        allowed = masks if agent.uses_action_masks else None
        decision = agent.act(torch.from_numpy(frame.copy()), memory, episode_starts, generator, action_masks=allowed)
        memory = decision.memory
        step = {
            "observations": torch.from_numpy(frame.copy()),
            "episode_starts": episode_starts,
            "action_index": decision.action_index,
            "action_masks": masks,
        }
        step |= {"log_probs": decision.log_probs, "values": decision.values, "memory": before}
        frame, rewards, terminated, truncated, info = worlds.step(decision.actions.numpy())
        final = torch.zeros(worlds.agents)
        for row, last in zip(info.ended_agents, info.final_observations, strict=True):
            if truncated[row]:
                own = memory.select(torch.tensor([row]))
                final[row] = agent.value(torch.from_numpy(last[None]), own)[0]
        episode_starts = torch.from_numpy(terminated | truncated)
        step |= {"rewards": torch.from_numpy(rewards.copy()), "terminated": torch.from_numpy(terminated.copy())}
        steps.append(step | {"truncated": torch.from_numpy(truncated.copy()), "final_values": final})
    return steps, agent.value(torch.from_numpy(frame.copy()), memory, episode_starts)


@pytest.mark.parametrize("mask_actions", [False, True])
def test_a_rollout_stores_every_array_as_a_plain_loop_does(busy_env, set_up, mask_actions):
    agent, experience = set_up(agent={"mask_actions": mask_actions})
    steps, next_values = by_hand(busy_env, agent, experience, seed=4)
    rollout(experience, agent)
    exact = ["observations", "episode_starts", "action_index", "rewards", "terminated", "truncated"]
    assert (experience.action_masks is not None) == mask_actions
    stored = arrays(experience)
    for name in [*exact, "action_masks"] if mask_actions else exact:
        for t, step in enumerate(steps):
            assert torch.equal(stored[name][t], step[name]), (name, t)
    for name in ("log_probs", "values", "final_values"):
        expected = torch.stack([step[name] for step in steps])
        torch.testing.assert_close(getattr(experience, name), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(experience.next_values, next_values, rtol=1e-4, atol=1e-6)
    for round_ in range(experience.plan.segments_per_agent):
        start = steps[round_ * experience.plan.horizon]["memory"]
        for name, tensor in start.tensors.items():
            torch.testing.assert_close(experience.segment_memories[name][round_], tensor, rtol=1e-4, atol=1e-6)
    assert experience.truncated.any()
    assert (experience.final_values != 0).equal(experience.truncated)


def test_the_next_rollout_continues_after_the_last_step(set_up):
    agent, experience = set_up(batch_size=256, minibatch_size=128)
    agent_long, experience_long = set_up(batch_size=512, minibatch_size=128)
    assert experience.plan.agents == experience_long.plan.agents
    halves = []
    for _ in range(2):
        rollout(experience, agent)
        halves.append(arrays(experience))
    rollout(experience_long, agent_long)
    whole = arrays(experience_long)
    for name in ("observations", "action_index", "rewards", "log_probs", "episode_starts", "final_values"):
        steps = experience.plan.segments_per_agent * experience.plan.horizon
        joined = torch.cat([halves[0][name][:steps], halves[1][name][:steps]])
        torch.testing.assert_close(joined, whole[name][: 2 * steps], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask_actions", [False, True])
def test_minibatches_hold_every_segment_once_with_its_memory(set_up, mask_actions):
    agent, experience = set_up(agent={"mask_actions": mask_actions})
    rollout(experience, agent)
    compute_advantages(experience)
    seen = []
    for minibatch in experience.minibatches():
        assert minibatch.action_index.shape == (8, 16)
        assert len(minibatch.observations) == 8 * 16
        assert torch.equal(minibatch.returns, minibatch.advantages + minibatch.values)
        evaluation = agent.evaluate_actions(
            minibatch.observations,
            minibatch.action_index,
            minibatch.memory,
            minibatch.episode_starts,
            minibatch.action_masks,
        )
        torch.testing.assert_close(evaluation.log_probs, minibatch.log_probs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(evaluation.values, minibatch.values, rtol=1e-4, atol=1e-5)
        seen += minibatch.log_probs.T.tolist()
    segments = (
        experience.log_probs.view(experience.plan.segments_per_agent, 8, -1).transpose(1, 2).reshape(-1, 8).tolist()
    )
    assert sorted(seen) == sorted(segments)
    assert seen != segments


def test_minibatches_come_in_a_new_order_each_time_and_the_same_for_the_same_seed(set_up):
    orders = []
    for seed in (4, 4, 5):
        agent, experience = set_up(seed=seed)
        rollout(experience, agent)
        compute_advantages(experience)
        experience.log_probs[:] = torch.arange(experience.log_probs.numel()).view_as(experience.log_probs)
        orders.append([[m.log_probs.tolist() for m in experience.minibatches()] for _ in range(2)])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][0] != orders[0][1]


def test_batch_info_describes_the_episodes_that_ended(busy_env, set_up):
    agent, experience = set_up()
    info = rollout(experience, agent)
    plan = experience.plan
    assert info.total_env_steps == plan.batch_size == 512
    ends = experience.episode_starts[1:].view(-1, plan.num_worlds, 2).all(2)
    assert info.episode_lengths == [11] * int(ends.sum())
    first = experience.rewards[:11].sum(0).view(plan.num_worlds, 2).mean(1)
    torch.testing.assert_close(torch.tensor(info.episode_returns[: plan.num_worlds]), first)
    assert info.stats["ore_red.gained"] > 0
    assert info.seconds_infer > 0


def test_num_steps_is_rounded_up_to_whole_segments(set_up):
    agent, experience = set_up()
    per_round = experience.plan.agents * 8
    assert rollout(experience, agent, num_steps=1).total_env_steps == per_round
    assert rollout(experience, agent, num_steps=per_round + 1).total_env_steps == 2 * per_round
    assert compute_advantages(experience).shape[0] == 16
    assert sum(m.action_index.numel() for m in experience.minibatches()) == 2 * per_round
    for steps in (0, 513):
        with pytest.raises(MettaError, match=rf"num_steps must be from 1 to .*; got {steps}"):
            rollout(experience, agent, num_steps=steps)


@pytest.mark.parametrize("mask_actions", [False, True])
@pytest.mark.parametrize("async_factor", [1, 2])
def test_a_loaded_experience_continues_bit_identically(set_up, async_factor, mask_actions):
    settings = {"agent": {"mask_actions": mask_actions}, "async_factor": async_factor}
    agent, experience = set_up(**settings)
    rollout(experience, agent)
    file = io.BytesIO()
    torch.save(experience.state(), file)
    rollout(experience, agent)
    compute_advantages(experience)
    expected = arrays(experience), [m.action_index for m in experience.minibatches()]
    file.seek(0)
    agent, fresh = set_up(**settings)
    fresh.load_state(torch.load(file, weights_only=True))
    rollout(fresh, agent)
    compute_advantages(fresh)
    assert_same(arrays(fresh), expected[0])
    assert all(
        torch.equal(m.action_index, action_index)
        for m, action_index in zip(fresh.minibatches(), expected[1], strict=True)
    )


def test_a_state_of_other_sizes_is_refused(set_up):
    _, experience = set_up()
    _, other = set_up(forward_pass_minibatch_target_size=8)
    with pytest.raises(MettaError, match="the saved experience has 16 agents"):
        other.load_state(experience.state())


def test_worlds_draw_the_tasks_of_the_env_by_its_weights(busy_env, set_up):
    plain = busy_env.config
    rich = plain.override(ore_red_reward=2.0)
    env = MettaGridEnv([plain, rich], seed=1, task_weights=[0, 1])
    agent, experience = set_up(env)
    assert set(rollout(experience, agent).episode_tasks) == {1}
    experience.set_task_weights([1, 0])
    rollout(experience, agent)
    assert set(rollout(experience, agent).episode_tasks) == {0}


# -- a test per field: each fails if the field is ignored -----------------------------------------------------------


def test_batch_size(set_up):
    for batch_size in (256, 512):
        agent, experience = set_up(batch_size=batch_size)
        assert rollout(experience, agent).total_env_steps == batch_size


def test_minibatch_size(set_up):
    for minibatch_size in (64, 256):
        agent, experience = set_up(minibatch_size=minibatch_size)
        rollout(experience, agent)
        compute_advantages(experience)
        assert [m.action_index.numel() for m in experience.minibatches()] == [minibatch_size] * (512 // minibatch_size)


def test_bptt_horizon(set_up):
    for horizon in (4, 16):
        agent, experience = set_up(bptt_horizon=horizon)
        rollout(experience, agent)
        compute_advantages(experience)
        assert next(experience.minibatches()).action_index.shape[0] == horizon


def test_forward_pass_minibatch_target_size(set_up):
    assert [set_up(forward_pass_minibatch_target_size=size)[1].plan.num_worlds for size in (8, 16)] == [4, 8]


@pytest.mark.parametrize("async_factor", [1, 2])
def test_zero_copy(set_up, async_factor):
    results = []
    for zero_copy in (True, False):
        agent, experience = set_up(zero_copy=zero_copy, async_factor=async_factor)
        shared = []
        for batch in experience.agent_batches:
            step = batch.env.step

            def watched(actions, out=None, step=step, shared=shared):
                result = step(actions, out=out)
                shared.append(out is not None and np.shares_memory(result[0], out.buffer))
                return result

            batch.env.step = watched
        rollout(experience, agent)
        assert set(shared) == {zero_copy}
        results.append(arrays(experience))
    assert_same(*results)


@pytest.mark.parametrize("offload", [False, True])
def test_cpu_offload(set_up, busy_env, offload):
    """The agent is on torch's meta device, which stores no data; with `cpu_offload` the arrays are on the CPU.

    What the worlds write is on the CPU in either case.
    """
    agent, experience = set_up(agent={"mask_actions": True})
    rollout(experience, agent)
    compute_advantages(experience)
    agent.to("meta")
    elsewhere = make_experience_manager(busy_env, agent, experience.config.model_copy(update={"cpu_offload": offload}))
    held = {name: array.device.type for name, array in arrays(elsewhere).items()}
    written = {held.pop(name) for name in ("rewards", "terminated", "truncated", "episode_starts")}
    assert written == {"cpu"}
    assert set(held.values()) == {"cpu" if offload else "meta"}
    elsewhere.advantages, elsewhere.returns = (
        array.to(elsewhere.storage_device) for array in (experience.advantages, experience.returns)
    )
    elsewhere.steps_collected = experience.steps_collected
    elsewhere.observations.restart(experience.observations.at(0))
    for step in range(experience.steps_collected):
        elsewhere.observations.append(experience.observations.at(step + 1))
    for minibatch in elsewhere.minibatches():  # minibatches are on the agent's device in either case
        sent = (
            minibatch.observations.tokens,
            minibatch.returns,
            minibatch.memory.tensors["hidden"],
            minibatch.action_masks,
        )
        assert {array.device.type for array in sent} == {"meta"}


def test_minibatches_for_a_gpu_are_gathered_in_pinned_memory(set_up, monkeypatch):
    agent, experience = set_up()
    rollout(experience, agent)
    compute_advantages(experience)
    asked, empty = [], torch.empty

    def unpinned(*shape, pin_memory=False, **options):  # pinned memory needs a GPU
        made = empty(*shape, **options)
        if pin_memory:
            asked.append(made)
        return made

    monkeypatch.setattr(torch, "empty", unpinned)
    rows = torch.tensor([[3, 1], [5, 3]])
    plain = experience.select_rows(experience.log_probs, rows)
    assert not asked
    monkeypatch.setattr(type(experience), "_pins_memory", True)
    pinned = experience.select_rows(experience.log_probs, rows)
    assert torch.equal(plain, pinned)
    assert torch.equal(plain, experience.log_probs.flatten(0, 1)[rows])
    assert [buffer.data_ptr() for buffer in asked] == [pinned.data_ptr()]  # gathered directly into pinned memory


def test_async_factor_splits_the_worlds_into_world_batches(set_up):
    for async_factor in (1, 2, 3):
        _, experience = set_up(async_factor=async_factor, forward_pass_minibatch_target_size=16 // async_factor)
        assert len(experience.agent_batches) == async_factor
        assert experience.agent_batches[0].rows.start == 0
        assert experience.agent_batches[-1].rows.stop == experience.plan.agents
        experience.close()


def test_results_do_not_depend_on_the_timing_of_threads(set_up):
    results = []
    for delay in (0.0, 0.002):
        agent, experience = set_up(async_factor=2, agent={"mask_actions": True})
        slow = experience.agent_batches[0].env
        step = slow.step

        def late(*args, step=step, delay=delay, **kwargs):
            time.sleep(delay)
            return step(*args, **kwargs)

        slow.step = late
        rollout(experience, agent)
        results.append(arrays(experience))
        experience.close()
    assert_same(*results)


def test_an_impossible_batch_is_explained(busy_env, set_up):
    agent, _ = set_up()
    with pytest.raises(ConfigError, match="must be a multiple of bptt_horizon"):
        make_experience_manager(busy_env, agent, ExperienceConfig(batch_size=500, minibatch_size=100, bptt_horizon=8))


def test_the_default_seed_is_that_of_the_env(busy_env, set_up):
    agent, experience = set_up(seed=4)
    default = make_experience_manager(busy_env, agent, experience.config)
    rollout(experience, agent)
    rollout(default, agent)
    assert_same(arrays(experience), arrays(default))
