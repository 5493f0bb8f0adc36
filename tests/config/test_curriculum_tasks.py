"""Tasks of a curriculum: the worlds made of scenes and buckets, and invalid ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import MapBuilderConfig, RoomsConfig
from metta.config.loading.curriculum_tasks import Tasks
from metta.config.loading.load import dump_config, load_config, load_tasks, parse_config, read_config
from metta.config.plan.check import derived
from metta.errors import ConfigError

SMALL = """
run.name = "small"
env.game = { num_agents = 4, width = 12, height = 12 }
env.map_builder = { border_width = 1, objects = { mine_red = 2, altar = 1 } }
"""


def tasks(buckets: dict[str, Any], text: str = SMALL, **settings: Any) -> Tasks:
    values = [f"curriculum.{name}={json.dumps(value)}" for name, value in settings.items()]
    inline = [
        f'"{key}" = {{ {", ".join(f"{k} = {json.dumps(v)}" for k, v in b.items())} }}' for key, b in buckets.items()
    ]
    return load_tasks(parse_config(text, "small.toml", [*values, f"curriculum.buckets={{ {', '.join(inline)} }}"]))


def builder(config: EnvConfig) -> MapBuilderConfig:
    assert isinstance(config.map_builder, MapBuilderConfig)
    return config.map_builder


@pytest.mark.parametrize(
    "key", ["map_builder.objects.altar", "env.map_builder.objects.altar", "game.map_builder.objects.altar"]
)
def test_a_bucket_of_integers_has_the_middle_of_each_bin(key: str) -> None:
    found = tasks({key: {"range": [1, 7], "bins": 3}})
    # 1 2 | 3 4 | 5 6 7
    assert [builder(config).objects["altar"] for config in found.env_configs] == [1, 3, 6]
    assert found.names == tuple(f"small, map_builder.objects.altar={middle}" for middle in (1, 3, 6))
    assert all(builder(config).objects["mine_red"] == 2 for config in found.env_configs)


def test_as_many_bins_as_integers_have_one_each() -> None:
    found = tasks({"map_builder.objects.altar": {"range": [1, 5], "bins": 5}})
    assert [builder(config).objects["altar"] for config in found.env_configs] == [1, 2, 3, 4, 5]


def test_a_bucket_of_floats_has_the_middle_of_each_bin() -> None:
    found = tasks({"game.heart_reward": {"range": [0, 2], "bins": 4}})
    assert [config.game.heart_reward for config in found.env_configs] == [0.25, 0.75, 1.25, 1.75]


def test_values_of_any_type_and_every_combination() -> None:
    found = tasks(
        {
            "game.diversity_bonus_enabled": {"values": [True, False]},
            "game.max_steps": {"values": [10, 20, 30]},
        }
    )
    pairs = [(config.game.diversity_bonus_enabled, config.game.max_steps) for config in found.env_configs]
    assert pairs == [(on, steps) for on in (True, False) for steps in (10, 20, 30)]
    assert found.names[3] == "small, game.diversity_bonus_enabled=false, game.max_steps=10"


def test_inferred_sizes_follow_the_bucket() -> None:
    found = tasks({"game.width": {"values": [10, 20]}})
    assert [(config.game.width, config.map_builder.width) for config in found.env_configs] == [(10, 10), (20, 20)]
    rooms = 'env.map_builder = { type = "Rooms", room = { width = 8, height = 8, agents = 1 } }'
    found = tasks({"map_builder.room.width": {"values": [8, 11]}}, rooms)
    assert all(isinstance(config.map_builder, RoomsConfig) for config in found.env_configs)
    assert [config.game.width for config in found.env_configs] == [19, 25]


def test_a_config_with_every_value_written_has_the_same_tasks() -> None:
    written = EnvConfig.model_validate(parse_config(SMALL, "small.toml").env.model_dump(exclude_none=True))
    values = parse_config(SMALL, "small.toml").model_copy(update={"env": written})
    buckets = {"game.width": {"values": [10, 20]}}
    config = values.model_copy(update={"curriculum": values.curriculum.model_validate({"buckets": buckets})})
    assert load_tasks(config).env_configs == tasks(buckets).env_configs


def test_a_setting_that_is_unset_so_far_can_be_varied() -> None:
    found = tasks({"game.item_rewards.laser": {"values": [0.5, 1.0]}})
    assert [config.game.item_reward("laser") for config in found.env_configs] == [0.5, 1.0]


def test_scenes_times_buckets(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, steps in (("a.toml", 10), ("b.toml", 20)):
        (tmp_path / name).write_text(SMALL.replace("num_agents = 4", f"num_agents = 4, max_steps = {steps}"))
    found = tasks({"map_builder.border_width": {"values": [1, 2]}}, "", scenes=["a.toml", "b.toml"])
    assert found.names == tuple(f"{s}, map_builder.border_width={w}" for s in ("a.toml", "b.toml") for w in (1, 2))
    assert [(c.game.max_steps, builder(c).border_width) for c in found.env_configs] == [
        (10, 1),
        (10, 2),
        (20, 1),
        (20, 2),
    ]
    assert found.scene_of == (0, 0, 1, 1)


def test_scenes_are_searched_beside_the_file_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds, here = tmp_path / "worlds", tmp_path / "here"
    for directory, name, steps in ((worlds, "a", 10), (here, "a", 20), (here, "b", 30)):
        directory.mkdir(exist_ok=True)
        (directory / f"{name}.toml").write_text(SMALL.replace("num_agents = 4", f"num_agents = 4, max_steps = {steps}"))
    (worlds / "simple").write_text("a preset's name means the preset")
    (worlds / "all.toml").write_text(f'{SMALL}\n[curriculum]\nscenes = ["a.toml", "b.toml"]\n')
    monkeypatch.chdir(here)
    source = "../worlds/all.toml"
    config = load_config(source)
    assert config.curriculum.scenes == ["../worlds/a.toml", "b.toml"]
    (worlds / "config.toml").write_text(dump_config(config))
    (worlds / "b.toml").write_text(SMALL)
    assert read_config("../worlds/config.toml") == config  # as a run does that goes on
    (worlds / "b.toml").unlink()
    lengths = {
        scenes: [env.game.max_steps for env in load_tasks(load_config(source, scenes and [scenes])).env_configs]
        for scenes in ("", 'curriculum.scenes=["a.toml"]', 'curriculum.scenes[1]="a.toml"')
    }
    assert list(lengths.values()) == [[10, 30], [20], [10, 20]]  # on the command line: seen from where it is typed
    (worlds / "all.toml").write_text('curriculum.scenes = ["simple"]')
    assert load_config(source).curriculum.scenes == ["simple"]


def test_the_same_scene_twice_has_two_names() -> None:
    assert tasks({}, "", scenes=["simple", "simple"]).names == ("simple (1)", "simple (2)")


def test_tasks_with_equal_rules_share_unchanged_parts() -> None:
    found = tasks({"map_builder.objects.altar": {"range": [1, 30], "bins": 30}})
    assert len({id(config.game) for config in found.env_configs}) == 1
    assert len({id(config.object_types) for config in found.env_configs}) == 1
    assert len({id(entry) for config in found.env_configs for entry in config.objects}) == len(
        found.env_configs[0].objects
    )


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ({"game.nope": {"values": [1]}}, 'there is no setting "env.game.nope"'),
        ({"game.max_stepps": {"values": [1]}}, 'did you mean "max_steps"?'),
        ({"gme.max_steps": {"values": [1]}}, 'there is no setting "env.gme"; did you mean "game"?'),
        ({"game.max_steps.x": {"values": [1]}}, 'there is no setting "env.game.max_steps.x"'),
        ({"": {"values": [1]}}, "must be the path of a setting"),
        ({"env": {"values": [1]}}, "must be the path of a setting"),
        ({"a b": {"values": [1]}}, "must be the path of a setting"),
        ({"objects[0].name": {"range": [1, 2]}}, "is only for numbers, which this setting is not"),
        ({"game.max_steps": {"range": [1.5, 9]}}, "must be of integers, since game.max_steps is an integer"),
        ({"game.max_steps": {"range": [1, 5], "bins": 6}}, "must be at most 5, as many as integers from 1 to 5; got 6"),
        ({"game.heart_reward": {"range": [1, 1], "bins": 2}}, "must be 1 for a range of a single value, 1; got 2"),
        ({"game.max_steps": {"values": ["x"]}}, 'with game.max_steps=x: game.max_steps must be an integer'),
        ({"map_builder.objects.altr": {"values": [1]}}, 'unknown object "altr"; did you mean "altar"?'),
        (
            {"map_builder.objects.altr": {"values": [1, 2]}, "game.max_steps": {"values": [5, 6]}},
            'has 1 problem\n  curriculum.buckets."map_builder.objects.altr"  with map_builder.objects.altr=1, '
            "game.max_steps=5 (and 3 more): ",
        ),
        ({"map_builder.objects.altar": {"values": [999]}}, "objects=999|must leave room for the agents"),
        ({"game.num_agents": {"values": [4, 5]}}, "num_agents is 5, not 4"),
        ({"game.observation_width": {"values": [11, 9]}}, "observation_width is 9, not 11"),
        ({"objects[0]": {"values": [1]}}, "must be a table"),
        ({"actions[6].type": {"values": ["swap", "noop"]}}, 'the action "swap" is of type "noop", not "swap"'),
        (
            {"game.width": {"range": [9, 68], "bins": 60}, "game.max_steps": {"range": [1, 60], "bins": 60}},
            "make 60 of game.width x 60 of game.max_steps = 3,600 tasks; the limit is 2,000",
        ),
        ({"game.max_steps": {"range": [1, 201], "bins": 201}}, "make 201 tasks that differ in more than their maps"),
    ],
)  # fmt: skip
def test_invalid_buckets_are_refused(buckets: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message if "|" in message else re.escape(message)):
        tasks(buckets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "progressive", "thresholds": [1.0]}, "needs at least 2 tasks"),
        ({"type": "progressive", "thresholds": [1.0] * 2, "scenes": ["simple"] * 4}, "of 4 tasks but the last; got 2"),
        ({"scenes": ["simple", "quickstart"]}, '"quickstart" differs from "simple": env.game.num_agents is'),
        ({"scenes": ["simple", "nope"]}, 'there is no preset or file "nope"'),
    ],
)  # fmt: skip
def test_incompatible_tasks_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        tasks({}, **settings)


def test_check_lists_tasks_with_their_probabilities() -> None:
    buckets = 'curriculum.buckets."map_builder.objects.altar" = { range = [1, 10], bins = 10 }\n'
    found = [(row.name, row.value, row.reason) for row in derived(parse_config(SMALL + buckets, "a.toml"))]
    assert ("tasks", "10", "1 scene x 10 of map_builder.objects.altar") in found
    assert found.count(("task", "10 %", "of resets, initially: small, map_builder.objects.altar=1")) == 1
    assert ("more tasks", "2", "up to small, map_builder.objects.altar=10") in found
    progressive = buckets + 'curriculum.type = "progressive"\ncurriculum.thresholds = [1.0]\n'
    shares = [row.value for row in derived(parse_config(SMALL + progressive, "a.toml")) if row.name == "task"]
    assert shares == ["100 %"] + ["0 %"] * 7


def test_check_warns_of_a_curriculum_of_one_task() -> None:
    text = SMALL + 'curriculum.type = "low_reward"\n'
    reasons = [row.reason for row in derived(parse_config(text, "a.toml")) if row.is_warning]
    assert 'curriculum.type = "low_reward" has no effect: there is only one task' in reasons
