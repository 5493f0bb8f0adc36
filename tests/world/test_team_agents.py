"""Numbers of agents by group, `agents = { team_1 = 18 }`, in every map builder that takes `agents`."""

import copy
import pickle
from collections import Counter

import numpy as np
import pytest

from metta.api import EnvConfig, dump_config, make_environment
from metta.config.env.map_builder import MapBuilder, ScatterConfig
from metta.config.loading.load import parse_config
from metta.config.run import RunConfig
from metta.config.validation.key_paths import alternatives
from metta.errors import ConfigError

GROUPS = {"red": {"id": 0}, "blue": {"id": 1}, "green": {"id": 2}}
KEYS = {"Corridors": {"across": 2, "down": 2}, "Radial": {"arms": 3}}
SCATTERED = [
    str(model.model_fields["type"].annotation.__args__[0])
    for model in alternatives(MapBuilder)
    if issubclass(model, ScatterConfig) and "name" not in model.model_fields
]


def world(builder, **game):
    return EnvConfig.model_validate({"game": {"groups": GROUPS, **game}, "map_builder": builder})


def teams(config, cols=slice(None), seed=0):
    """Number of agents of each group in some columns of the map."""
    env = make_environment(config)
    env.reset(seed=seed)
    found = env.cells()[:, cols]
    return {name: int(np.count_nonzero(found == -1 - index)) for index, name in enumerate(GROUPS)}


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("type_", SCATTERED)
def test_each_room_has_the_agents_of_its_teams(type_, connected):
    room = {"type": type_, "width": 15, "height": 15, "objects": {"altar": 1}, **KEYS.get(type_, {})}
    rooms = [room | {"agents": {"blue": 5, "red": 1}}, room | {"agents": 3}, room | {"agents": {"green": 4}}]
    config = world({"type": "Rooms", "rooms": rooms, "connected": connected, "door_width": 1})
    assert config.game.num_agents == 13
    for seed in range(3):
        assert teams(config, slice(0, 16), seed) == {"red": 1, "blue": 5, "green": 0}
        assert sum(teams(config, slice(16, 32), seed).values()) == 3
        assert teams(config, slice(32, 48), seed) == {"red": 0, "blue": 0, "green": 4}


@pytest.mark.parametrize("type_", SCATTERED)
def test_a_world_of_one_builder_takes_its_number_of_agents_from_the_teams(type_):
    builder = {"type": type_, "agents": {"red": 2, "green": 3}, "objects": {"altar": 1}, **KEYS.get(type_, {})}
    config = world(builder, width=21, height=21)
    assert config.game.num_agents == 5
    assert teams(config) == {"red": 2, "blue": 0, "green": 3}
    assert config.override(width=25).map_builder.agents == config.map_builder.agents


def test_images_of_a_mirrored_map_have_the_next_teams():
    image = {"width": 6, "height": 6, "agents": {"red": 2, "blue": 1}, "objects": {}}
    config = world({"type": "Mirrored", "builder": image})
    assert teams(config, slice(0, 7)) == {"red": 2, "blue": 1, "green": 0}
    assert teams(config, slice(7, 14)) == {"red": 0, "blue": 2, "green": 1}


def test_one_room_for_all():
    config = world({"type": "Rooms", "room": {"width": 5, "height": 5, "agents": {"blue": 2}, "objects": {}}})
    assert teams(config) == {"red": 0, "blue": 8, "green": 0}


def test_the_teams_survive_dumps_copies_and_pickles():
    config = world({"width": 9, "height": 9, "agents": {"red": 2, "blue": 1}, "objects": {}}, width=9, height=9)
    run = RunConfig(env=config)
    again = parse_config(dump_config(run), "config.toml").env
    for other in (again, copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        assert teams(other) == {"red": 2, "blue": 1, "green": 0}
        assert other.rules_key == config.rules_key
    assert world({"agents": {"red": 1, "blue": 2}, "objects": {}}, width=9, height=9) != config


def test_a_number_is_divided_as_before():
    builder = {"width": 9, "height": 9, "agents": 5, "objects": {}}
    config = world(builder, num_agents=5, width=9, height=9)
    assert type(config.map_builder.agents) is int
    assert Counter(teams(config).values()) == {2: 2, 1: 1}


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        ("{ rad = 2 }", 'line 5  env.map_builder.agents.rad  unknown group "rad"; did you mean "red"?'),
        ("{ red = -1 }", "agents.red  must be an integer of at least 0; got -1"),
        ("{ red = true }", "agents.red  must be an integer of at least 0; got True"),
        ('{ red = "2" }', "agents.red  must be an integer of at least 0; got '2'"),
        ("{ red = 65000, blue = 1000 }", "must be at most 65536"),
        ('"two"', "must be an integer"),
    ],
)
def test_messages(agents, message):
    groups = "groups = { red = { id = 0 }, blue = { id = 1 } }"
    text = f"[env.game]\nwidth = 9\n{groups}\n[env.map_builder]\nagents = {agents}\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "w.toml")
    assert message in str(caught.value)


def test_builders_of_a_choice_must_have_the_same_teams():
    parts = [{"agents": {"red": 2}, "objects": {}}, {"agents": {"blue": 2}, "objects": {}}]
    with pytest.raises(ValueError, match="must have the same agents as the first builder, 2 red, 0 blue, 0 green"):
        world({"type": "Choice", "builders": parts}, width=9, height=9)
