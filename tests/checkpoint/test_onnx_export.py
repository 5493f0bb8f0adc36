"""ONNX export: onnxruntime computes the same as torch."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from metta.agent.policy import make_agent
from metta.checkpoint import onnx_export
from metta.checkpoint.policy_checkpoint import load_policy, save_checkpoint
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import dump_config
from metta.config.run import RunConfig
from metta.world.env import MettaGridEnv
from metta_cli.main import app

pytestmark = pytest.mark.skipif(
    find_spec("onnxruntime") is None or find_spec("onnxscript") is None, reason="the extra `export` is not installed"
)
ENV = EnvConfig().override(
    num_agents=3, width=8, height=8, map_builder={"objects": {"mine_red": 4}}, num_observation_tokens=60
)

RULES = EnvConfig.model_validate(
    {
        "game": {"num_agents": 3, "width": 8, "height": 8, "num_observation_tokens": 60},
        "map_builder": {"objects": {"door": 3, "field": 6}},
        "objects": [
            {"name": "door", "type": "door", "settings": {"steps_open": 3}},
            {"name": "field", "type": "field", "settings": {"item": "heart", "regrowth": 0.2}},
        ],
        "actions": [
            {"key": "move", "type": "move"},
            {"key": "rotate", "type": "rotate"},
            {"key": "use", "type": "use"},
            {"key": "swap", "type": "swap", "reserved": True},
            {"key": "signal", "type": "signal", "settings": {"symbols": 3}},
        ],
        "features": {"signal": {}},
        "rewards": {"exploration": {}},
        "terminations": {"goal": {"settings": {"amount": 9}}},
    }
)
"""A world with custom rules and an action that only other worlds have."""


KINDS = [
    {"backbone": "cnn", "lstm_layers": 1},
    {"backbone": "mlp", "lstm_layers": 2, "egocentric": True, "mask_actions": True, "critic": "group"},
    {"backbone": "attention", "lstm_layers": 1},
    {"backbone": "cnn", "forward_lstm": False},
    {"backbone": "mlp", "memory": "mingru", "lstm_layers": 2},
    {"backbone": "mlp", "memory": "attention", "lstm_layers": 2, "memory_window": 3},
    {"backbone": "mlp", "memory": "average"},
]


@pytest.mark.slow
@pytest.mark.parametrize("window", [11, 7])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.usefixtures("average_memory")
def test_onnxruntime_outputs_are_those_of_torch(tmp_path: Path, kind: dict[str, Any], window: int) -> None:
    """Over several steps with an episode start, for another number of agents than in the trace.

    With window 7, in a world other than that of the training, which has window 11.
    """
    world = ENV.override(observation_height=window, observation_width=window)
    assert_same_outputs(tmp_path, ENV, world, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[:2], ids=["cnn", "mlp-masks"])
def test_onnxruntime_outputs_are_those_of_torch_in_a_world_with_custom_rules(
    tmp_path: Path, kind: dict[str, Any]
) -> None:
    assert_same_outputs(tmp_path, RULES, RULES, kind)


def assert_same_outputs(tmp_path: Path, training: EnvConfig, world: EnvConfig, kind: dict[str, Any]) -> None:
    """Export a policy of the world `training` for `world`, and play it there with onnxruntime and with torch."""
    import onnxruntime  # noqa: PLC0415  # an extra

    (tmp_path / "world.toml").write_text(dump_config(RunConfig(env=world)), encoding="utf-8")
    env = MettaGridEnv(training, num_worlds=2)
    torch.manual_seed(0)
    config = AgentModelConfig(hidden_dim=8, **kind)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    with torch.no_grad():
        for weight in agent.parameters():
            weight += 0.1 * torch.randn_like(weight)
    save_checkpoint(agent, tmp_path, epoch=7)
    other = ["--env", str(tmp_path / "world.toml")] if world != training else []
    ran = CliRunner().invoke(app, ["export", str(tmp_path / "checkpoint_000007.pt"), *other])
    assert ran.exit_code == 0, ran.output
    agent = load_policy(tmp_path / "checkpoint_000007.pt", env_config=world).agent
    env = MettaGridEnv(world, num_worlds=2)
    assert ran.stdout == f"{tmp_path / 'checkpoint_000007.onnx'}\n"
    session = onnxruntime.InferenceSession(tmp_path / "checkpoint_000007.onnx")
    assert ("action_mask" in [each.name for each in session.get_inputs()]) == agent.uses_action_masks
    meaning = json.loads(session.get_modelmeta().custom_metadata_map["metta"])
    assert [tuple(action) for action in meaning["flat_actions"]] == env.spec.flat_actions
    assert meaning["mask_actions"] == agent.uses_action_masks
    assert meaning["feature_names"] == env.spec.feature_names
    assert meaning["action_names"] == env.spec.action_names
    observations, _ = env.reset(seed=0)
    memory = agent.initial_memory(env.agents)
    state = {
        name: np.zeros((shape[0], env.agents, *shape[1:]), np.float32)
        for name, shape in meaning["memory_shapes"].items()
    }
    names = [output.name for output in session.get_outputs()]
    assert names == ["logits", "values", *(f"next_{name}" for name in state)]
    for step in range(4):
        episode_starts = np.full(env.agents, step == 2)
        with torch.no_grad():
            logits, values, memory = agent(
                torch.from_numpy(observations).unsqueeze(0), memory, torch.from_numpy(episode_starts).unsqueeze(0)
            )
        inputs = {"observations": observations, **state, "episode_starts": episode_starts}
        if agent.uses_action_masks:
            inputs["action_mask"] = env.action_masks()
            logits = logits.masked_fill(~torch.from_numpy(env.action_masks()), torch.finfo(torch.float32).min)
        their_logits, their_values, *after = session.run(None, inputs)
        state = dict(zip(state, after, strict=True))
        np.testing.assert_allclose(their_logits, logits[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(their_values, values[0], rtol=1e-4, atol=1e-5)
        for name, tensor in memory.tensors.items():
            np.testing.assert_allclose(state[name], tensor, rtol=1e-4, atol=1e-5)
        actions = np.array(env.spec.flat_actions)[their_logits.argmax(1)]
        observations = env.step(actions)[0]


def test_without_the_extra_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    env = MettaGridEnv(ENV)
    save_checkpoint(
        make_agent(env.single_observation_space, env.single_action_space, [], "cpu", AgentModelConfig(hidden_dim=8)),
        tmp_path,
    )
    ran = CliRunner().invoke(app, ["export", str(tmp_path / "checkpoint_000000.pt")])
    assert ran.exit_code == 2
    assert "pip install 'metta-gridworlds[export]'" in ran.stderr
    assert not (tmp_path / "checkpoint_000000.onnx").exists()
