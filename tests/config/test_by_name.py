"""Objects and actions by name: `[env.objects.altar]`, `--set env.actions.attack.enabled=false`, buckets."""

from typing import Any

import pytest

from metta.config.env.env_config import EnvConfig
from metta.config.env.objects import CATALOG, DEFAULT_ACTIONS, ActionConfig, ObjectConfig
from metta.config.loading.load import dump_config, load_config, load_tasks, parse_config
from metta.config.loading.presets import presets
from metta.config.loading.reference import config_reference
from metta.config.run import RunConfig
from metta.errors import ConfigError, UsageError

ALTAR = '[[env.objects]]\nname = "altar"\ntype = "converter"\n'


def read(text: str = "", *overrides: str) -> RunConfig:
    return parse_config(text, "a.toml", overrides)


def cooldowns(config: RunConfig) -> dict[str, int | None]:
    return {name: entry.cooldown for name, entry in config.env.object_types.items()}


@pytest.mark.parametrize("name", CATALOG)
def test_an_object_by_name_is_the_entry_of_a_list(name: str) -> None:
    key = "swappable = false" if CATALOG[name].type == "wall" else "initial_items = 7"
    by_name = read(f"[env.objects.{name}]\n{key}")
    assert by_name == read(f'[[env.objects]]\nname = "{name}"\ntype = "{CATALOG[name].type}"\n{key}')
    assert by_name == read("", f"env.objects.{name}.{key}")
    assert parse_config(dump_config(by_name), "dumped.toml") == by_name
    changed = {"swappable": False} if CATALOG[name].type == "wall" else {"initial_items": 7}
    assert by_name.env.object_types[name] == RunConfig().env.object_types[name].model_copy(update=changed)


@pytest.mark.parametrize("action", DEFAULT_ACTIONS, ids=lambda action: action.key)
def test_an_action_by_name_keeps_its_other_keys_and_the_other_actions(action: ActionConfig) -> None:
    expected = [
        entry.model_copy(update={"enabled": False}) if entry.key == action.key else entry for entry in DEFAULT_ACTIONS
    ]
    assert read(f"[env.actions.{action.key}]\nenabled = false").env.actions == expected
    assert read("", f"env.actions.{action.key}.enabled=false").env.actions == expected


def test_new_objects_and_actions_by_name() -> None:
    text = (
        '[env.objects.gem]\ntype = "mine"\noutput = { heart = 1 }\n[env.actions.give]\ntype = "gift"\nitem = "heart"\n'
    )
    env = read(text).env
    assert env.object_types["gem"].output == {"heart": 1}
    assert env.object_types["gem"].type_id == 15
    assert [action.key for action in env.actions] == [*(action.key for action in DEFAULT_ACTIONS), "give"]
    assert read("", "env.actions.give.type=gift", "env.actions.give.item=heart").env.actions == env.actions


def test_another_type_has_none_of_the_defaults() -> None:
    env = read('[env.objects.altar]\ntype = "mine"\noutput = { heart = 1 }\n[env.actions.attack]\ntype = "noop"').env
    assert env.object_types["altar"].input == {}
    assert ActionConfig(type="noop", key="attack") in env.actions


def test_an_option_changes_the_entry_of_a_list_or_adds_one() -> None:
    assert cooldowns(read(ALTAR + "cooldown = 3", "env.objects.altar.cooldown=5"))["altar"] == 5
    both = cooldowns(read(ALTAR + "cooldown = 3", "env.objects.mine_red.cooldown=5"))
    assert (both["altar"], both["mine_red"]) == (3, 5)
    assert cooldowns(read("[env.objects.altar]\ncooldown = 3", "env.objects.altar.cooldown=5"))["altar"] == 5
    one = '[[env.actions]]\nkey = "move"\ntype = "move"\n'
    assert [action.enabled for action in read(one, "env.actions.move.enabled=false").env.actions] == [False]
    assert [action.key for action in read(one, "env.actions.wait.type=noop").env.actions] == ["move", "wait"]
    with pytest.raises(UsageError, match='there is no "attack" in this file; known: move'):
        read(one, "env.actions.attack.enabled=false")


@pytest.mark.parametrize("preset", [preset.name for preset in presets()])
def test_every_object_of_every_preset_can_be_changed_by_an_option(preset: str) -> None:
    config = load_config(preset)
    for name, entry in config.env.object_types.items():
        if entry.options is not None:  # of a registered type
            changed = load_config(preset, [f"env.objects.{name}.color=77"])
            assert changed.env.object_types[name].color == 77
        elif entry.type != "wall":
            changed = load_config(preset, [f"env.objects.{name}.cooldown=77"])
            assert cooldowns(changed) == cooldowns(config) | {name: 77}
    for action in config.env.actions:
        changed = load_config(preset, [f"env.actions.{action.key}.enabled=false"])
        assert [entry.key for entry in changed.env.actions if entry.enabled] == [
            entry.key for entry in config.env.actions if entry.enabled and entry.key != action.key
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n[env.objects.altar]\ncooldown = -5", "line 3  env.objects.altar.cooldown  must be at least 0; got -5"),
        (
            "[env.objects]\naltar.cooldwn = 5",
            'line 2  env.objects.altar.cooldwn  unknown key; did you mean "cooldown"?',
        ),
        (
            "[env.objects.altar]\ninput = { ore_rde = 1 }",
            'line 2  env.objects.altar.input.ore_rde  unknown item "ore_rde"',
        ),
        ("[env.objects.mine_red]\ninput = { heart = 1 }", "line 2  env.objects.mine_red.input  a mine has no input"),
        ("[env.objects.alter]\ncooldown = 5", 'line 1  env.objects.alter.type  is missing: .*did you mean "altar"'),
        ('[[env.objects]]\nname = "alter"', 'line 1  env.objects.0..type  is missing: .*did you mean "altar"'),
        ("[env.objects]\naltar = 5", "line 2  env.objects.altar  must be a table; got 5"),
        ('[env.objects.altar]\nname = "lab"', 'line 2  env.objects.altar.name  must be "altar", as in the header'),
        ('[env.objects]\nname = "lab"\ntype = "mine"', r"must be a list; got a table: write \[\[env.objects\]\]"),
        ('[env.objects."a b"]\ntype = "wall"', 'env.objects."a b".name  must be 1 to 64 letters'),
        ("\n[env.actions.attack]\nenabled = 3", "line 3  env.actions.attack.enabled  must be true or false; got 3"),
        ("\n[env.actions.move]\ndelta = 1", "line 3  env.actions.move.delta  is used only by actions of type"),
        ("[env.actions.atack]\nenabled = false", 'line 1  env.actions.atack.type  is missing: .*did you mean "attack"'),
    ],
)
def test_problems_name_the_line_and_the_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text)


@pytest.mark.parametrize("text", ["", ALTAR + "cooldown = 3", "[env.objects.altar]\ncooldown = 3"])
def test_problems_of_an_option_are_named_as_typed(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, "env.objects.altar.cooldown=-1")
    assert [(problem.place, problem.key) for problem in caught.value.problems] == [
        ("--set", "env.objects.altar.cooldown")
    ]


@pytest.mark.parametrize("text", ["", ALTAR, "[env.objects.altar]\ninitial_items = 0\n"])
def test_a_bucket_over_an_object_by_name(text: str) -> None:
    bucket = '[curriculum.buckets]\n"objects.altar.cooldown" = { values = [5, 20] }\n'
    tasks = load_tasks(read(f"{text}\n{bucket}"))
    assert tasks.names == ("metta, objects.altar.cooldown=5", "metta, objects.altar.cooldown=20")
    assert [env.object_types["altar"].cooldown for env in tasks.env_configs] == [5, 20]
    assert len({env.object_types["mine_red"].cooldown for env in tasks.env_configs}) == 1
    for key in ("objects.altar.cooldown", "env.objects.altar.cooldown", "game.objects.altar.cooldown"):
        bins = f'[curriculum.buckets]\n"{key}" = {{ range = [5, 20], bins = 2 }}\n'
        tasks = load_tasks(read(f"{text}\n{bins}"))
        assert [env.object_types["altar"].cooldown for env in tasks.env_configs] == [8, 16]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("objects.alter.cooldown", 'there is no setting "env.objects.alter"; did you mean "altar"?'),
        ("objects.altar.cooldwn", 'there is no setting "env.objects.altar.cooldwn"; did you mean "cooldown"?'),
        ("actions.atack.enabled", 'there is no setting "env.actions.atack"; did you mean "attack"?'),
    ],
)
def test_a_bucket_over_an_unknown_name(path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tasks(read(f'[curriculum.buckets]\n"{path}" = {{ values = [1] }}'))
    assert message in str(caught.value)


def test_from_python() -> None:
    values: Any = {"objects": {"altar": {"cooldown": 5}}, "actions": {"attack": {"enabled": False}}}
    env = EnvConfig.model_validate(values)
    assert env.object_types["altar"].cooldown == 5
    assert env == EnvConfig().override(**values)
    assert env.objects == [ObjectConfig(type="converter", name="altar", cooldown=5)]


def test_the_reference_knows_names() -> None:
    by_name, listed = config_reference("env.objects.altar.cooldown"), config_reference("env.objects.cooldown")
    assert by_name == listed
    assert config_reference("env.actions.attack.enabled")[0].keys[0].key == "enabled"
    assert "[env.objects.NAME]" in listed[0].description
