"""Recorded episodes have the states of the simulator, and recording has no side effects."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from episodes import LIVELY, ScriptedPolicy, drawn, simulated

from metta.agent.policy import MettaAgent
from metta.baselines.random_policy import RandomPolicy
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.replay.recording import DEFAULT_MAX_STEPS, Replay, record_episode
from metta.spaces import ActionSpace, ObservationSpace


def test_every_state_is_the_simulators(lively: Replay) -> None:
    for time, env in enumerate(simulated(lively)):
        np.testing.assert_array_equal(lively.positions[time], env.positions)
        np.testing.assert_array_equal(lively.orientations[time], env.orientations)
        np.testing.assert_array_equal(lively.is_frozen[time], env.freeze_counters != 0)
        np.testing.assert_array_equal(lively.colors[time], env.colors)
        np.testing.assert_array_equal(lively.inventories[time], env.inventories)
        np.testing.assert_array_equal(lively.converter_is_busy[time], env.converters()["is_busy"])
        np.testing.assert_array_equal(lively.converter_inventories[time], env.converters()["inventory"])
        if time:
            np.testing.assert_array_equal(lively.action_success[time - 1], env.action_success)
    assert time == lively.steps == 90


def test_blocks_stand_where_the_simulator_has_them(lively: Replay) -> None:
    block = LIVELY.object_types["block"].type_id
    for time, env in enumerate(simulated(lively)):
        expected = {tuple(place) for place in np.argwhere(env.cells() == block).tolist()}
        assert {tuple(place) for place in lively.block_positions[time].tolist()} == expected
        assert len(expected) == 6


def test_blocks_move_one_cell_at_a_time(lively: Replay) -> None:
    steps = np.abs(np.diff(lively.block_positions.astype(int), axis=0)).sum(axis=2)
    assert steps.max() <= 2, "a block jumped: blocks were confused with each other"


def test_total_rewards_are_the_simulators(lively: Replay) -> None:
    *_, env = simulated(lively)
    totals = env.state()["returned_rewards"]
    assert totals.dtype == np.float32
    np.testing.assert_array_equal(lively.total_rewards[-1], totals)


def test_the_same_seed_gives_the_same_episode() -> None:
    first, again, other = (record_episode(RandomPolicy(LIVELY.spec), LIVELY, seed) for seed in (7, 7, 8))
    arrays = [field.name for field in fields(Replay) if field.name not in ("config", "seed")]
    for name in arrays:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.actions, other.actions)
    assert not np.array_equal(first.cells, other.cells)


class TestLength:
    def config(self, **game: int) -> EnvConfig:
        return drawn("@.", **game)

    def steps(self, config: EnvConfig, max_steps: int | None = None) -> int:
        policy = ScriptedPolicy(config.spec, [[("noop", 0)]])
        return record_episode(policy, config, 0, max_steps).steps

    def test_ends_where_the_game_truncates(self) -> None:
        assert self.steps(self.config(max_steps=12)) == 12

    def test_ends_where_the_game_terminates(self) -> None:
        assert self.steps(self.config(max_steps=12, episode_lifetime=7)) == 7

    def test_ends_where_asked(self) -> None:
        assert self.steps(self.config(max_steps=12), max_steps=5) == 5
        assert self.steps(self.config(max_steps=12), max_steps=50) == 12

    def test_a_game_without_an_end_is_cut(self) -> None:
        assert self.steps(self.config(max_steps=0, episode_lifetime=0)) == DEFAULT_MAX_STEPS

    def test_max_steps_below_one_is_refused(self) -> None:
        with pytest.raises(UsageError, match="max_steps must be at least 1; got 0"):
            self.steps(self.config(), max_steps=0)


def test_recording_has_no_side_effects() -> None:
    small = AgentModelConfig(hidden_dim=16, mlp_layers=1)
    agent = MettaAgent(ObservationSpace(LIVELY), ActionSpace(LIVELY), config=small)
    agent.train()
    agent.backbone.eval()  # a submodule frozen on purpose
    modes = {name: part.training for name, part in agent.named_modules()}
    weights = {name: weight.clone() for name, weight in agent.state_dict().items()}
    seen: list[bool] = []
    agent.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    torch.manual_seed(3)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()

    record_episode(agent, LIVELY, seed=1, max_steps=5)

    assert seen == [False] * 5
    assert {name: part.training for name, part in agent.named_modules()} == modes
    assert all(torch.equal(weight, weights[name]) for name, weight in agent.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
