"""TorchRL: its checks of environments pass for both interfaces, with all kinds of actions (extra `libraries`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from metta.config.env.env_config import EnvConfig
from metta.world.make_environment import make_environment

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other people's
    pytest.importorskip("torchrl")
    from torchrl.envs.libs.gym import GymWrapper
    from torchrl.envs.libs.pettingzoo import PettingZooWrapper
    from torchrl.envs.utils import check_env_specs

TINY = EnvConfig.model_validate(
    {"game": {"num_agents": 3, "width": 8, "height": 8, "max_steps": 7}, "map_builder": {"objects": {"mine_red": 3}}}
)
ENVS: dict[str, Callable[[], Any]] = {
    "PettingZoo": lambda: PettingZooWrapper(make_environment(TINY).to_pettingzoo()),
    "PettingZoo, flat": lambda: PettingZooWrapper(make_environment(TINY).to_pettingzoo(flat_actions=True)),
    "PettingZoo, state": lambda: PettingZooWrapper(
        make_environment(TINY).to_pettingzoo("rgb_array", flat_actions=True), return_state=True
    ),
    "Gymnasium": lambda: GymWrapper(make_environment(TINY, 2).to_gymnasium_vector()),
    "Gymnasium, flat": lambda: GymWrapper(make_environment(TINY, 2).to_gymnasium_vector(flat_actions=True)),
    "Gymnasium, disabled": lambda: GymWrapper(make_environment(TINY, 2).to_gymnasium_vector("Disabled")),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's
        yield


@pytest.mark.parametrize("kind", ENVS)
def test_its_specs_hold(kind: str) -> None:
    check_env_specs(ENVS[kind]())


@pytest.mark.parametrize("kind", ENVS)
def test_rollouts_over_several_episodes_follow_the_seed(kind: str) -> None:
    rollouts = []
    for seed in (1, 1, 2):
        env = ENVS[kind]()
        env.set_seed(seed)
        torch.manual_seed(0)
        rollouts.append(env.rollout(20, break_when_any_done=False))
    done = rollouts[0]["next", "done"].flatten(0, -2) if "PettingZoo" in kind else rollouts[0]["next", "done"][0]
    assert done.flatten().nonzero().flatten().tolist() == [6, 13]
    assert (rollouts[0] == rollouts[1]).all()
    assert not (rollouts[0] == rollouts[2]).all()
