"""Presets: each loads, can be dumped and loaded again, runs, and has the world that its comments describe."""

import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from metta.config.curriculum import CurriculumConfig, LearningProgressConfig, LowRewardConfig, ProgressiveConfig
from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import MapBuilderConfig, RoomsConfig
from metta.config.loading.line_numbers import key_lines
from metta.config.loading.load import dump_config, load_config, parse_config
from metta.config.loading.presets import Preset, presets
from metta.config.parts.registries import PART_TABLES
from metta.config.policies import joint_plan
from metta.config.run import RunConfig, policy_settings
from metta.config.validation.key_paths import KeyPath, alternatives, default_of, sections
from metta.world.env import MettaGridEnv

each_preset = pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)


def test_required_presets_exist() -> None:
    assert {"arena", "default", "hearts", "quickstart", "simple"} <= {preset.name for preset in presets()}


@each_preset
def test_its_first_line_says_what_it_is_for(preset: Preset) -> None:
    assert preset.text.startswith(f"# {preset.name}: ")
    assert 20 < len(preset.aim) < 110


@each_preset
def test_it_loads_and_comes_back_from_its_dump(preset: Preset) -> None:
    config = load_config(preset.name)
    text = dump_config(config)
    again = parse_config(text, "config.toml")
    assert again == config
    assert dump_config(again) == text
    for group in config.env.game.groups:
        assert again.env.game.group_settings(group) == config.env.game.group_settings(group)


@each_preset
def test_its_comments_are_as_many_as_it_has_tables(preset: Preset) -> None:
    lines = preset.text.splitlines()
    assert sum("#" in line for line in lines) >= sum(line.startswith("[") for line in lines) // 2


@each_preset
def test_the_batch_is_not_rounded_down(preset: Preset) -> None:
    config = load_config(preset.name)
    plan = joint_plan(config.experience, policy_settings(config), config.env)
    assert plan.batch_size > 0.95 * config.experience.batch_size
    assert config.run.total_timesteps > 10 * plan.batch_size


@each_preset
def test_its_worlds_are_built_step_and_end(preset: Preset) -> None:
    """The environment's contract on the preset's world, with episodes cut short so that some end."""
    config = load_config(preset.name, ["env.game.max_steps=12"])
    env = MettaGridEnv(config.env, num_worlds=3, seed=5)
    observations, _ = env.reset()
    agents = 3 * config.env.game.num_agents
    assert observations.shape == (agents, config.env.game.num_observation_tokens, 3)
    assert observations.dtype == np.uint8
    generator = np.random.default_rng(0)
    pairs = np.array(config.env.spec.flat_actions)
    ended = 0
    for _ in range(30):
        actions = pairs[generator.integers(len(pairs), size=agents)]
        observations, rewards, terminated, truncated, info = env.step(actions)
        assert observations.shape == (agents, config.env.game.num_observation_tokens, 3)
        assert rewards.shape == terminated.shape == truncated.shape == (agents,)
        assert np.isfinite(rewards).all()
        ended += len(info.episodes)
    assert ended == 2 * 3


OF_OTHER_BUILDERS = (
    set().union(*(table.model_fields for table in alternatives(EnvConfig.model_fields["map_builder"].annotation)))
    - MapBuilderConfig.model_fields.keys()
)
OF_OTHER_CURRICULA = (
    set().union(*(table.model_fields for table in (LowRewardConfig, LearningProgressConfig, ProgressiveConfig)))
    - CurriculumConfig.model_fields.keys()
)


def test_default_is_every_default_written_out() -> None:
    preset = next(preset for preset in presets() if preset.name == "default")
    assert load_config("default") == RunConfig()
    written = {without_places(path) for path in key_lines(preset.text)}
    fields = {
        (*header.strip("[]").split("."), name)
        for header, table in sections(RunConfig)
        for name, field in table.model_fields.items()
        if default_of(field) is not None or field.is_required()
    }
    # what only other builders, other groups or open settings of single types have
    exempt = {("env", "map_builder", name) for name in OF_OTHER_BUILDERS}
    exempt |= {("curriculum", name) for name in OF_OTHER_CURRICULA}
    exempt |= {field for field in fields if field[:2] == ("curriculum", "buckets") and len(field) > 2}
    exempt |= {field for field in fields if field[:3] == ("env", "game", "groups")}
    exempt |= {field for field in fields if field[0] == "policies" and len(field) > 1}
    exempt |= {("env", "actions", "reserved"), ("curriculum", "worlds")}  # written by metta
    lists = set(PART_TABLES) - {"actions", "objects"}
    exempt |= {field for field in fields if field[:2] in (("env", key) for key in lists) and len(field) > 2}
    exempt |= {("env", key, "settings") for key in ("actions", "objects")}  # of registered types
    assert fields - exempt - written == set()
    assert {
        ("env", "game", "groups", "agent", name) for name in ("id", "sprite", "group_reward_pct", "props")
    } <= written
    for name in ("warmup_steps", "target_kl"):
        assert f"# {name} = " in preset.text


def without_places(path: KeyPath) -> KeyPath:
    return tuple(part for part in path if not isinstance(part, int))


def test_simple_is_the_classic_world() -> None:
    config = load_config("simple").env
    builder = config.map_builder
    assert isinstance(builder, RoomsConfig)
    assert (builder.rows * builder.cols, builder.room.width, builder.room.height) == (4, 25, 25)
    assert builder.room.objects == {"mine_red": 10, "generator_red": 5, "altar": 5, "block": 20, "wall": 20}
    assert (config.game.num_agents, config.game.max_steps, builder.room.agents) == (24, 1000, 6)


def test_hearts_is_the_classic_world_with_fewer_actions_and_smaller_crumbs() -> None:
    hearts, simple = load_config("hearts").env, load_config("simple").env
    assert hearts.map_builder == simple.map_builder
    assert hearts.object_types == simple.object_types
    rewards = {name: getattr(simple.game, name) for name in type(simple.game).model_fields if "_red_" in name}
    assert hearts.override(**rewards, time_punishment=simple.game.time_punishment).game == simple.game
    assert {action.key for action in hearts.actions} < {action.key for action in simple.actions}


def test_hearts_begins_in_worlds_that_differ_in_rooms_and_recipes_alone() -> None:
    config = load_config("hearts")
    for scene in config.curriculum.scenes:
        env = load_config(scene).env
        assert (env.game.group_settings("agent"), env.actions) == (
            config.env.game.group_settings("agent"),
            config.env.actions,
        )
        assert not env.spec.differing_fields(config.env.spec)


@pytest.mark.parametrize("preset", ["hearts", "simple"])
def test_training_ends_in_the_world_of_the_preset_with_a_reward_for_supplying(preset: str) -> None:
    config = load_config(preset)
    last = load_config(config.curriculum.scenes[-1]).env
    assert [reward.type for reward in last.rewards] == ["supply"]
    assert last.model_copy(update={"rewards": config.env.rewards}) == config.env
    assert not config.env.rewards


def test_arena_has_the_whole_economy_and_four_even_teams() -> None:
    config = load_config("arena").env
    builder = config.map_builder
    assert isinstance(builder, RoomsConfig)
    assert set(builder.room.objects) == set(config.object_types)
    assert list(config.game.groups) == ["team_1", "team_2", "team_3", "team_4"]
    assert all(group.group_reward_pct == 0.5 for group in config.game.groups.values())
    env = MettaGridEnv(config, num_worlds=1, seed=0)
    observations, _ = env.reset()
    group_feature = config.spec.feature_names.index("agent:group")
    own = (observations[:, :, 0] == config.spec.center) & (observations[:, :, 1] == group_feature)
    assert own.sum(axis=1).tolist() == [1] * 24
    assert Counter(observations[:, :, 2][own].tolist()) == {1: 6, 2: 6, 3: 6, 4: 6}


def test_presets_are_plain_toml_files() -> None:
    for preset in presets():
        assert preset.path == Path(preset.path).resolve()
        tomllib.loads(preset.text)
