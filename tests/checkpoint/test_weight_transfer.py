"""Weights of a checkpoint in another world and another network: what fits is taken over, all else is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metta.api import (
    AgentModelConfig,
    EnvConfig,
    MettaAgent,
    MettaGridEnv,
    WeightTransfer,
    make_agent,
    save_checkpoint,
    transfer_weights,
)
from metta.errors import CheckpointError

HOME: dict[str, Any] = {
    "num_agents": 4,
    "width": 9,
    "height": 9,
    "observation_width": 5,
    "observation_height": 5,
    "num_observation_tokens": 200,
    "map_builder": {"border_width": 1, "objects": {"mine_red": 4, "generator_red": 3, "altar": 2}},
}
ITEMS = ["ore_red", "battery_red", "heart", "laser", "armor", "ore_blue", "ore_green", "battery_blue", "battery_green"]
ITEMS += ["blueprint"]
NETWORK = {"hidden_dim": 16, "mlp_layers": 1}
BACKBONES = pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])


def world(**changes: Any) -> EnvConfig:
    return EnvConfig().override(**(HOME | changes))


def agent_in(config: EnvConfig, seed: int, **settings: Any) -> MettaAgent:
    env = MettaGridEnv(config)
    torch.manual_seed(seed)
    network = AgentModelConfig.model_validate(NETWORK | settings)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", network)
    with torch.no_grad():
        for weight in agent.parameters():
            weight += 0.1 * torch.randn_like(weight)
    agent.update_initial_weights()
    return agent


def saved(agent: MettaAgent, folder: Path) -> Path:
    save_checkpoint(agent, folder)
    return folder / "checkpoint_000000.pt"


def transferred(agent: MettaAgent, path: Path) -> WeightTransfer:
    """The transfer, after which the reference of the l2-init loss is the new weights."""
    transfer = transfer_weights(agent, path)
    for name, weight in agent.named_parameters():
        assert torch.equal(weight, agent.initial_weights[name])
    return transfer


def seen_in(config: EnvConfig) -> torch.Tensor:
    """`[6, agents, tokens, 3] uint8`: observations of random play."""
    env = MettaGridEnv(config, num_worlds=3, seed=1)
    rng = np.random.default_rng(0)
    observations = [env.reset(seed=1)[0].copy()]
    for _ in range(5):
        flat_actions = np.array(env.spec.flat_actions)
        observations.append(env.step(flat_actions[rng.integers(len(flat_actions), size=env.agents)])[0].copy())
    return torch.from_numpy(np.stack(observations))


def outputs(agent: MettaAgent, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    steps, agents = observations.shape[:2]
    with torch.no_grad():
        logits, values, _ = agent(
            observations, agent.initial_memory(agents), torch.zeros(steps, agents, dtype=torch.bool)
        )
    return logits, values


@BACKBONES
def test_where_everything_fits_the_outputs_are_equal(backbone: str, tmp_path: Path) -> None:
    source, agent = (agent_in(world(), seed, backbone=backbone) for seed in (0, 1))
    transfer = transferred(agent, saved(source, tmp_path))
    assert (transfer.new, transfer.dropped, transfer.differing) == ((), (), ())
    assert transfer.num_loaded == transfer.num_weights == sum(weight.numel() for weight in agent.parameters())
    for ours, theirs in zip(outputs(agent, seen_in(world())), outputs(source, seen_in(world())), strict=True):
        assert torch.equal(ours, theirs)


@BACKBONES
def test_names_with_other_ids_keep_their_weights(backbone: str, tmp_path: Path) -> None:
    """New items are ignored at first; new actions have the weights of a new policy, known ones those of the saved."""
    actions = [action.model_dump(exclude_none=True) for action in world().actions]
    sleep = {"type": "noop", "key": "sleep"}
    there = world(inventory_item_names=["coal", *ITEMS[::-1]], actions=[*actions[:1], sleep, *actions[:0:-1]])
    source, agent = agent_in(world(), 0, backbone=backbone), agent_in(there, 1, backbone=backbone)
    fresh = {name: weight.clone() for name, weight in agent.state_dict().items()}
    transfer = transferred(agent, saved(source, tmp_path))
    assert (transfer.new, transfer.dropped, transfer.differing) == (("item coal", "action sleep"), (), ())
    assert transfer.num_loaded < transfer.num_weights
    names = [(there.spec.action_names[action], argument) for action, argument in there.spec.flat_actions]
    index = torch.tensor(
        [names.index((world().spec.action_names[action], argument)) for action, argument in world().spec.flat_actions]
    )
    observations = seen_in(world())
    translated = observations.clone()
    features = torch.tensor([there.spec.feature_names.index(name) for name in world().spec.feature_names])
    ids = torch.tensor([there.spec.action_names.index(name) for name in world().spec.action_names])
    is_token = observations[..., 0] != 255
    translated[..., 1][is_token] = features[observations[..., 1][is_token].long()].byte()
    is_action = is_token & (observations[..., 1] == world().spec.feature_names.index("last_action"))
    translated[..., 2][is_action] = ids[observations[..., 2][is_action].long()].byte()
    logits, values = outputs(agent, translated)
    expected = outputs(source, observations)
    torch.testing.assert_close(logits[..., index], expected[0])
    torch.testing.assert_close(values, expected[1])
    new = names.index(("sleep", 0))
    for name in ("policy_head.output.weight", "policy_head.output.bias", "action_embedding.weight"):
        assert torch.equal(agent.state_dict()[name][new], fresh[name][new]), name


def test_what_the_new_world_lacks_is_dropped(tmp_path: Path) -> None:
    path = saved(agent_in(world(), 0), tmp_path)
    actions = [action.model_dump(exclude_none=True) for action in world().actions if action.key != "swap"]
    agent = agent_in(world(inventory_item_names=ITEMS[:5], actions=actions, objects=objects_of(ITEMS[:5])), 1)
    transfer = transferred(agent, path)
    assert transfer.new == ()
    assert {"action swap", "item blueprint", "item ore_blue"} <= set(transfer.dropped)
    assert transfer.num_loaded == transfer.num_weights


def objects_of(items: list[str]) -> list[dict[str, Any]]:
    """The objects of the catalog that need no other items."""
    entries = [entry.model_dump(exclude_none=True) for entry in world().objects]
    return [entry for entry in entries if set(entry.get("inputs", {})) | set(entry.get("outputs", {})) <= set(items)]


@pytest.mark.parametrize("window", [3, 7])
def test_cells_of_another_window_are_matched_by_their_offset(window: int, tmp_path: Path) -> None:
    """A policy in a larger window at first acts as before: the cells outside of the old one have zero weights."""
    there = world(observation_width=window, observation_height=window)
    source, agent = agent_in(world(), 0, backbone="mlp"), agent_in(there, 1, backbone="mlp")
    transfer = transferred(agent, saved(source, tmp_path))
    assert (transfer.new, transfer.dropped) == ((), ())
    assert transfer.differing[0] == f"env.game.observation_height is {window} here and 5 in the file"
    if window == 7:
        assert transfer.num_loaded < transfer.num_weights
        for ours, theirs in zip(outputs(agent, seen_in(there)), outputs(source, seen_in(world())), strict=True):
            torch.testing.assert_close(ours, theirs)
    attention = agent_in(there, 1, backbone="attention")
    assert transferred(attention, saved(agent_in(world(), 0, backbone="attention"), tmp_path)).new == ()


NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], list[str]]] = {
    "backbone": ({"backbone": "mlp"}, {"backbone": "attention"}, ["backbone"], ["backbone"]),
    "memory": ({}, {"memory": "mingru"}, ["memory"], ["memory"]),
    "no memory": ({}, {"forward_lstm": False}, [], ["memory"]),
    "new memory": ({"forward_lstm": False}, {}, ["memory"], []),
    "lstm_layers": ({}, {"lstm_layers": 2}, ["memory (lstm.ih_l1, lstm.hh_l1)"], []),
    "mlp_layers": ({"mlp_layers": 2}, {}, [], ["policy head (hidden.2)", "value head (hidden.2)"]),
    "use_prev_action": ({}, {"use_prev_action": False}, [], ["previous action"]),
    "use_prev_reward": ({"use_prev_reward": False}, {}, ["previous reward"], []),
    "use_cell_ahead": ({}, {"use_cell_ahead": False}, [], ["cell ahead"]),
    "egocentric": ({}, {"egocentric": True}, [], []),
    "obs_scale": ({}, {"obs_scale": 2.0}, [], []),
    "mask_actions": ({}, {"mask_actions": True}, [], []),
}
"""changed setting -> settings of the file, settings here, what is new, what is dropped"""


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_that_do_not_fit_are_new_and_listed(name: str, tmp_path: Path) -> None:
    there, here, new, dropped = NETWORKS[name]
    source, agent = agent_in(world(), 0, **there), agent_in(world(), 1, **here)
    fresh = {key: weight.clone() for key, weight in agent.state_dict().items()}
    transfer = transferred(agent, saved(source, tmp_path))
    assert (list(transfer.new), list(transfer.dropped)) == (new, dropped)
    setting = f"agent.{(there | here).popitem()[0]} is "
    assert len(transfer.differing) == 1
    assert transfer.differing[0].startswith(setting)
    loaded = 0
    for key, weight in agent.named_parameters():
        is_theirs = key in source.state_dict() and torch.equal(weight, source.state_dict()[key])
        assert is_theirs or torch.equal(weight, fresh[key]), key
        loaded += weight.numel() * is_theirs
    assert transfer.num_loaded == loaded


def test_a_larger_network_takes_over_what_does_not_depend_on_its_width(tmp_path: Path) -> None:
    path = saved(agent_in(world(), 0, backbone="cnn"), tmp_path)
    transfer = transferred(agent_in(world(), 1, backbone="cnn", hidden_dim=24), path)
    parts = ["cell ahead", "backbone (layers.4)", "previous action", "previous reward", "memory"]
    assert list(transfer.new) == [*parts, "policy head", "value head"] == list(transfer.dropped)
    assert 0 < transfer.num_loaded < transfer.num_weights
    agent = agent_in(world(), 1, backbone="mlp", hidden_dim=24)
    before = {name: weight.clone() for name, weight in agent.state_dict().items()}
    message = r"no weights of .* fit this network: agent.hidden_dim is 24 here and 16 in the file; .*; set these as in"
    with pytest.raises(CheckpointError, match=message):
        transfer_weights(agent, path)
    assert all(torch.equal(weight, before[name]) for name, weight in agent.state_dict().items())


def test_statistics_of_values_are_folded_into_the_value_head(tmp_path: Path) -> None:
    source, agent = agent_in(world(), 0), agent_in(world(), 1)
    source.observe_value_targets(torch.tensor([3.0, 5.0, 10.0]), 0.9)
    transferred(agent, saved(source, tmp_path))
    observations = seen_in(world())
    torch.testing.assert_close(outputs(agent, observations)[1], outputs(source, observations)[1])
    head = agent.value_head
    assert (head.mean.item(), head.std.item(), head.moments.tolist()) == (0.0, 1.0, [0.0, 0.0, 0.0])
    agent.observe_value_targets(torch.tensor([0.0, 2.0]), 0.9)
    assert (head.mean.item(), head.std.item()) == (1.0, 1.0)  # of the new world alone
    torch.testing.assert_close(outputs(agent, observations)[1], outputs(source, observations)[1])


def test_the_file_is_checked(tmp_path: Path) -> None:
    agent = agent_in(world(), 1)
    with pytest.raises(CheckpointError, match="does not exist"):
        transfer_weights(agent, tmp_path / "gone.pt")
    path = saved(agent_in(world(), 0), tmp_path)
    content = torch.load(path, weights_only=True)
    content["weights"]["policy_head.output.bias"] = torch.zeros(400)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"is not valid: policy_head.output.bias has shape \[400\] in the file"):
        transfer_weights(agent, path)
