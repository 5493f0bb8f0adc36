"""Labels: a distinct, visible character for each kind of cell, and distinct words for each action."""

import pytest

from metta.api import EnvConfig, action_words, agent_names, cell_glyphs, load_world, presets
from metta.config.env.glyphs import GLYPHS


def world(**env):
    return EnvConfig.model_validate(env)


def groups(*names):
    return {"num_agents": len(names), "groups": {name: {"id": index} for index, name in enumerate(names)}}


@pytest.mark.parametrize("name", [preset.name for preset in presets()])
def test_every_kind_of_cell_of_a_preset_has_a_distinct_character(name):
    config = load_world(name)
    glyphs = cell_glyphs(config)
    assert list(glyphs) == ["empty", *agent_names(config), *config.object_types]
    assert len(set(glyphs.values())) == len(glyphs)
    assert all(len(glyph) == 1 and glyph.isprintable() and not glyph.isspace() for glyph in glyphs.values())
    legend = getattr(config.map_builder, "meanings", GLYPHS)
    assert all(legend.get(glyph, name) == name for name, glyph in glyphs.items())


def test_teams_have_the_characters_of_the_original_or_digits():
    assert agent_names(world()) == ["agent"]
    assert cell_glyphs(world())["agent"] == "@"
    glyphs = cell_glyphs(world(game=groups("team_2", "prey", "red", "blue")))
    assert [glyphs[f"agent.{name}"] for name in ("team_2", "prey", "red", "blue")] == ["2", "p", "1", "3"]


def test_other_objects_get_a_letter_of_their_name_that_means_nothing_else():
    objects = [{"type": "wall", "name": name} for name in ("banana", "converter", "Bed", "bob")]
    glyphs = cell_glyphs(world(objects=objects))
    assert [glyphs[entry["name"]] for entry in objects] == ["B", "c", "e", "o"]  # not "b", which means a block
    assert glyphs["block"] == "b"


def test_there_are_characters_for_as_many_groups_and_objects_as_a_world_can_have():
    teams = [f"team{number}" for number in range(256)]
    objects = [{"type": "wall", "name": f"o{number}"} for number in range(240)]
    glyphs = cell_glyphs(world(game=groups(*teams), objects=objects))
    assert len(set(glyphs.values())) == len(glyphs) == 1 + 256 + 240 + 14


def test_the_legend_of_a_drawn_map_names_its_own_objects():
    drawn = {"type": "Ascii", "map": "#####\n#A$å#\n#####", "legend": {"A": "agent", "$": "altar", "å": "block"}}
    glyphs = cell_glyphs(world(map_builder=drawn))
    assert (glyphs["agent"], glyphs["altar"], glyphs["wall"]) == ("A", "$", "#")
    assert glyphs["block"] == "b"  # only characters that every terminal can print


def test_words_of_actions():
    actions = [
        {"type": "noop", "key": "noop"},
        {"type": "move", "key": "move"},
        {"type": "rotate", "key": "rotate"},
        *({"type": "rotate", "key": f"by_{delta}", "delta": delta} for delta in (1, 2, -1)),
        {"type": "put_items", "key": "put_recipe_items"},
        {"type": "get_items", "key": "get_output"},
        {"type": "get_items", "key": "take"},
        {"type": "attack", "key": "attack"},
        {"type": "swap", "key": "swap"},
        {"type": "change_color", "key": "change_color"},
        {"type": "gift", "key": "gift", "item": "ore_red"},
        {"type": "use", "key": "use_altar", "use": "altar"},
        {"type": "use", "key": "use"},
    ]
    config = world(actions=actions)
    words = action_words(config)
    assert [len(texts) for texts in words] == [largest + 1 for largest in config.spec.max_action_args]
    assert dict(zip(config.spec.action_names, words, strict=True)) == {
        "noop": ["wait"],
        "move": ["move forward", "move backward"],
        "rotate": ["turn up", "turn down", "turn left", "turn right"],
        "by_1": ["turn clockwise"],
        "by_2": ["turn around"],
        "by_-1": ["turn counterclockwise"],
        "put_recipe_items": ["put items"],
        "get_output": ["get items (get_output)"],
        "take": ["get items (take)"],
        "attack": [
            "attack nothing",
            *(f"attack {ahead} ahead{side}" for ahead in (1, 2, 3) for side in (", 1 left", "", ", 1 right")),
        ],
        "attack_nearest": ["attack nearest"],
        "swap": ["swap"],
        "change_color": ["color + 1", "color - 1", "double color", "halve color"],
        "gift": ["give 1 ore_red"],
        "use_altar": ["use altar"],
        "use": ["use"],
    }
