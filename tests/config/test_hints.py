"""Every hint of an error message is followed: the problem that it is about is then gone."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
import tomli_w
from bad_configs import BadConfig, bad_configs

from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import parse_config
from metta.config.loading.overrides import put_value, read_path
from metta.config.loading.presets import find_config, find_preset, presets
from metta.config.loading.reference import config_reference
from metta.config.loading.suites import SUITES, find_suite
from metta.config.run import RunConfig
from metta.config.validation.key_paths import KeyPath, choices, default_of, is_table, table_at, tables, value_at
from metta.config.validation.unknown_keys import NOTES, OTHER_NAMES
from metta.errors import ConfigError, MettaError, Problem, UsageError, did_you_mean

MEANT = re.compile(r'did you mean (?:the \w+ )?("[^?]*")\?')
MISPLACED = re.compile(r"unknown|is used only|must be (an integer|a number|a table|a list|a string|true)")
SIZES = re.compile(r"(batch_size|minibatch_size) = (\d+)")


def problems_of(data: dict[str, Any]) -> list[Problem]:
    try:
        parse_config(tomli_w.dumps(data), "a.toml")
    except ConfigError as error:
        return list(error.problems)
    return []


def followed(data: dict[str, Any], problem: Problem) -> Iterator[dict[str, Any]]:
    """The data after following the hint of a problem; several if the hint has alternatives, none without a hint."""
    message = problem.message
    if SIZES.search(message.partition("; set ")[2]):
        changed = copied(data)
        for name, size in SIZES.findall(message.partition("; set ")[2]):
            put_value(changed, ("experience", name), int(size))
        yield changed
    elif found := re.search(r"such as (\d+)", message):
        yield with_value(data, problem.path, int(found[1]))
    elif "has its own key; use" in message:
        field = re.search(r"use (\w+) instead", message)
        assert field
        yield moved(data, problem.path, (*problem.path[:-2], field[1]))
    elif "leave out the quotes" in message:
        yield with_value(data, problem.path, tomllib.loads(f"value = {value_at(data, problem.path)}")["value"])
    elif "is used only with" in message and "type = " in message:
        for kind in re.findall(r'type = "(\w+)"', message):
            yield with_value(data, (*problem.path[:-1], "type"), kind)
    elif found := MEANT.search(message):
        for name in re.findall(r'"([^"]+)"', found[1]):
            yield as_meant(data, problem, name)


def as_meant(data: dict[str, Any], problem: Problem, name: str) -> dict[str, Any]:
    """The data with the name that a `did you mean` gives: of a key, of another table's key, or a value."""
    path, message = problem.path, problem.message
    if message.startswith("is missing"):  # the type of an entry with an unknown name
        table = value_at(data, path[:-1])
        key = next((key for key in ("name", "key") if key in table), "")
        return with_value(data, (*path[:-1], key), name) if key else moved(data, path[:-1], (*path[:-2], name))
    if found := re.search(r'there is no setting "env\.([^"]+)"', message):  # a key of the buckets
        right = ".".join([*found[1].split(".")[:-1], name])
        return moved(data, path, (*path[:-1], str(path[-1]).replace(found[1], right)))
    if isinstance(value_at(data, path), str) and not message.startswith("unknown key"):
        return with_value(data, path, name)
    return moved(data, path, read_path(name)[0] if "." in name else (*path[:-1], name))


def copied(data: dict[str, Any]) -> dict[str, Any]:
    return tomllib.loads(tomli_w.dumps(data))


def with_value(data: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    changed = copied(data)
    put_value(changed, path, value)
    return changed


def moved(data: dict[str, Any], path: KeyPath, target: KeyPath) -> dict[str, Any]:
    """The data with a value moved to another key, whose value it replaces."""
    changed = copied(data)
    value = value_at(changed, path[:-1]).pop(path[-1])
    put_value(changed, target, value)
    return changed


def left_over(problem: Problem, data: dict[str, Any]) -> list[Problem]:
    """The problems of the data after following a hint that are about the same mistake."""
    rule = re.split(r"; got|; did you", problem.message)[0]
    return [
        other
        for other in problems_of(data)
        if other.path == problem.path and re.split(r"; got|; did you", other.message)[0] == rule
    ]


CASES = [
    case
    for case in bad_configs()
    if re.search(r"did you mean|; set |such as \d|leave out the quotes|use \w+ instead|is used only with", case.message)
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_hints_of_the_bad_files(case: BadConfig) -> None:
    data = tomllib.loads(case.toml)
    count = 0
    before = problems_of(data)
    for problem in before:
        for changed in followed(data, problem):
            assert left_over(problem, changed) == [], changed
            new = {other.message for other in problems_of(changed)} - {other.message for other in before}
            assert not [message for message in new if MISPLACED.match(message)], changed
            count += 1
    assert count or "curriculum" in data or "is used only" in case.message


def typos(name: str, generator: random.Random) -> list[str]:
    """A letter left out, doubled, replaced and two swapped, at random places behind the first letter."""
    if len(name) < 4:
        return [name.upper(), name + name[-1]]
    at = generator.randrange(1, len(name) - 1)
    return [
        name[:at] + name[at + 1 :],
        name[:at] + name[at] + name[at:],
        name[:at] + "x" + name[at + 1 :],
        name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        name.upper(),
        name.replace("_", "-"),
    ]


def example(table: Any, name: str) -> Any:
    """A value for a key: its default or, without one, the first that it accepts."""
    default = default_of(table.model_fields[name])
    return next(value for value in (default, 1, 0.5, "x", [], {}) if value is not None)


KEYS = [(path, table, name) for path, table in tables(RunConfig) for name in table.model_fields]


@pytest.mark.parametrize(("path", "table", "name"), KEYS, ids=[".".join(map(str, (*key[0], key[2]))) for key in KEYS])
def test_typos_of_every_key_lead_to_it(path: KeyPath, table: Any, name: str) -> None:
    generator = random.Random(name)
    for typo in typos(name, generator):
        if typo in table.model_fields:
            continue
        data: dict[str, Any] = {}
        value = {} if is_table(table.model_fields[name].annotation) else example(table, name)
        put_value(data, (*path, typo), value)
        (problem,) = [found for found in problems_of(data) if found.path == (*path, typo)]
        hint = MEANT.search(problem.message)
        assert hint, (typo, problem.message)
        meant = re.findall(r'"([^"]+)"', hint[1])
        assert name in meant or len(typo) < len(name), (typo, meant)
        for changed in followed(data, problem):
            assert left_over(problem, changed) == []


@pytest.mark.parametrize(("path", "table", "name"), KEYS, ids=[".".join(map(str, (*key[0], key[2]))) for key in KEYS])
def test_every_key_at_the_wrong_place_leads_to_the_right_one(path: KeyPath, table: Any, name: str) -> None:
    if name in RunConfig.model_fields:
        return
    data = {name: {} if is_table(table.model_fields[name].annotation) else example(table, name)}
    (problem,) = [found for found in problems_of(data) if found.path == (name,)]
    assert f'"{".".join(map(str, (*path, name)))}"' in problem.message
    for changed in followed(data, problem):
        assert left_over(problem, changed) == []


@pytest.mark.parametrize("other", OTHER_NAMES)
def test_names_of_other_programs_lead_to_existing_keys(other: str) -> None:
    target = tuple(OTHER_NAMES[other].split("."))
    if len(target) == 1 and target[0] not in RunConfig.model_fields:  # a key of objects
        data = {"env": {"objects": {"altar": {other: {} if "put" in other else 1}}}}
        (problem,) = problems_of(data)
        assert f'"{target[0]}"' in problem.message
        return
    table = table_at(RunConfig, target[:-1])
    assert table
    assert target[-1] in table.model_fields
    assert other not in table.model_fields
    value = {} if target == ("env",) else example(table, target[-1])
    for place in ((), target[:-1]):
        data = {}
        put_value(data, (*place, other), value)
        (problem,) = problems_of(data)
        shown = target[-1] if place == target[:-1] else ".".join(target)
        assert problem.message.startswith(f'unknown key; did you mean "{shown}"')
        changed, *_ = followed(data, problem)
        assert problems_of(changed) == []


@pytest.mark.parametrize("other", NOTES)
def test_names_without_a_key_of_the_same_meaning_get_a_note(other: str) -> None:
    (problem,) = problems_of({"experience": {other: 8}})
    assert problem.message == f"unknown key; {NOTES[other]}"
    assert other not in OTHER_NAMES


CHOICES = [
    ((*path, name), choice)
    for path, table in tables(RunConfig)
    for name, field in table.model_fields.items()
    for choice in (get_args(field.annotation) if get_origin(field.annotation) is not None else ())
    if isinstance(choice, str)
]


@pytest.mark.parametrize(
    ("path", "choice"),
    [
        *CHOICES,
        *(
            (("env", "map_builder", "type"), kind)
            for kind in ("Random", "Maze", "Caves", "Dungeon", "Mirrored", "Choice")
        ),
        *((("curriculum", "type"), kind) for kind in ("fixed", "low_reward", "learning_progress", "progressive")),
        *((("agent", "backbone"), kind) for kind in ("cnn", "attention", "mlp")),
        *((("run", "device"), kind) for kind in ("auto", "cuda")),
        *((("env", "objects", "altar", "type"), kind) for kind in choices(EnvConfig().objects[0].__class__, "type")),
    ],
)
def test_typos_of_every_choice_lead_to_it(path: KeyPath, choice: str) -> None:
    for typo in set(typos(choice, random.Random(choice))) - {choice}:
        data: dict[str, Any] = {}
        put_value(data, path, typo)
        found = [problem for problem in problems_of(data) if problem.path == path]
        if not found:  # another choice
            continue
        (problem,) = found
        assert f'; did you mean "{choice}"?' in problem.message, typo
        (changed,) = followed(data, problem)
        assert [other for other in problems_of(changed) if other.path == path and "must be" in other.message] == []


@pytest.mark.parametrize("seed", range(200))
def test_all_sizes_that_are_suggested_are_valid_together(seed: int) -> None:
    generator = random.Random(seed)
    sizes = {
        "batch_size": generator.choice([1, 7, 100, 1000, 4096, 5000, 524_288]),
        "minibatch_size": generator.choice([1, 16, 300, 1000, 4096, 16_384]),
        "bptt_horizon": generator.choice([1, 3, 16, 48, 64, 1000]),
    }
    data: dict[str, Any] = {"experience": sizes, "env": {"game": {"num_agents": generator.choice([1, 4, 24, 64])}}}
    found = problems_of(data)
    if not found:
        return
    suggestions = {problem.message.partition("; set ")[2] for problem in found}
    assert len(suggestions) == 1
    (changed,) = followed(data, found[0])
    assert problems_of(changed) == []


@pytest.mark.parametrize("name", [preset.name for preset in presets()])
def test_typos_of_every_preset(name: str) -> None:
    for typo in set(typos(name, random.Random(name))) - {name}:
        for find in (find_config, find_preset):
            with pytest.raises(UsageError) as caught:
                find(typo)
            hint = MEANT.search(str(caught.value))
            assert hint, typo
            find(hint[1].strip('"'))
            assert hint[1] == f'"{name}"' or len(typo) < len(name) or "-" in typo


@pytest.mark.parametrize("name", [name for name in SUITES if len(name) > 3])
def test_typos_of_every_suite(name: str) -> None:
    for typo in set(typos(name, random.Random(name))) - {name}:
        with pytest.raises(UsageError, match=f'did you mean "{name}"'):
            find_suite(typo)


@pytest.mark.parametrize(
    "name", ["ppo.gama", "env.games", "lr", "obs_width", "num_agents", "PPO", "env.map_builder.maze"]
)
def test_hints_of_the_reference(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_reference(name)
    hint = MEANT.search(str(caught.value))
    assert hint
    for meant in re.findall(r'"([^"]+)"', hint[1]):
        assert config_reference(meant)


def test_hints_of_an_override_in_python() -> None:
    for name, value in (("num_agent", 4), ("obs_width", 9), ("width_", 20)):
        with pytest.raises(MettaError) as caught:
            EnvConfig().override(**{name: value})
        hint = MEANT.search(str(caught.value))
        assert hint
        EnvConfig().override(**{hint[1].strip('"'): value})


def test_the_known_names_are_listed_where_none_is_similar() -> None:
    assert did_you_mean("zzz", ["adam", "muon"]) == "; known: adam, muon"
    assert did_you_mean("ADAM", ["adam", "muon"]) == '; did you mean "adam"?'
    assert did_you_mean("beta", ["beta1", "beta2"]) == '; did you mean "beta1"?'
    assert did_you_mean("batch-size", ["batch_size"]) == '; did you mean "batch_size"?'


def test_options_with_numbers_that_are_no_toml_lead_to_their_key() -> None:
    for override, key in (
        ("total_timesteps=2M", "run.total_timesteps"),
        ("experience.timesteps=1k", "run.total_timesteps"),
    ):
        with pytest.raises(ConfigError, match=f'did you mean "{key}"'):
            parse_config("", "a.toml", [override])


def test_general_names_are_not_looked_for_in_other_tables() -> None:
    (problem,) = problems_of({"optimizer": {"name": "adam"}})
    assert "did you mean" not in problem.message
    (problem,) = problems_of({"name": "adam"})
    assert '"run.name"' in problem.message


def test_an_unknown_object_of_an_option_is_named_as_typed() -> None:
    text = '[[env.objects]]\nname = "altar"\ntype = "converter"'
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "a.toml", ["env.objects.altr.cooldown=5"])
    (problem,) = caught.value.problems
    assert (problem.place, problem.key) == ("--set", "env.objects.altr.type")
    assert 'did you mean "altar"?' in problem.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env.map_builder.objects = { altar = 1, alter = 2 }", '"alter"; did you mean "altar"? It is set already'),
        ("env.game.item_max = { laser = 1, lazer = 2 }", '"lazer"; did you mean "laser"? It is set already'),
        ("env.objects.altar.input = { laser = 1, lazer = 2 }", '"lazer"; did you mean "laser"? It is set already'),
        ("env.actions.move.consumed_resources = { laser = 1, lazer = 2 }", '"laser"? It is set already'),
        ("env.game.reward_sharing_groups.agent = { agent = 0.1, agnt = 0.2 }", '"agent"? It is set already'),
        ("env.game.item_max = { hearts = 1 }", 'unknown item "hearts"; known: ore_red, '),
        ("env.game.inventory_item_names = ['heart']\nenv.map_builder.objects = { labb = 1 }", '"labb"; known: wall, '),
        ("curriculum.scenes = { a = 1 }", "must be a list; got a table"),
        ("env.objects = 1", "must be a list; got 1"),
    ],
)
def test_hints_do_not_name_what_is_impossible(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "a.toml")
    (found,) = [problem.message for problem in caught.value.problems if message in problem.message]
    assert "did you mean" not in found or "It is set already" in found
    assert "write [[" not in found


def test_an_option_may_replace_what_is_set_already() -> None:
    for text in ("", "env.map_builder.objects = { altar = 1 }"):
        with pytest.raises(ConfigError, match=r'unknown object "altr"; did you mean "altar".$'):
            parse_config(text, "a.toml", ["env.map_builder.objects.altr=4"])
