"""Action masks: masked actions certainly fail, allowed ones can succeed, and nothing but the observation decides."""

from __future__ import annotations

import numpy as np
import pytest
from random_worlds import random_actions, random_tasks

from metta.world.env import MettaGridEnv

WORLDS = 8


@pytest.mark.parametrize("seed", range(6))
def test_a_masked_action_fails_in_every_turn_order(seed: int) -> None:
    """Random turn orders, and random actions of all other agents; the rules are the engine's."""
    generator = np.random.default_rng(seed)
    tasks = random_tasks(generator, every_action=seed % 3 == 2)
    env, trial = (MettaGridEnv(tasks, WORLDS, seed=seed, auto_reset=False) for _ in range(2))
    env.reset()
    flat = np.array(env.spec.flat_actions)
    rows = np.arange(env.agents)
    masked = 0
    for _ in range(4):
        for _ in range(6):
            env.step(random_actions(generator, env.config, env.agents))
        masks, state = env.action_masks(), env.state()
        assert masks.shape == (env.agents, len(flat))
        assert masks.any(axis=1).all()
        for _ in range(20):
            trial.load_state(state)
            chosen = generator.integers(len(flat), size=env.agents)
            order = np.concatenate([generator.permutation(env.num_agents) for _ in range(WORLDS)])
            trial.step(flat[chosen], order=order)
            is_masked = ~masks[rows, chosen]
            masked += is_masked.sum()
            assert not (trial.action_success & is_masked).any()
    assert masked > 1000
