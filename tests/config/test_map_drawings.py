"""Map files: read from the directory of the TOML file, and from nowhere else."""

from pathlib import Path

import pytest

from metta.config.env.map_builder import AsciiConfig, RoomsConfig
from metta.config.loading.load import dump_config, load_config, parse_config
from metta.errors import ConfigError

DRAWING = "####\n#@.#\n####\n"
WORLD = '[env.map_builder]\ntype = "Ascii"\nfile = "maps/small.txt"\n'


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "small.txt").write_bytes(DRAWING.replace("\n", "\r\n").encode())
    file = tmp_path / "world.toml"
    file.write_text(WORLD)
    return file


def test_the_text_of_the_file_is_in_the_config(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # the file is found from where the TOML file is
    config = load_config(str(world))
    assert isinstance(config.env.map_builder, AsciiConfig)
    assert config.env.map_builder.map == DRAWING
    text = dump_config(config)
    assert "small.txt" not in text
    (world.parent / "maps" / "small.txt").unlink()
    assert parse_config(text, "config.toml") == config


def test_a_room_can_be_in_a_file(world: Path) -> None:
    world.write_text('[env.map_builder]\ntype = "Rooms"\nrooms = [{ type = "Ascii", file = "maps/small.txt" }]\n')
    builder = load_config(str(world)).env.map_builder
    assert isinstance(builder, RoomsConfig)
    assert (builder.rooms[0].height, builder.rooms[0].width, builder.agents) == (3, 4, 1)


def test_an_override_can_set_a_map_file(world: Path) -> None:
    config = load_config(str(world), ['env.map_builder={ type = "Ascii", file = "maps/small.txt" }'])
    assert config.env.game.width == 4


def test_a_config_without_a_directory_reads_no_files(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config in a checkpoint, from a stranger perhaps."""
    monkeypatch.chdir(world.parent)
    with pytest.raises(ConfigError, match="can be used only in a TOML file on disk"):
        parse_config(WORLD, "checkpoint")


@pytest.mark.parametrize("name", ["../secret.txt", "{there}/secret.txt", "link.txt", "maps/../../secret.txt"])
def test_outside_files_are_not_read(name: str, world: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    inner = world.parent / "inner"
    inner.mkdir()
    (world.parent / "secret.txt").write_text(DRAWING)
    (inner / "link.txt").symlink_to(world.parent / "secret.txt")
    file = inner / "world.toml"
    file.write_text(WORLD.replace("maps/small.txt", name.format(there=world.parent)))
    with pytest.raises(ConfigError, match="must be in the directory of the TOML file or below"):
        load_config(str(file))


def test_invalid_map_files_are_refused(world: Path) -> None:
    world.write_text(WORLD.replace("maps/small.txt", "maps"))
    with pytest.raises(ConfigError, match="maps is a directory"):
        load_config(str(world))
    world.write_text(WORLD)
    (world.parent / "maps" / "small.txt").write_bytes(b"@\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(str(world))
    (world.parent / "maps" / "small.txt").write_text("@" + "." * 600_000)
    with pytest.raises(ConfigError, match="has 600001 characters"):
        load_config(str(world))
