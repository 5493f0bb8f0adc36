"""The reference of the TOML file as data: every table and key, and lookup by name."""

import pytest

from metta.config.loading.reference import KeyReference, config_reference
from metta.config.run import RunConfig
from metta.config.validation.key_paths import sections
from metta.errors import UsageError


def key(name: str) -> KeyReference:
    table, _, last = name.rpartition(".")
    return next(row for row in config_reference(table)[0].keys if row.key == last)


def test_every_table_and_key_is_listed() -> None:
    listed = {(table.header, row.key) for table in config_reference() for row in table.keys}
    expected = {(header, name) for header, model in sections(RunConfig) for name in model.model_fields}
    missing = {header for header, _ in expected - listed}
    assert missing == {"[env.game.groups.NAME.props]"}  # any of the keys of [env.game]
    assert all(table.description for table in config_reference())
    assert all(row.description and row.type and row.default for table in config_reference() for row in table.keys)


def test_a_key_has_type_range_and_default() -> None:
    assert (key("ppo.gamma").type, key("ppo.gamma").range, key("ppo.gamma").default) == ("number", "0 to 1", "0.977")
    assert (key("ppo.target_kl").range, key("ppo.target_kl").default) == ("above 0", "unset")
    assert key("optimizer.type").type == 'one of "adam", "muon"'
    assert key("run.seed").range == "at least 0"
    assert (key("env.objects.type").default, key("env.objects").default) == ("required", "see preset default")
    assert (key("env.game").type, key("env.game").default) == ("table", "its own defaults")
    assert key("env.game.reward_sharing_groups").type == "table of tables of numbers"
    assert key("agent.observation_types").type == 'list, each one of "grid_obs", "inventory", "global_vars"'


def test_a_table_is_found_by_name_with_or_without_brackets() -> None:
    (table,) = config_reference("[env.game]")
    assert (table.header, table.name) == ("[env.game]", "env.game")
    assert [row.key for row in table.keys][-1] == "reward_sharing_groups"
    assert len(config_reference("env.map_builder")) == 12
    (maze,) = config_reference("env.map_builder.Maze")
    assert (maze.type, maze.keys[0].key) == ("Maze", "type")


def test_a_key_is_found_in_every_table_that_has_it() -> None:
    (ppo,) = config_reference("ppo.gamma")
    assert (ppo.name, [row.key for row in ppo.keys]) == ("ppo", ["gamma"])
    assert {table.type for table in config_reference("curriculum.min_episodes")} == {"learning_progress", "progressive"}


def test_an_old_name_finds_the_renamed_key() -> None:
    (agent,) = config_reference("agent.own_frame")
    assert [row.key for row in agent.keys] == ["egocentric"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gamma", 'did you mean "ppo.gamma"?'),
        ("bptt_horizon", 'did you mean "agent.bptt_horizon" or "experience.bptt_horizon"?'),
        ("pppo", 'did you mean "ppo"?'),
        ("ppo.gama", 'did you mean "ppo.gamma"?'),
        ("env.map_builder.Maz", 'did you mean "env.map_builder.Maze"?'),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_reference(name)
    assert str(caught.value) == f'there is no table or key "{name}" in the TOML file; {hint}'
