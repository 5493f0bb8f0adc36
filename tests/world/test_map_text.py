"""The text of a map, as `metta map` prints it, gives the same world when it is read back."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from metta.api import EnvConfig, draw_map, load_config, load_world, make_environment, presets
from metta_cli.main import app


def first_world(config: EnvConfig, seed: int):
    env = make_environment(config)
    env.reset(seed=seed)
    return env


def assert_same_world(env, other) -> None:
    assert np.array_equal(env.cells(), other.cells())  # object types, and teams
    for name in ("positions", "orientations", "groups", "inventories"):
        assert np.array_equal(getattr(env, name), getattr(other, name))
    for name, values in env.converters().items():
        assert np.array_equal(values, other.converters()[name])


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("name", [preset.name for preset in presets()])
def test_the_map_of_a_preset_is_read_back(name: str, seed: int) -> None:
    config = load_world(name)
    env = first_world(config, seed)
    drawn = config.override(map_builder={"type": "Ascii", "map": draw_map(config, env.cells())})
    assert_same_world(env, first_world(drawn, seed))


@pytest.mark.parametrize("name", ["quickstart", "arena_small", "cooperation", "predator_prey"])
def test_the_output_of_the_command_is_a_map_file(name: str, tmp_path: Path) -> None:
    text = CliRunner().invoke(app, ["map", name, "--seed", "3"]).stdout
    (tmp_path / "piped.map").write_text(text)
    (tmp_path / "drawn.toml").write_text(Path(f"presets/{name}.toml").read_text().split("[env.map_builder")[0])
    builder = 'env.map_builder={ type = "Ascii", file = "piped.map" }'
    drawn = load_config(str(tmp_path / "drawn.toml"), [builder]).env
    assert_same_world(first_world(load_world(name), 3), first_world(drawn, 3))
    again = CliRunner().invoke(app, ["map", str(tmp_path / "drawn.toml"), "--seed", "8", "--set", builder]).stdout
    assert again == text


def test_many_teams_and_custom_objects_keep_their_identity() -> None:
    teams = [f"team{number}" for number in range(20)]
    objects = [{"type": "mine", "name": f"chest_{number}", "output": {"heart": number + 1}} for number in range(20)]
    objects += [{"type": "wall", "name": "boulder", "swappable": True}]
    config = EnvConfig.model_validate(
        {
            "game": {"num_agents": 40, "groups": {name: {"id": number} for number, name in enumerate(teams)}},
            "objects": objects,
            "map_builder": {"objects": {entry["name"]: 2 for entry in objects}},
        }
    )
    env = first_world(config, 0)
    text = draw_map(config, env.cells())
    drawing, legend = text.split("\n\n")
    assert len(legend.splitlines()) == len(set(drawing) - {"\n"}) == 2 + 20 + 21
    drawn = config.override(map_builder={"type": "Ascii", "map": text})
    assert_same_world(env, first_world(drawn, 0))
