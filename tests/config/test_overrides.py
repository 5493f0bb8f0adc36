"""Overrides: `--set section.key=value` is typed by the models, replaces values of the file, and is named in errors."""

from typing import Any

import pytest

from metta.config.env.game import GroupConfig
from metta.config.env.objects import DEFAULT_ACTIONS
from metta.config.loading.load import load_config, parse_config
from metta.config.loading.overrides import Override
from metta.config.run import RunConfig
from metta.errors import ConfigError, UsageError


def read(*overrides: str | Override, text: str = "") -> RunConfig:
    return parse_config(text, "a.toml", overrides)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.seed=7", 7),
        ("run.seed = 7", 7),
        ("run.seed=1_000", 1000),
        ("ppo.gamma=0.9", 0.9),
        ("ppo.gamma=1", 1.0),
        ("ppo.norm_adv=false", False),
        ("run.name=duel", "duel"),
        ('run.name="duel"', "duel"),
        ("run.name=7", "7"),
        ("run.name=true", "true"),
        ("run.run_dir=runs/a = b", "runs/a = b"),
        ("run.run_dir=", ""),
        ("run.device=cpu", "cpu"),
        ("ppo.target_kl=0.02", 0.02),
        ("env.game.inventory_item_names=['heart', 'battery_red', 'ore_red']", ["heart", "battery_red", "ore_red"]),
        ("env.map_builder.objects={altar = 3}", {"altar": 3}),
        ("env.game.item_rewards.laser=0.5", 0.5),
    ],
)
def test_values_are_typed_by_the_field(override: str, value: Any) -> None:
    found: Any = read(override)
    for part in override.partition("=")[0].strip().split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_an_override_wins_over_the_file_and_the_last_over_the_first() -> None:
    assert read("run.seed=2", text="run.seed = 1").run.seed == 2
    assert read("run.seed=2", "run.seed=3", text="[run]\nseed = 1").run.seed == 3


def test_one_entry_of_a_table_leaves_the_others_at_their_defaults() -> None:
    objects = read("env.map_builder.objects.altar=4").env.map_builder.objects
    assert objects == RunConfig().env.map_builder.objects | {"altar": 4}


def test_one_entry_of_a_table_in_the_file_leaves_the_others_of_the_file() -> None:
    objects = read("env.map_builder.objects.altar=4", text="env.map_builder.objects.wall = 1").env.map_builder.objects
    assert objects == {"wall": 1, "altar": 4}


def test_one_action_of_the_defaults() -> None:
    actions = read("env.actions[5].enabled=false").env.actions
    assert not actions[5].enabled
    assert [action.key for action in actions] == [action.key for action in DEFAULT_ACTIONS]
    assert actions[5].consumed_resources == {"laser": 1}


def test_the_default_group() -> None:
    assert read("env.game.groups.agent.group_reward_pct=0.5").env.game.groups == {
        "agent": GroupConfig(id=0, group_reward_pct=0.5)
    }


def test_a_room_keeps_its_own_defaults() -> None:
    text = '[env.map_builder]\ntype = "Rooms"'
    builder = read("env.map_builder.room.width=9", text=text).env.map_builder
    assert (builder.room.width, builder.room.border_width) == (9, 0)


def test_quoted_keys() -> None:
    assert read('env.map_builder."objects".altar=2').env.map_builder.objects["altar"] == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.gamma=1.5", "--set  ppo.gamma  must be at most 1; got 1.5"),
        ("ppo.gama=0.9", '--set  ppo.gama  unknown key; did you mean "gamma"?'),
        ("pppo.gamma=0.9", '--set  pppo  unknown key; did you mean "ppo"?'),
        ("gamma=0.9", '--set  gamma  unknown key; did you mean "ppo.gamma"?'),
        ("run.seed=ten", '--set  run.seed  must be an integer; got "ten"'),
        ("run.seed=", '--set  run.seed  must be an integer; got ""'),
        ("run.seed=1 # one\nname='x'", 'got "1 # one'),
        ("ppo.norm_adv=yes", '--set  ppo.norm_adv  must be true or false; got "yes"'),
        ("agent.observation_types=[grid_obs]", '--set  agent.observation_types  must be a list; got "[grid_obs]"'),
        ("env.actions[5].enabled=0", "--set  env.actions[5].enabled  must be true or false; got 0"),
        ("env.map_builder.objects.dragon=1", "unknown object"),
        ("env.game.observation_width=10", "must be odd"),
        ("experience.bptt_horizon=48", "must be a multiple of bptt_horizon = 48"),
    ],
)
def test_a_wrong_value_names_the_option(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(override)
    first, *problems = str(caught.value).splitlines()
    assert first.startswith("the command line has ")
    assert message in problems[0]
    assert all(problem.strip().startswith("--set") for problem in problems)


def test_problems_of_the_file_keep_their_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        read("ppo.gamma=2", Override("--seed", ("run", "seed"), "-1"), text="[run]\nsede = 1\n\n[ppo]\ngamma = 3\n")
    assert str(caught.value).splitlines() == [
        "a.toml has 3 problems",
        '  line 2  run.sede   unknown key; did you mean "seed"?',
        "  --seed  run.seed   must be at least 0; got -1",
        "  --set   ppo.gamma  must be at most 1; got 2",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.gamma", '--set takes section.key=value, such as ppo.gamma=0.99; got "ppo.gamma"'),
        ("=3", '--set takes section.key=value, such as ppo.gamma=0.99; got "=3"'),
        ("", '--set takes section.key=value, such as ppo.gamma=0.99; got ""'),
        ("ppo..gamma=3", '--set takes section.key=value, such as ppo.gamma=0.99; got "ppo..gamma=3"'),
        ("ppo gamma=3", '--set takes section.key=value, such as ppo.gamma=0.99; got "ppo gamma=3"'),
        ("ppo.gamma.x=3", '--set ppo.gamma.x: "ppo.gamma" is not a table'),
        ("ppo[0]=3", '--set ppo[0]: "ppo" is not a list'),
        ("env.actions[8].key=x", '--set env.actions[8].key: "env.actions" is a list of 8 entries, starting with [0]'),
        ("curriculum.scenes[0]=x", '--set curriculum.scenes[0]: "curriculum.scenes" is an empty list'),
    ],
)
def test_a_key_that_leads_nowhere(override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(override)
    assert str(caught.value) == message


@pytest.mark.parametrize("depth", [3, 16, 20, 100, 400, 480, 3000])
def test_deep_values_and_keys_do_not_crash(depth: int) -> None:
    with pytest.raises(ConfigError, match="must be a number"):
        read(f"ppo.gamma={'[' * depth}{']' * depth}")
    with pytest.raises((ConfigError, UsageError)):
        read(f"ppo{'.a' * depth}=1")
    with pytest.raises((ConfigError, UsageError)):
        read(f"zzz{'.a' * depth}=1")


def test_a_path_that_is_not_utf8_is_refused() -> None:
    """As the command line hands over a name of bytes that are not UTF-8."""
    with pytest.raises(UsageError, match=r"^--run-dir run\.run_dir: the value is not UTF-8 text$"):
        read(Override("--run-dir", ("run", "run_dir"), "runs/\udcff"))


def test_a_preset_with_overrides() -> None:
    config = load_config("quickstart", ["env.game.num_agents=4", "run.total_timesteps=1000"])
    assert (config.env.game.num_agents, config.env.map_builder.agents, config.run.total_timesteps) == (4, 4, 1000)
