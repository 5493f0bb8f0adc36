"""Observations without padding: the same tokens as in the padded ones, as an embedding bag and as a buffer."""

from __future__ import annotations

import numpy as np
import pytest
from test_env import crowded, random_actions

from metta.errors import UsageError
from metta.world.env import MettaGridEnv
from metta.world.observation.observe import CHUNK
from metta.world.observation.packed import PackedObservations


class TestCompactObservations:
    @pytest.mark.parametrize("capacity", [200, 9])
    def test_equal_the_padded_ones_without_padding(self, capacity: int) -> None:
        """Also where tokens were dropped, and where episodes have just started."""
        env = MettaGridEnv(crowded(max_steps=5, num_observation_tokens=capacity), 3, seed=0)
        observations, _ = env.reset()
        generator = np.random.default_rng(0)
        for _ in range(12):
            compact = env.compact_observations()
            location, feature, value = (observations[..., part].astype(int) for part in range(3))
            used = location != 0xFF
            np.testing.assert_array_equal(compact.indices, (location * len(env.spec.feature_names) + feature)[used])
            np.testing.assert_array_equal(compact.values, value[used])
            np.testing.assert_array_equal(np.diff(compact.offsets), used.sum(axis=1))
            assert compact.offsets[0] == 0
            observations = env.step(random_actions(env, generator))[0]

    def test_index_a_table_of_first_layer_weights(self) -> None:
        """A weighted sum of table rows equals the product of dense features with the table."""
        env = MettaGridEnv(crowded(), 3, seed=0)
        observations, _ = env.reset()
        features = len(env.spec.feature_names)
        table = np.random.default_rng(0).integers(-9, 9, (256 * features, 7))
        compact = env.compact_observations()
        bags = np.add.reduceat(table[compact.indices] * compact.values[:, None], compact.offsets[:-1])
        box = np.zeros((env.agents, 256, features), np.int64)
        for agent, tokens in enumerate(observations.tolist()):
            for location, feature, value in tokens:
                if location != 0xFF:
                    box[agent, location, feature] += value
        assert np.array_equal(bags, box.reshape(env.agents, -1) @ table)


class TestPackedObservations:
    @pytest.mark.parametrize("capacity", [200, 9, 2])
    @pytest.mark.parametrize("staggered", [False, True])
    @pytest.mark.parametrize("auto_reset", [False, True])
    def test_equal_the_padded_ones(self, capacity: int, staggered: bool, auto_reset: bool) -> None:
        """Also where tokens were dropped, where some or all worlds start an episode, and in more than one chunk."""
        config = crowded(max_steps=5, num_observation_tokens=capacity)
        worlds = CHUNK // config.spec.num_agents + 3
        padded, packing = (MettaGridEnv(config, worlds, seed=0, auto_reset=auto_reset) for _ in range(2))
        packed = PackedObservations(packing.agents, capacity)
        generator = np.random.default_rng(0)
        expected, _ = padded.reset(staggered=staggered)
        tokens, _ = packing.reset(out=packed, staggered=staggered)
        mask = np.arange(worlds) % 3 == 1
        ends = set()
        for step in range(14):
            used = expected[:, :, 0] != 0xFF
            np.testing.assert_array_equal(tokens, expected[used])
            np.testing.assert_array_equal(packed.tokens, expected[used])
            np.testing.assert_array_equal(packed.counts, used.sum(1))
            np.testing.assert_array_equal(packed.offsets, [0, *used.sum(1).cumsum()])
            np.testing.assert_array_equal(packed.padded(), expected)
            rows = generator.permutation(padded.agents)[:7]
            np.testing.assert_array_equal(packed.padded(rows), expected[rows])
            actions = random_actions(padded, generator)
            expected, rewards, *_, info = padded.step(actions)
            tokens, packed_rewards, *_, packed_info = packing.step(actions, out=packed)
            np.testing.assert_array_equal(rewards, packed_rewards)
            np.testing.assert_array_equal(info.final_observations, packed_info.final_observations)
            ends.add(len(info.episodes))
            if step in (6, 9):
                padded.reset(out=expected, worlds=mask)
                tokens, _ = packing.reset(out=packed, worlds=mask)
        assert packing.episode_stats() == padded.episode_stats()
        assert len(ends) > (2 if auto_reset else 1)
        assert staggered or {0, worlds} <= ends

    def test_is_a_buffer_that_may_lie_in_memory_of_others(self) -> None:
        env = MettaGridEnv(crowded(), 3, seed=0)
        buffer = np.full((env.agents * 200 + 10, 3), 77, np.uint8)
        counts = np.zeros(env.agents, np.int64)
        packed = PackedObservations(env.agents, 200, buffer[: env.agents * 200], counts)
        tokens, _ = env.reset(out=packed)
        assert np.shares_memory(tokens, buffer)
        assert len(tokens) == counts.sum()
        assert (buffer[len(tokens) :] == 77).all()

    def test_must_fit_the_environment(self) -> None:
        env = MettaGridEnv(crowded(), 3, seed=0)
        env.reset()
        for sizes in ((env.agents - 1, 200), (env.agents, 199)):
            packed = PackedObservations(*sizes)
            with pytest.raises(UsageError, match=f"got {sizes[0]} agents with {sizes[1]}"):
                env.step(np.zeros((env.agents, 2), np.int64), out=packed)
            with pytest.raises(UsageError, match="make it with PackedObservations"):
                env.reset(out=packed)
