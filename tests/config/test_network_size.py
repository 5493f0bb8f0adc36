"""The formula for the number of weights agrees with real networks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from metta.agent.policy import make_agent
from metta.config.agent import BACKBONES, MEMORIES, OBSERVATION_TYPES, AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.plan.network_size import num_weights
from metta.spaces import ActionSpace, ObservationSpace


def random_settings(generator: random.Random) -> tuple[dict[str, Any], EnvConfig]:
    """Settings of `[agent]` without a backbone, and a world with another window, inventory and groups."""
    height, width = generator.choice(range(1, 16, 2)), generator.choice(range(1, 16, 2))
    items = ["ore_red", "battery_red", "heart", "laser", "armor"]
    game = {
        "observation_height": height,
        "observation_width": width,
        "groups": {f"team_{index}": {"id": index} for index in range(generator.randint(1, 4))},
        "inventory_item_names": items + [f"item_{index}" for index in range(generator.randint(0, 20))],
    }
    memory = generator.choice(MEMORIES.built_in)
    settings = {
        "hidden_dim": generator.choice([1, 3, 32, 128, 256]),
        "memory": memory,
        "memory_window": generator.randint(1, 40),
        "lstm_layers": generator.randint(1, 3),
        "mlp_layers": generator.randint(0, 3),
        "critic": generator.choice(["own", "group", "world"]),
        "forward_lstm": memory != "lstm" or generator.random() < 0.5,
        "use_prev_action": generator.random() < 0.5,
        "use_prev_reward": generator.random() < 0.5,
        "use_cell_ahead": generator.random() < 0.5,
        "egocentric": height == width and generator.random() < 0.5,
        "observation_types": generator.sample(OBSERVATION_TYPES, generator.randint(1, 3)),
    }
    return settings, EnvConfig.model_validate({"game": game, "map_builder": {"objects": {"mine_red": 1}}})


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("backbone", BACKBONES.built_in)
def test_the_formula_counts_the_weights_of_every_backbone(backbone: str, seed: int) -> None:
    settings, env = random_settings(random.Random(seed))
    config = AgentModelConfig.model_validate(settings | {"backbone": backbone})
    agent = make_agent(ObservationSpace(env), ActionSpace(env), [], "cpu", config)
    assert num_weights(config, env.spec) == sum(weight.numel() for weight in agent.parameters())
