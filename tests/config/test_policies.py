"""The tables `[policies.NAME]`: the settings of each policy, overrides, paths, curricula, `metta check`."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from metta.config.batch_plan import plan_batch
from metta.config.loading.config_changes import config_changes
from metta.config.loading.load import dump_config, load_config, load_tasks, parse_config
from metta.config.loading.reference import config_reference
from metta.config.plan.check import derived
from metta.config.plan.memory_estimate import memory_parts
from metta.config.policies import POLICY_TABLES, PolicySettings, joint_plan, num_agents_of, num_learners_of, table_of
from metta.config.run import RunConfig, policy_settings
from metta.config.training import ExperienceConfig
from metta.errors import ConfigError

WORLD = """
[env.game]
num_agents = 6
groups = { predators = { id = 0 }, prey = { id = 1 } }

[experience]
batch_size = 1536
minibatch_size = 128
bptt_horizon = 8
forward_pass_minibatch_target_size = 24
"""
TWO = (
    WORLD
    + """
[ppo]
gamma = 0.9
ent_coef = 0.01

[policies.hunters]
groups = ["predators"]
agent = { hidden_dim = 64, memory = "mingru" }
ppo = { gamma = 0.99 }

[policies.grazers]
groups = ["prey"]
agent = { hidden_dim = 32 }
"""
)


def config_of(text: str, *overrides: str) -> RunConfig:
    return parse_config(text, "a.toml", overrides)


def by_name(config: RunConfig) -> dict[str, PolicySettings]:
    return {policy.name: policy for policy in policy_settings(config)}


def test_without_the_tables_one_policy_without_a_name_has_those_of_the_file() -> None:
    config = config_of(WORLD)
    (policy,) = policy_settings(config)
    assert (policy.name, policy.groups, policy.member, policy.train) == ("", (), None, True)
    assert all(getattr(policy, table) is getattr(config, table) for table in POLICY_TABLES)
    assert num_agents_of(policy, config.env) == num_learners_of(policy, config.env) == 6
    plan = joint_plan(config.experience, [policy], config.env)
    assert plan == plan.of_policy(6) == plan_batch(config.experience, 6)


def test_small_forward_passes_of_several_policies_are_put_together() -> None:
    config = ExperienceConfig(batch_size=16_384, minibatch_size=2_048, forward_pass_minibatch_target_size=128)
    for fewest, factor, batches in ((6, 2, 2), (3, 2, 1), (3, 4, 2), (1, 2, 1), (1, 9, 2)):
        plan = plan_batch(config.model_copy(update={"async_factor": factor}), 6, 0, fewest)
        assert plan.num_world_batches == batches, (fewest, factor)
    large = ExperienceConfig(batch_size=131_072, forward_pass_minibatch_target_size=1_024)
    assert plan_batch(large, 6, 0, 3) == replace(plan_batch(large, 6), fewest_learners=3)


def test_a_policy_has_the_values_of_the_file_but_for_its_own() -> None:
    policies = by_name(config_of(TWO))
    hunters, grazers = policies["hunters"], policies["grazers"]
    assert (hunters.agent.hidden_dim, hunters.agent.memory, grazers.agent.hidden_dim) == (64, "mingru", 32)
    assert (hunters.ppo.gamma, hunters.ppo.ent_coef, grazers.ppo.gamma) == (0.99, 0.01, 0.9)
    assert (hunters.groups, grazers.groups) == (("predators",), ("prey",))


def test_the_value_of_every_table_can_differ() -> None:
    values: dict[str, dict[str, Any]] = {
        "agent": {"hidden_dim": 8},
        "optimizer": {"type": "muon"},
        "lr_schedule": {"warmup_steps": 3},
        "ppo": {"target_kl": 0.5},
        "vtrace": {"enabled": True},
        "prioritized_sampling": {"alpha": 0.1},
        "normalization": {"values": True},
        "kickstarting": {"teacher": "scripted"},
        "self_play": {"share": 0.5, "snapshot_interval": 2},
    }
    assert set(values) == set(POLICY_TABLES)
    config = RunConfig.model_validate(
        tomllib.loads(WORLD)
        | {"policies": {"hunters": {"groups": ["predators"], **values}, "grazers": {"groups": ["prey"]}}}
    )
    policies = by_name(config)
    for table, given in values.items():
        for key, value in given.items():
            assert getattr(getattr(policies["hunters"], table), key) == value
        assert getattr(policies["grazers"], table) == getattr(config, table)
    assert parse_config(dump_config(config), "dumped") == config
    assert num_learners_of(policies["hunters"], config.env) == 1  # round(0.5 * 3) opponents of its three agents


def test_policies_of_their_own_for_each_agent_of_a_group() -> None:
    config = config_of(TWO, "policies.hunters.share=false")
    policies = policy_settings(config)
    assert [policy.name for policy in policies] == ["hunters_0", "hunters_1", "hunters_2", "grazers"]
    assert [policy.member for policy in policies] == [0, 1, 2, None]
    assert {table_of(policy) for policy in policies} == {"hunters", "grazers"}
    assert [num_agents_of(policy, config.env) for policy in policies] == [1, 1, 1, 3]
    assert all(policy.agent.hidden_dim == 64 for policy in policies[:3])


def test_a_frozen_policy_learns_nothing_and_takes_no_opponents_from_the_file() -> None:
    shared = "[kickstarting]\nteacher = 'scripted'\n[self_play]\nshare = 0.4\nsnapshot_interval = 5\n"
    config = config_of(TWO + shared, "policies.grazers={groups=['prey'], train=false, init_from='prey.pt'}")
    policies = by_name(config)
    grazers, hunters = policies["grazers"], policies["hunters"]
    assert (grazers.train, grazers.kickstarting.teacher, grazers.self_play.is_on) == (False, "", False)
    assert (num_learners_of(grazers, config.env), num_agents_of(grazers, config.env)) == (0, 3)
    assert hunters.kickstarting.teacher == "scripted"
    assert num_learners_of(hunters, config.env) == 2  # of three agents, round(0.4 * 3) = 1 is an opponent
    started = config_of(TWO, "run.init_from=all.pt", "policies.grazers={groups=['prey'], train=false}")
    assert [policy.init_from for policy in policy_settings(started)] == ["all.pt", "all.pt"]


def test_overrides_set_and_unset_a_value_of_one_policy() -> None:
    config = config_of(TWO, "policies.hunters.ppo.gamma=0.5", "policies.grazers.optimizer.learning_rate=1e-3")
    assert (by_name(config)["hunters"].ppo.gamma, by_name(config)["grazers"].optimizer.learning_rate) == (0.5, 0.001)
    assert "gamma" not in config_of(TWO, "policies.hunters.ppo.gamma=none").policies["hunters"].ppo
    assert by_name(config_of(TWO, "policies.hunters.ppo.gamma=none"))["hunters"].ppo.gamma == 0.9
    with pytest.raises(ConfigError, match=r"--set +policies\.hunters\.ppo\.gamma +must be at most 1; got 1\.5"):
        config_of(TWO, "policies.hunters.ppo.gamma=1.5")
    with pytest.raises(ConfigError, match=r'--set +policies\.hunters\.gama +unknown key; did you mean .*ppo\.gamma"'):
        config_of(TWO, "policies.hunters.gama=0.5")


@pytest.mark.parametrize("is_set_before", [True, False])
def test_a_change_of_one_value_can_be_repeated_as_an_override(is_set_before: bool) -> None:
    """As `--or-resume` does with the changes of a file."""
    configs = [config_of(TWO, "policies.hunters.ppo.gamma=none"), config_of(TWO)]
    before, now = configs[::-1] if is_set_before else configs
    (change,) = config_changes(before, now)
    assert change.key == "policies.hunters.ppo.gamma"
    override = change.override("--or-resume")
    data = before.model_dump(exclude_none=True)
    override.apply(data)
    assert RunConfig.model_validate(data) == now


def test_the_paths_of_all_policies_are_found() -> None:
    grazers_table = 'groups = ["prey"]\ninit_from = "p.pt"\nkickstarting = {teacher = "t.pt"}'
    text = TWO.replace('groups = ["prey"]', grazers_table)
    text = text.replace("[policies.hunters]", '[policies.hunters]\nkickstarting = {teacher = "scripted"}')
    text += "[policies.grazers.self_play]\nshare = 0.5\npolicies = ['a.pt', 'b.pt']\n"
    config = config_of(text, "run.init_from=r.pt")
    found: dict[tuple[str | int, ...], str] = {}
    changed = config.with_policies(lambda key, path: found.setdefault(key, path) and f"/x/{path}")
    grazers = ("policies", "grazers")
    assert found == {
        ("run", "init_from"): "r.pt",
        (*grazers, "init_from"): "p.pt",
        (*grazers, "kickstarting", "teacher"): "t.pt",
        (*grazers, "self_play", "policies", 0): "a.pt",
        (*grazers, "self_play", "policies", 1): "b.pt",
    }
    policies = by_name(changed)
    assert policies["grazers"].init_from == "/x/p.pt"
    assert policies["hunters"].init_from == "/x/r.pt"
    assert policies["hunters"].kickstarting.teacher == "scripted"
    assert policies["grazers"].kickstarting.teacher == "/x/t.pt"
    assert policies["grazers"].self_play.policies == ["/x/a.pt", "/x/b.pt"]


def world_of(directory: Path, name: str, drawing: str, count: int) -> None:
    tables = tomllib.loads(WORLD)["env"]
    tables["game"] |= {"num_agents": count}
    legend = {"r": "agent.predators", "p": "agent.prey"}
    tables["map_builder"] = {"type": "Ascii", "map": drawing, "legend": legend}
    (directory / name).write_text(tomli_w.dumps({"env": tables}), encoding="utf-8")


def test_worlds_of_a_curriculum_give_each_policy_the_same_number_of_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world_of(tmp_path, "one.toml", "#####\n#rrp#\n#...#\n#####", 3)
    world_of(tmp_path, "two.toml", "#####\n#rpp#\n#...#\n#####", 3)
    text = TWO.replace("[env.game]\nnum_agents = 6\ngroups = { predators = { id = 0 }, prey = { id = 1 } }\n", "")
    (tmp_path / "run.toml").write_text(text + "[curriculum]\nscenes = ['one.toml', 'one.toml']\n")
    config = load_config("run.toml")
    first = load_tasks(config).env_configs[0]
    assert [num_agents_of(policy, first) for policy in policy_settings(config, first)] == [2, 1]
    (tmp_path / "run.toml").write_text(text + "[curriculum]\nscenes = ['one.toml', 'two.toml']\n")
    with pytest.raises(ConfigError) as caught:
        load_config("run.toml")
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == ("curriculum.scenes[1]", 22)
    assert problem.message == (
        "must give each policy the same number of agents in all worlds; policy hunters has 1 agents in two.toml and 2 "
        "in one.toml"
    )
    (tmp_path / "run.toml").write_text(text.replace('"prey"', '"sheep"') + "[curriculum]\nscenes = ['one.toml']\n")
    with pytest.raises(ConfigError, match='unknown group "sheep"'):
        load_config("run.toml")


def test_check_shows_the_numbers_of_each_policy() -> None:
    config = config_of(TWO)
    rows = {row.name: row.number for row in derived(config)}
    shared = {row.name: row.number for row in derived(config_of(WORLD))}
    for name in ("worlds", "agents", "steps per epoch", "epochs"):
        assert rows[name] == shared[name]
    for policy in policy_settings(config):
        assert rows[f"{policy.name}: agents per world"] == 3
        assert rows[f"{policy.name}: minibatches"] == 6  # half of 1536 / 128
    assert shared["minibatches"] == 12
    assert rows["hunters: discount horizon"] == pytest.approx(100)
    assert rows["grazers: discount horizon"] == pytest.approx(10)
    parts = memory_parts(config, config.env, config.env.game.width * config.env.game.height)
    experience = {part.policy: part.bytes for part in parts if part.name == "experience"}
    for name, own in experience.items():
        assert rows[f"{name}: experience"] == own
    (one,) = [
        part.bytes
        for part in memory_parts(config_of(WORLD, "agent.hidden_dim=64"), config.env, 100)
        if part.name == "experience"
    ]
    assert sum(experience.values()) < one
    # as many policies as agents cost as much as that many alike
    alone = {row.name: row.number for row in derived(config_of(TWO, "policies.hunters.share=false"))}
    assert (alone["hunters: policies"], alone["hunters: minibatches"]) == (3, 2)
    assert alone["hunters: memory of policy"] == 3 * rows["hunters: memory of policy"]


def test_a_policy_has_at_least_one_minibatch_and_at_most_one_for_each_segment() -> None:
    config = config_of(TWO, "experience.minibatch_size=1536")
    plan = joint_plan(config.experience, policy_settings(config), config.env)
    assert plan.num_minibatches == plan.of_policy(1).num_minibatches == 1
    assert plan.of_policy(2).num_learners == 2
    assert sum(plan.of_policy(count).batch_size for count in (1, 2, 3)) == plan.batch_size


@pytest.mark.parametrize("key", ["policies.hunters.groups", "policies.NAME.ppo", "policies.hunters.ppo.gamma"])
def test_the_reference_knows_the_keys_of_a_policy(key: str) -> None:
    (table,) = config_reference(key)
    assert [row.key for row in table.keys][-1:] == [key.rpartition(".")[2]] or table.name == "ppo"
