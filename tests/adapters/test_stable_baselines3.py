"""Training with Stable-Baselines3 through PettingZoo and SuperSuit, as in the documentation."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv

stable_baselines3 = pytest.importorskip("stable_baselines3")
pytest.importorskip("supersuit")

TINY = EnvConfig.model_validate(
    {"game": {"num_agents": 3, "width": 8, "height": 8, "max_steps": 20}, "map_builder": {"objects": {"mine_red": 3}}}
)


def test_its_worlds_differ_in_every_episode() -> None:
    """As in the documentation: copies of an environment that nobody has seeded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's
        import supersuit  # noqa: PLC0415  # the extra may be missing

        world = MettaGridEnv(TINY.override(width=16, height=16))  # too large for two equal ones by chance
        one = supersuit.pettingzoo_env_to_vec_env_v1(world.to_pettingzoo())
        worlds = supersuit.concat_vec_envs_v1(one, 8, base_class="stable_baselines3")
        observations = worlds.reset()
        for _ in range(3):
            assert len({rows.tobytes() for rows in np.split(observations, 8)}) == 8
            for _ in range(20):
                observations, _, dones, _ = worlds.step(np.zeros((24, 2), int))
            assert dones.all()


@pytest.mark.slow
def test_its_ppo_trains_on_two_worlds() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's
        import supersuit  # noqa: PLC0415  # the extra may be missing
        from stable_baselines3 import PPO  # noqa: PLC0415

        one = supersuit.pettingzoo_env_to_vec_env_v1(MettaGridEnv(TINY).to_pettingzoo())
        worlds = supersuit.concat_vec_envs_v1(one, 2, num_cpus=1, base_class="stable_baselines3")
        model = PPO("MlpPolicy", worlds, n_steps=32, batch_size=64, n_epochs=1, device="cpu")
        before = [weight.detach().clone() for weight in model.policy.parameters()]
        model.learn(2 * 6 * 32)
    assert model.num_timesteps == 2 * 6 * 32
    assert any(not weight.equal(old) for weight, old in zip(model.policy.parameters(), before, strict=True))


@pytest.mark.slow
def test_maskable_ppo_never_takes_a_masked_action() -> None:
    """MaskablePPO of sb3-contrib, with the class of the documentation: its rollouts, and the policy it has learned."""
    sb3_contrib = pytest.importorskip("sb3_contrib")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's
        import supersuit  # noqa: PLC0415  # the extra may be missing

        world = MettaGridEnv(TINY)
        one = supersuit.pettingzoo_env_to_vec_env_v1(world.to_pettingzoo(flat_actions=True, action_masks=True))
        worlds = with_masks(supersuit.concat_vec_envs_v1(one, 2, num_cpus=1, base_class="stable_baselines3"))
        model = sb3_contrib.MaskablePPO("MlpPolicy", worlds, n_steps=48, batch_size=64, n_epochs=1, device="cpu")
        model.learn(6 * 48)
        buffer = model.rollout_buffer
        masks = buffer.action_masks.reshape(-1, len(world.spec.flat_actions))
        chosen = buffer.actions.reshape(-1).astype(int)
        assert (masks[np.arange(len(chosen)), chosen] == 1).all()
        assert 0.1 < masks.mean() < 0.9

        observations = worlds.reset()
        for _ in range(60):  # several episodes
            masks = np.stack(worlds.env_method("action_masks"))
            actions, _ = model.predict(observations, action_masks=masks)
            assert (masks[np.arange(6), actions] == 1).all()
            observations, *_ = worlds.step(actions)


def with_masks(worlds: Any) -> Any:
    """The example of the documentation around `worlds`."""
    text = (Path(__file__).parents[2] / "engine" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(
        r"^class WithMasks.*?(?=^\S)", text.partition("import sb3_contrib")[2], re.MULTILINE | re.DOTALL
    )
    names: dict[str, Any] = {"VecEnvWrapper": stable_baselines3.common.vec_env.VecEnvWrapper}
    exec(code, names)
    return names["WithMasks"](worlds)
