"""A policy in an environment with other ids, or with more or fewer names: weights are matched by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from custom_memory import EVERY_MEMORY
from typer.testing import CliRunner

from metta.api import (
    AgentModelConfig,
    EnvConfig,
    MettaAgent,
    RunConfig,
    dump_config,
    evaluate,
    load_checkpoint,
    load_policy,
    make_agent,
    make_environment,
    save_checkpoint,
)
from metta.checkpoint.weight_remapping import row_names
from metta.config.env.objects import CATALOG, DEFAULT_ACTIONS, DEFAULT_ITEMS
from metta.errors import CheckpointError
from metta_cli.main import app

OBJECTS = [entry.model_dump(exclude_none=True) for entry in CATALOG.values()]
ACTIONS = [entry.model_dump(exclude_none=True) for entry in DEFAULT_ACTIONS]
BACKBONES = pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])


def world(
    items: list[str] = DEFAULT_ITEMS,
    actions: list[dict[str, Any]] = ACTIONS,
    type_ids: dict[str, int] | None = None,
    **game: Any,
) -> EnvConfig:
    objects = [entry | {"type_id": (type_ids or {}).get(entry["name"], entry["type_id"])} for entry in OBJECTS]
    return EnvConfig.model_validate(
        {
            "game": {
                "num_agents": 3,
                "width": 9,
                "height": 9,
                "max_steps": 30,
                "num_observation_tokens": 150,  # nothing is cut off, which goes by the order of tokens
                "observation_width": 5,
                "observation_height": 5,
                "inventory_item_names": items,
                "groups": {"red": {"id": 0}, "blue": {"id": 4}},
            }
            | game,
            "actions": actions,
            "objects": objects,
            "map_builder": {"border_width": 1, "objects": {"mine_red": 4, "generator_red": 3, "altar": 2, "block": 3}},
        }
    )


HOME = world()
TYPES = {"mine_red": 30, "altar": 2, "wall": 31, "block": 16, "generator_red": 1, "mine_blue": 5, "generator_blue": 3}
PERMUTED = world(DEFAULT_ITEMS[::-1], [ACTIONS[0], *ACTIONS[:0:-1]], TYPES)
"""The first action stays first: at the first step, tokens show it as the previous action."""
LARGER = world(
    ["coal", *DEFAULT_ITEMS[::-1], "cake"],
    [{"type": "gift", "key": "present", "item": "cake"}, *ACTIONS, {"type": "noop", "key": "sleep"}],
    TYPES,
    groups={"green": {"id": 2}, "red": {"id": 0}, "blue": {"id": 4}},
    num_agents=3,
)


def trained(config: EnvConfig, backbone: str, **settings: Any) -> MettaAgent:
    """A policy whose actions depend strongly on its inputs, as those of trained policies do."""
    torch.manual_seed(3)
    env = make_environment(config, seed=0)
    model = AgentModelConfig.model_validate({"hidden_dim": 16, "mlp_layers": 1, "backbone": backbone} | settings)
    agent = make_agent(env.single_observation_space, env.single_action_space, ["hp"], torch.device("cpu"), model)
    with torch.no_grad():
        agent.policy_head.output.weight *= 300
        agent.policy_head.output.bias.uniform_(-1, 1)
    return agent


def translated(observations: np.ndarray, here: EnvConfig, there: EnvConfig) -> np.ndarray:
    """The same observations with the ids of another environment."""
    features = {i: there.spec.feature_names.index(name) for i, name in enumerate(here.spec.feature_names)}
    types = {i: there.spec.object_type_names.index(name) for i, name in enumerate(here.spec.object_type_names) if name}
    known = there.spec.action_names
    actions = {i: known.index(name) for i, name in enumerate(here.spec.action_names) if name in known}
    renumbered = observations.copy()
    for agent, token in np.argwhere(observations[:, :, 0] != 255):
        _, feature, value = observations[agent, token]
        name = here.spec.feature_names[feature]
        renumbered[agent, token, 1] = features[feature]
        renumbered[agent, token, 2] = (
            types[value] if name == "type_id" else actions[value] if name == "last_action" else value
        )
    return renumbered


def by_name(agent: MettaAgent, logits: torch.Tensor) -> dict[tuple[str, int], torch.Tensor]:
    names = [(agent.spec.action_names[action], argument) for action, argument in agent.spec.flat_actions]
    return dict(zip(names, logits.log_softmax(-1).unbind(-1), strict=True))


@pytest.mark.usefixtures("average_memory")
@pytest.mark.parametrize(
    ("backbone", "memory"),
    [("cnn", "lstm"), ("mlp", "lstm"), ("attention", "lstm"), *(("mlp", memory) for memory in EVERY_MEMORY[1:])],
)
@pytest.mark.parametrize("other", [PERMUTED, LARGER], ids=["permuted", "larger"])
def test_logits_and_values_are_equal_for_equal_observations(
    backbone: str, memory: str, other: EnvConfig, tmp_path: Path
) -> None:
    home = trained(HOME, backbone, memory=memory, memory_window=4)
    save_checkpoint(home, tmp_path)
    abroad = load_policy(tmp_path / "checkpoint_000000.pt", env_config=other).agent
    assert abroad.spec == other.spec
    env = make_environment(HOME)
    observations, _ = env.reset(seed=1)
    generator = torch.Generator().manual_seed(0)
    here, there = home.initial_memory(env.agents), abroad.initial_memory(env.agents)
    episode_starts = torch.zeros(1, env.agents, dtype=torch.bool)
    seen = set()
    for _ in range(25):
        renumbered = translated(observations, HOME, other)
        seen |= set(observations[:, :, 1][observations[:, :, 0] != 255].tolist())
        logits, values, here = home(torch.from_numpy(observations).unsqueeze(0), here, episode_starts)
        logits_there, values_there, there = abroad(torch.from_numpy(renumbered).unsqueeze(0), there, episode_starts)
        assert torch.allclose(values, values_there, atol=1e-5)
        mine, theirs = by_name(home, logits[0]), by_name(abroad, logits_there[0])
        for name, log_prob in mine.items():
            assert torch.allclose(log_prob, theirs[name], atol=1e-4), name
        assert all(bool((theirs[name] < -1000).all()) for name in theirs.keys() - mine.keys())
        action_index = torch.multinomial(logits[0].softmax(-1), 1, generator=generator).squeeze(1)
        observations, *_ = env.step(home.flat_actions[action_index].numpy())
    assert len(seen) > 6, "too few features were seen"


@BACKBONES
def test_episodes_are_equal(backbone: str, tmp_path: Path) -> None:
    save_checkpoint(trained(HOME, backbone), tmp_path)
    played = [
        evaluate(
            load_policy(tmp_path / "checkpoint_000000.pt", env_config=config).agent,
            make_environment(config),
            num_episodes=6,
            deterministic=True,
        )
        for config in (HOME, PERMUTED)
    ]
    assert played[0].episode_rewards.tolist() == pytest.approx(played[1].episode_rewards.tolist())
    assert played[0].stats == pytest.approx(played[1].stats)
    assert played[0].stats["action.move.success"] > 0


def test_unknown_names_are_listed(tmp_path: Path) -> None:
    save_checkpoint(trained(HOME, "mlp"), tmp_path)
    path = tmp_path / "checkpoint_000000.pt"
    assert load_policy(path).unknown == ()
    assert load_policy(path, env_config=PERMUTED).unknown == ()
    found = load_policy(path, env_config=LARGER).unknown
    assert found == ("group 2", "item coal", "item cake", "action present", "action sleep")


def test_the_command_line_lists_unknown_names(tmp_path: Path) -> None:
    save_checkpoint(trained(HOME, "mlp"), tmp_path)
    (tmp_path / "larger.toml").write_text(dump_config(RunConfig(env=LARGER)), encoding="utf-8")
    arguments = [str(tmp_path / "checkpoint_000000.pt"), "--env", str(tmp_path / "larger.toml"), "--episodes", "1"]
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert result.exit_code == 0, result.output
    assert "note: the policy was trained without these and ignores them: group 2, item coal, item" in result.stderr


def test_an_environment_with_fewer_names(tmp_path: Path) -> None:
    save_checkpoint(trained(LARGER, "cnn"), tmp_path)
    fewer = world(["coal", *DEFAULT_ITEMS, "cake"], LARGER.model_dump(exclude_none=True)["actions"])
    assert load_policy(tmp_path / "checkpoint_000000.pt", env_config=fewer).unknown == ()


def test_load_checkpoint_into_an_agent_of_another_environment(tmp_path: Path) -> None:
    home, abroad = trained(HOME, "mlp"), trained(PERMUTED, "mlp")
    save_checkpoint(home, tmp_path)
    load_checkpoint(abroad, tmp_path / "checkpoint_000000.pt")
    again = tmp_path / "again"
    save_checkpoint(abroad, again)
    back = load_policy(again / "checkpoint_000000.pt", env_config=HOME).agent
    for name, weight in home.state_dict().items():
        if name != "action_embedding.weight":
            assert torch.equal(weight, back.state_dict()[name]), name


@BACKBONES
def test_actions_that_do_not_exist_are_never_sampled(backbone: str, tmp_path: Path) -> None:
    """The others keep their proportions."""
    kinds = {action["key"]: action for action in ACTIONS}
    # a rotation by an angle is another action than one to a direction
    fewer = world(DEFAULT_ITEMS, [kinds["noop"], kinds["rotate"] | {"delta": 1}, kinds["get_output"], kinds["move"]])
    kept = ("noop", "get_output", "move")
    home = trained(HOME, backbone)
    save_checkpoint(home, tmp_path)
    loaded = load_policy(tmp_path / "checkpoint_000000.pt", env_config=fewer)
    assert loaded.missing == tuple(
        f"action {name}" for name in dict.fromkeys(HOME.spec.action_names) if name not in kept
    )
    env = make_environment(HOME)
    observations, _ = env.reset(seed=1)
    starts = torch.zeros(1, env.agents, dtype=torch.bool)
    known = torch.from_numpy(observations).unsqueeze(0)
    logits, values, _ = home(known, home.initial_memory(env.agents), starts)
    renumbered = translated(observations, HOME, fewer)
    there, values_there, _ = loaded.agent(
        torch.from_numpy(renumbered).unsqueeze(0), loaded.agent.initial_memory(env.agents), starts
    )
    assert torch.allclose(values, values_there, atol=1e-5)
    mine, theirs = by_name(home, logits[0]), by_name(loaded.agent, there[0])
    total = torch.stack([mine[name] for name in theirs if name[0] in kept]).logsumexp(0)
    for name, log_prob in theirs.items():
        if name[0] in kept:
            assert torch.allclose(log_prob, mine[name] - total, atol=1e-4), name
        else:
            assert (log_prob < -1000).all(), name
    assert evaluate(loaded.agent, make_environment(fewer), 2).stats["action.move.success"] > 0


def test_a_world_without_any_action_of_the_policy_is_refused(tmp_path: Path) -> None:
    save_checkpoint(trained(world(actions=ACTIONS[:3]), "mlp"), tmp_path)
    reason = "none of the policy's actions (noop, move, rotate) exists in this environment"
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        load_policy(tmp_path / "checkpoint_000000.pt", env_config=world(actions=[{"type": "move", "key": "walk"}]))


def test_a_world_without_a_feature_of_the_policy_is_refused(tmp_path: Path) -> None:
    feature = {"type": "nearest_seen", "name": "altars", "settings": {"to": "altar"}}
    save_checkpoint(trained(HOME.override(features=[feature]), "mlp"), tmp_path)
    with pytest.raises(CheckpointError, match="the feature altars, which the policy reads, does not exist here"):
        load_policy(tmp_path / "checkpoint_000000.pt", env_config=HOME)
    others = HOME.override(features=[{**feature, "name": "other"}, feature])
    assert load_policy(tmp_path / "checkpoint_000000.pt", env_config=others).unknown == ("feature other",)


@BACKBONES
def test_every_weight_whose_size_depends_on_the_environment_has_row_names(backbone: str) -> None:
    small, large = trained(HOME, backbone), trained(LARGER, backbone)
    sizes = {name: weight.shape for name, weight in small.named_parameters()}
    grown = {name for name, weight in large.named_parameters() if weight.shape != sizes[name]}
    named, of_larger = (row_names(config.spec, small.config) for config in (HOME, LARGER))
    assert grown == {name for name, (_, names) in named.items() if len(names) != len(of_larger[name][1])}
    for name, (dimension, names) in named.items():
        assert sizes[name][dimension] == len(names) == len(set(names))
