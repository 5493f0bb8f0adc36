"""Checkpoints with several policies: saving, loading all or one of them, and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metta.api import (
    AgentModelConfig,
    EnvConfig,
    MettaAgent,
    RandomPolicy,
    Team,
    load_checkpoint,
    load_policy,
    make_agent,
    make_environment,
    read_policy_file,
    save_checkpoint,
    transfer_weights,
)
from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.checkpoint.policy_file import KIND
from metta.errors import CheckpointError, UsageError

WORLD: dict[str, Any] = {
    "game": {
        "num_agents": 3,
        "width": 6,
        "height": 6,
        "max_steps": 5,
        "num_observation_tokens": 30,
        "observation_width": 5,
        "observation_height": 5,
        "groups": {"hunters": {"id": 0}, "prey": {"id": 1}},
    },
    "map_builder": {"border_width": 0, "agents": {"hunters": 2, "prey": 1}, "objects": {}},
}
ENV = EnvConfig.model_validate(WORLD)
GROUPS = {"chasers": ["hunters"], "runners": ["prey"]}


def agent(hidden_dim: int = 8, seed: int = 0, **settings: Any) -> MettaAgent:
    env = make_environment(ENV, seed=0)
    torch.manual_seed(seed)
    config = AgentModelConfig(hidden_dim=hidden_dim, mlp_layers=1, **settings)
    return make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)


def team(seed: int = 0) -> Team:
    return Team({"chasers": agent(8, seed), "runners": agent(16, seed, memory="mingru")}, GROUPS, {"runners": 0})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(team(), tmp_path, epoch=7, metadata={"note": "two"})
    return tmp_path / "checkpoint_000007.pt"


def weights(policy: object) -> dict[str, torch.Tensor]:
    assert isinstance(policy, MettaAgent)
    return policy.state_dict()


def assert_equal(first: object, second: object) -> None:
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=0)


def test_a_team_is_loaded_with_its_policies_and_their_agents(path: Path) -> None:
    loaded, saved = load_policy(path), team()
    assert loaded.metadata == {"note": "two", "epoch": 7}
    assert list(loaded.team.policies) == list(saved.policies)
    assert {name: list(groups) for name, groups in loaded.team.groups.items()} == GROUPS
    assert loaded.team.members == {"runners": 0}
    assert {name: each.config.hidden_dim for name, each in loaded.agents.items()} == {"chasers": 8, "runners": 16}
    for name in saved.policies:
        assert_equal(loaded.agents[name], saved.policies[name])


def test_the_window_of_each_policy_is_its_own(path: Path, tmp_path: Path) -> None:
    wide = EnvConfig.model_validate(WORLD | {"game": WORLD["game"] | {"observation_width": 9}})
    narrow = load_policy(path, env_config=wide).agents["chasers"]
    env = make_environment(wide, seed=0)
    config = AgentModelConfig(hidden_dim=8, mlp_layers=1)
    own = make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)
    save_checkpoint(Team({"chasers": narrow, "runners": own}, GROUPS), tmp_path, epoch=8)
    loaded = load_policy(tmp_path / "checkpoint_000008.pt")
    assert loaded.env_config.game.observation_width == 9
    assert {name: each.network_spec.observation_width for name, each in loaded.agents.items()} == {
        "chasers": 5,
        "runners": 9,
    }
    assert loaded.notes == (
        "the policy chasers was trained with a window of 5 x 5 cells; here it sees the middle 5 x 5 of 5 x 9",
    )


@pytest.mark.parametrize("name", ["chasers", "runners"])
def test_one_policy_of_a_file_is_like_a_file_with_one_policy(path: Path, name: str) -> None:
    for loaded in (load_policy(path, policy=name), load_policy(f"{path}:{name}")):
        assert_equal(loaded.agent, team().policies[name])
        assert (dict(loaded.team.groups), dict(loaded.team.members)) == ({}, {})
    other = agent(8, 1) if name == "chasers" else agent(16, 1, memory="mingru")
    assert load_checkpoint(other, f"{path}:{name}")["epoch"] == 7
    assert_equal(other, team().policies[name])
    other = agent(8, 2) if name == "chasers" else agent(16, 2, memory="mingru")
    assert not transfer_weights(other, f"{path}:{name}").new
    assert_equal(other, team().policies[name])


def test_weights_of_a_team_are_loaded_by_name(path: Path) -> None:
    other = team(seed=1)
    assert load_checkpoint(
        Team(dict(sorted(other.policies.items(), reverse=True)), other.groups, other.members), path
    ) == {
        "note": "two",
        "epoch": 7,
    }
    for name, saved in team().policies.items():
        assert_equal(other.policies[name], saved)


def test_a_policy_without_a_team_is_saved_as_in_earlier_versions(tmp_path: Path) -> None:
    save_checkpoint(agent(), tmp_path)
    content = read_torch_file(tmp_path / "checkpoint_000000.pt", KIND)
    assert content.keys() == {"epoch", "metadata", "agent_config", "env_config", "global_features", "weights"}
    assert list(read_policy_file(tmp_path / "checkpoint_000000.pt").policies) == [""]


def test_errors_name_the_policies_of_the_file(path: Path, tmp_path: Path) -> None:
    save_checkpoint(agent(), tmp_path / "single")
    single = tmp_path / "single" / "checkpoint_000000.pt"
    several = rf"{path} holds several policies \(chasers, runners\); name one of them, such as {path}:chasers"
    with pytest.raises(CheckpointError, match=several):
        load_checkpoint(agent(), path)
    with pytest.raises(CheckpointError, match=several):
        transfer_weights(agent(), path)
    with pytest.raises(UsageError, match=r'several policies \(chasers, runners\).*policy="chasers"'):
        _ = load_policy(path).agent
    with pytest.raises(CheckpointError, match=r'no policy "runer": it holds chasers, runners; did you mean "runners"'):
        load_policy(path, policy="runer")
    with pytest.raises(CheckpointError, match='no policy "runers"'):
        read_policy_file(f"{path}:runers")
    with pytest.raises(CheckpointError, match='no policy "runners": its only one has no name'):
        load_policy(f"{single}:runners")
    with pytest.raises(CheckpointError, match="holds a policy without a name; the policies here are chasers, runners"):
        load_checkpoint(team(), single)
    untrained = Team({"chasers": agent(16, 3), "runners": agent(16, 3, memory="mingru")}, GROUPS)
    before = {name: value.clone() for name, value in weights(untrained.policies["runners"]).items()}
    with pytest.raises(CheckpointError, match=r"the policy chasers of .*hidden_dim is 16 here and 8 in the"):
        load_checkpoint(untrained, path)
    torch.testing.assert_close(weights(untrained.policies["runners"]), before, rtol=0, atol=0)
    with pytest.raises(UsageError, match='holds networks; the policy "runners" is a RandomPolicy'):
        save_checkpoint(Team({"chasers": agent(), "runners": RandomPolicy(ENV.spec)}), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": {}}, "policies: Extra inputs"),
        ({"policies": 3}, "policies: Extra inputs"),
        ({"policies": {"../x": {}}}, r"policies.../x.*pattern"),
        ({"policies": {"a": 3}}, "policies.a..*dictionary"),
        ({"policies": {"a": {}}}, "policies.a.agent_config: Field required"),
        ({"weights": {}}, "policies: Extra inputs"),
        ({"env_config": 3}, "env_config: Input should be"),
    ],
)
def test_invalid_files_are_refused(path: Path, change: dict[str, Any], message: str) -> None:
    write_torch_file(path, KIND, read_torch_file(path, KIND) | change)
    with pytest.raises(CheckpointError, match=message):
        read_policy_file(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("member", -1, "policies.chasers.member"),
        ("groups", "prey", "policies.chasers.groups"),
        ("window", {"observation_width": 4}, "policies.chasers.game"),
        ("window", {"width": 4}, "policies.chasers.window"),
        ("weights", {}, "its config needs"),
        ("more", 1, "policies.chasers.more"),
    ],
)
def test_invalid_policies_are_refused(path: Path, key: str, value: object, message: str) -> None:
    content = read_torch_file(path, KIND)
    content["policies"]["chasers"][key] = value
    write_torch_file(path, KIND, content)
    with pytest.raises(CheckpointError, match=message):
        read_policy_file(path)
