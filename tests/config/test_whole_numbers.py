"""Integers written as 500k, 2M or 1e6; `none` for keys that can be unset; numbers and booleans in Python's spelling."""

from typing import Any

import pytest

from metta.config.loading.load import load_tasks, parse_config
from metta.config.loading.overrides import Override, whole_number
from metta.config.run import RunConfig
from metta.config.validation.key_paths import KeyPath, annotation_at, tables, takes_none, takes_number, value_at
from metta.errors import ConfigError


def keys(accepts: Any) -> list[str]:
    """Every key of a table that exists once and whose type `accepts`."""
    return [
        ".".join(map(str, (*path, name)))
        for path, table in tables(RunConfig)
        for name, field in table.model_fields.items()
        if accepts(field.annotation)
    ]


INTEGERS = keys(lambda annotation: takes_number(annotation, int))
UNSETTABLE = keys(takes_none)


def outcome(key: str, text: str, in_file: bool = False) -> Any:
    """The value of a key that is set to a text, or the messages that refuse it, by which no number is meant."""
    try:
        config = parse_config(f"{key} = {text}" if in_file else "", "a.toml", () if in_file else [f"{key}={text}"])
    except ConfigError as error:
        return [(problem.key, problem.message) for problem in error.problems]
    return value_at(config.model_dump(), tuple(key.split(".")))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500k", 500_000),
        ("2M", 2_000_000),
        ("1.5m", 1_500_000),
        ("3B", 3_000_000_000),
        ("1g", 1_000_000_000),
        ("1e6", 1_000_000),
        ("2.5e3", 2500),
        ("1_000", 1000),
        ("1_000.5k", 1_000_500),
        ("+7", 7),
        ("-2k", -2000),
        ("9007199254740993", 9007199254740993),
        ("1.0005k", None),
        ("1e-3", None),
        ("1k2", None),
        ("k", None),
        ("1_", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("\u0661", None),
        ("1e9999", None),
    ],
)
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("key", INTEGERS)
def test_every_integer_key_takes_whole_numbers_in_every_form(key: str) -> None:
    plain = outcome(key, "2000")
    assert outcome(key, "2k") == outcome(key, "2e3") == outcome(key, "2000.0") == plain
    assert outcome(key, "2e3", in_file=True) == outcome(key, "2000", in_file=True) == plain
    assert (key, "must be an integer; got 1.5") in outcome(key, "1.5", in_file=True)


def test_integers_in_lists_tables_ranges_and_buckets() -> None:
    text = """
    env.objects = [{ name = "altar", type = "converter", cooldown = 1e2, input = { heart = 2.0 } }]
    env.game.item_max = { laser = 1e1 }
    env.map_builder.border_width = { min = 1e0, max = 2.0 }
    curriculum.buckets."game.max_steps" = { values = [1e2, 2e2] }
    """
    config = parse_config(text, "a.toml")
    assert config.env.objects[0].cooldown == 100
    assert config.env.objects[0].input == {"heart": 2}
    assert config.env.game.item_max == {"laser": 10}
    assert [env.game.max_steps for env in load_tasks(config).env_configs] == [100, 200]
    assert "must be an integer" in str(outcome("env.map_builder.border_width", "{ min = 1.5, max = 2 }", in_file=True))


@pytest.mark.parametrize("key", UNSETTABLE)
@pytest.mark.parametrize("none", ["none", "None", "null"])
def test_every_optional_key_can_be_unset(key: str, none: str) -> None:
    section, _, name = key.rpartition(".")
    text = {"ppo.target_kl": "ppo.target_kl = 0.1", "lr_schedule.warmup_steps": "lr_schedule.warmup_steps = 100"}.get(
        key, ""
    )
    assert text
    assert value_at(parse_config(text, "a.toml").model_dump(), (section, name)) is not None
    assert parse_config(text, "a.toml", [f"{key}={none}"]) == RunConfig()


def test_none_also_unsets_keys_of_entries_and_keeps_the_others() -> None:
    text = "[env.objects.altar]\ncooldown = 5\ninput = { heart = 1 }"
    (entry,) = parse_config(text, "a.toml", ["env.objects.altar.cooldown=none"]).env.objects
    assert (entry.cooldown, entry.input) == (None, {"heart": 1})


@pytest.mark.parametrize("key", ["ppo.gamma", "run.seed", "experience.batch_size", "ppo.norm_adv"])
def test_none_is_no_value_of_other_keys(key: str) -> None:
    assert outcome(key, "none")[0][0] == key
    assert 'got "none"' in outcome(key, "none")[0][1]


@pytest.mark.parametrize(
    ("override", "value"),
    [("ppo.gamma=.5", 0.5), ("ppo.gamma=1.", 1.0), ("ppo.norm_adv=False", False), ("ppo.norm_adv=TRUE", True)],
)
def test_numbers_and_booleans_as_in_python(override: str, value: Any) -> None:
    path: KeyPath = Override.parse(override).path
    assert value_at(parse_config("", "a.toml", [override]).model_dump(), path) == value
    assert annotation_at(RunConfig, path) is type(value)
