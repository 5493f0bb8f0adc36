"""The previous action, the previous reward and the global features, as read from tokens."""

from __future__ import annotations

import pytest
import torch
from token_encodings import feature, observation

from metta.agent.direct_inputs import DirectInputs
from metta.config.env.env_config import EnvConfig


@pytest.fixture(scope="module")
def spec():
    return EnvConfig(game={"num_agents": 2, "width": 9, "height": 9}).spec


def test_previous_action_reward_and_global_features_are_read_from_the_tokens(spec):
    center = spec.center
    inputs = DirectInputs(spec, ["inv:heart", "agent:frozen"], obs_scale=1)
    seen = observation(
        spec,
        (center, feature(spec, "episode_completion_pct"), 9),
        (center, feature(spec, "last_action"), spec.action_names.index("rotate")),
        (center, feature(spec, "last_action_arg"), 3),
        (center, feature(spec, "last_reward"), 50),
        (center, feature(spec, "inv:heart"), 20),
        (0x11, feature(spec, "inv:heart"), 90),
    )
    assert spec.flat_actions[int(inputs.previous_action(seen))] == (spec.action_names.index("rotate"), 3)
    assert inputs.previous_reward(seen).tolist() == [[0.5]]
    torch.testing.assert_close(inputs.global_features(seen), torch.tensor([[0.2, 0.0]]))


def test_a_previous_action_that_cannot_be_sampled_has_the_last_index(spec):
    noop_with_argument = observation(spec, *[(spec.center, 9, 0), (spec.center, 10, 5)])
    inputs = DirectInputs(spec, [], obs_scale=1)
    assert int(inputs.previous_action(noop_with_argument)) == len(spec.flat_actions)
