"""Values of objects that are ranges: sampled for every episode, the same for all objects of a type, and resumable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import dump_config, load_config, load_tasks, parse_config
from metta.config.loading.reference import config_reference
from metta.config.plan.check import derived
from metta.errors import ConfigError
from metta.world.env import MettaGridEnv
from metta.world.rules.converters import sampled_values
from metta.world.state.compiled_config import SAMPLED

RANGES = {"max_output": (2, 5), "conversion_ticks": (0, 3), "cooldown": (5, 20), "initial_items": (0, 4)}


def config(**values: Any) -> EnvConfig:
    given = {name: {"min": low, "max": high} for name, (low, high) in RANGES.items()} | values
    data: dict[str, Any] = {
        "game": {"num_agents": 2, "width": 12, "height": 12, "max_steps": 5},
        "objects": {"mine_red": given, "altar": {"cooldown": {"min": 1, "max": 3}}},
        "map_builder": {"border_width": 1, "objects": {"mine_red": 3, "altar": 2}},
    }
    return EnvConfig.model_validate(data)


def values(env: MettaGridEnv, name: str, kind: str = "mine_red") -> Any:
    """The value of each object of a type. `[worlds, objects]`"""
    worlds = env._worlds
    row = worlds.compiled.types.names.index(kind)
    converters = np.flatnonzero((worlds.converter_type == row) & (worlds.converter_cell >= 0))
    return sampled_values(worlds, name, converters).reshape(worlds.num_worlds, -1)


def test_the_values_are_uniform_and_equal_for_the_objects_of_a_world() -> None:
    env = MettaGridEnv([config()], seed=3, num_worlds=2000)
    env.reset()
    for name, (low, high) in RANGES.items():
        found = values(env, name)
        assert found.shape == (2000, 3)
        assert (found == found[:, :1]).all()
        counts = np.bincount(found[:, 0], minlength=high + 1)[low:]
        assert len(counts) == high - low + 1
        expected = 2000 / len(counts)
        assert (abs(counts - expected) < 5 * expected**0.5).all()
    pairs = np.stack([values(env, name)[:, 0] for name in SAMPLED] + [values(env, "cooldown", "altar")[:, 0]])
    correlation = np.corrcoef(pairs) - np.eye(len(pairs))
    assert abs(correlation).max() < 0.1


def test_they_change_from_episode_to_episode_and_with_the_seed_only() -> None:
    def played(seed: int) -> list[tuple[int, ...]]:
        env = MettaGridEnv([config()], seed=seed)
        env.reset()
        found = []
        for _ in range(12):
            found.append(tuple(int(values(env, name)[0, 0]) for name in SAMPLED))
            for _ in range(5):
                env.step(np.zeros((2, 2), np.int32))
        return found

    first = played(1)
    assert len(set(first)) > 8
    assert first == played(1)
    assert first != played(2)


def test_objects_start_with_the_sampled_items_and_pause_for_the_sampled_time() -> None:
    env = MettaGridEnv([config(conversion_ticks=1, max_output=9)], seed=0, num_worlds=50)
    env.reset()
    worlds = env._worlds
    mines = np.flatnonzero(worlds.converter_type == worlds.compiled.types.names.index("mine_red"))
    mines = mines[worlds.converter_cell[mines] >= 0]
    held = worlds.converter_inventory[mines, worlds.compiled.items.index("ore_red")]
    assert (held.reshape(50, -1) == values(env, "initial_items")).all()
    env.step(np.zeros((100, 2), np.int32))
    due = worlds.converter_due[mines] - worlds.clock
    assert (due.reshape(50, -1) == values(env, "cooldown")).all()


def test_a_restored_state_has_the_same_values() -> None:
    env, other = (MettaGridEnv([config()], seed=seed, num_worlds=4) for seed in (5, 6))
    env.reset()
    other.reset()
    other.load_state(env.state())
    for name in SAMPLED:
        assert (values(env, name) == values(other, name)).all()


def test_a_range_of_one_value_is_that_value() -> None:
    fixed, ranged = (
        MettaGridEnv([config(**{name: value for name in RANGES})], seed=1, num_worlds=3)
        for value in (4, {"min": 4, "max": 4})
    )
    for env in (fixed, ranged):
        env.reset()
        for _ in range(9):
            env.step(np.ones((6, 2), np.int32))
    first, second = fixed.state(), ranged.state()
    arrays = [name for name, value in first.items() if isinstance(value, np.ndarray)]
    assert len(arrays) > 10
    assert [name for name in arrays if not np.array_equal(first[name], second[name])] == []


def test_ranges_in_files_options_and_buckets() -> None:
    text = "[env.objects.altar]\ncooldown = { min = 5, max = 2e1 }\n"
    found = parse_config(text, "a.toml")
    assert parse_config(dump_config(found), "dumped.toml") == found
    assert found == parse_config("", "a.toml", ["env.objects.altar.cooldown={min=5,max=20}"])
    listed = '[[env.objects]]\nname = "altar"\ntype = "converter"\ncooldown = { min = 5, max = 20 }'
    assert found == parse_config(listed, "a.toml")
    buckets = '[curriculum.buckets]\n"objects.altar.initial_items" = { values = [0, 1] }'
    tasks = load_tasks(parse_config(text + buckets, "a.toml")).env_configs
    assert [env.object_types["altar"].initial_items for env in tasks] == [0, 1]
    assert all(env.object_types["altar"].cooldown == found.env.object_types["altar"].cooldown for env in tasks)
    assert derived(load_config("quickstart", ["env.objects.altar.cooldown={min=5,max=20}"]))
    assert config_reference("env.objects.altar.cooldown")[0].keys[0].type == "integer or range"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{ min = 20, max = 5 }", "line 2  env.objects.altar.cooldown.min  must be at most max = 5; got 20"),
        ("{ min = -1, max = 5 }", "line 2  env.objects.altar.cooldown  must be at least 0; got -1"),
        ("{ min = 1.5, max = 5 }", "line 2  env.objects.altar.cooldown.min  must be an integer; got 1.5"),
        ("{ min = 1 }", "line 2  env.objects.altar.cooldown  must be a number, or a range"),
        ("{ low = 1, high = 2 }", "line 2  env.objects.altar.cooldown  must be a number, or a range"),
        ("[1, 2]", "line 2  env.objects.altar.cooldown  must be an integer; got a list of 2"),
    ],
)
def test_wrong_ranges_name_their_line(value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"[env.objects.altar]\ncooldown = {value}", "a.toml")
    assert message in str(caught.value)


def test_a_range_that_allows_endless_conversions_is_refused() -> None:
    endless = "conversion_ticks = { min = 0, max = 2 }\ncooldown = { min = 0, max = 9 }\nmax_output = -1"
    with pytest.raises(ConfigError, match="would convert endlessly"):
        parse_config(f"[env.objects.mine_red]\n{endless}", "a.toml")
    parse_config(f"[env.objects.mine_red]\n{endless.replace('min = 0, max = 9', 'min = 1, max = 9')}", "a.toml")
