"""Drawn maps: files, read only from the directory of the TOML file; legends, YAML, borders."""

from pathlib import Path

import pytest

from metta.api import EnvConfig, RunConfig, draw_map, make_environment
from metta.config.env.glyphs import GLYPHS, METTAGRID_GLYPHS
from metta.config.env.map_builder import AsciiConfig, RoomsConfig
from metta.config.loading.load import dump_config, load_config, parse_config
from metta.errors import ConfigError, ConfigWarning

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


# -- legends ---------------------------------------------------------------------------------------------------------

OF_METTAGRID = """
WWWWWWWWWWWW
WA.@ ..1234W
W_amrbgnRBGW
Wos SLFT.pPW
############
"""
GENERATORS = ["generator_red", "generator_red", "generator_blue", "generator_green"]
TEAMS = (
    {"agent": {"id": 0}} | {f"team_{n}": {"id": n} for n in (1, 2, 3, 4)} | {"prey": {"id": 5}, "predator": {"id": 6}}
)


def test_the_legend_of_mettagrid_reads_all_of_its_characters() -> None:
    drawn = AsciiConfig(type="Ascii", map=OF_METTAGRID, legend="mettagrid")
    names = drawn.cell_names
    assert {name for name in names[:12] + names[48:]} == {"wall"}
    assert [names[start : start + 10] for start in (13, 25, 37)] == [
        ["agent", "empty", "agent", *["empty"] * 3, "agent.team_1", "agent.team_2", "agent.team_3", "agent.team_4"],
        ["altar", "altar", "mine_red", "mine_red", "mine_blue", "mine_green", *GENERATORS],
        ["armory", "block", "empty", "lasery", "lab", "factory", "temple", "empty", "agent.prey", "agent.predator"],
    ]
    config = EnvConfig.model_validate(
        {"game": {"groups": TEAMS}, "map_builder": {"type": "Ascii", "map": OF_METTAGRID, "legend": "mettagrid"}}
    )
    assert config.game.num_agents == 8
    assert AsciiConfig(type="Ascii", map="#m#", legend="metta").cell_names == ["wall", "mine_blue", "wall"]


def test_a_legend_below_the_drawing_comes_first() -> None:
    text = "#@m$#\n\n$ altar\nm   block \n\n"
    for legend in ("metta", "mettagrid", {"m": "wall", "$": "lab"}):
        drawn = AsciiConfig.model_validate({"type": "Ascii", "map": text, "legend": legend})
        assert (drawn.height, drawn.width) == (1, 5)
        assert drawn.cell_names == ["wall", "agent", "block", "altar", "wall"]


BAD_LEGENDS = [
    (
        'map = "#@S#"',
        '"S" (row 1) has no meaning; add it to the legend, or set legend = "mettagrid" if it is a map of MettaGrid. '
        "Known: . empty, # wall, b block, ",
    ),
    (
        'map = "#@X#\\n#Y.#"',
        '"X" (row 1), "Y" (row 2) have no meaning; add them to the legend. Known: . empty, # wall',
    ),
    (
        'map = "#@X#"\nlegend = "mettagrid"',
        '"X" (row 1) has no meaning; add it to the legend. Known: . empty, # wall, W wall, s block, m mine_red, ',
    ),
    ('map = "#@.#"\nlegend = "metagrid"', 'unknown legend "metagrid"; did you mean "mettagrid"?'),
    ('map = "#@.#"\nlegend = 3', 'must be one of "metta", "mettagrid", or a table of characters'),
    ('map = "#@.#"\nlegend = { a = 3 }', "must be a string; got 3"),
    ('map = "#@1#"\nlegend = "mettagrid"', 'row 1 has "1": unknown group "team_1"; known: agent'),
    ('map = "#@c#"\nlegend = "mettagrid"', 'row 1 has "c": unknown object "converter"; known: wall, block, '),
    ('map = "#@X#\\n\\nX alter"', 'row 1 has "X": unknown object "alter"; did you mean "altar"?'),
    (
        'map = "#@.#\\n\\n#@.#"',
        "the lines below the empty line are the legend; each must be a character and its meaning, such as "
        '"r mine_red"; got "#@.#"',
    ),
]


@pytest.mark.parametrize(("keys", "message"), BAD_LEGENDS)
def test_messages_about_legends(keys: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f'[env.map_builder]\ntype = "Ascii"\n{keys}\n', "w.toml")
    assert message in str(caught.value)


def loaded(folder: Path, text: str, keys: str = "", name: str = "drawn.map") -> EnvConfig:
    """The world whose map is `text`, once in a file and once in the TOML file: both must be equal."""
    (folder / name).write_text(text)
    world = '[env.map_builder]\ntype = "Ascii"\n'
    (folder / "w.toml").write_text(f'{world}file = "{name}"\n{keys}')
    from_file = load_config(str(folder / "w.toml")).env
    (folder / "w.toml").write_text(f"{world}map = '''\n{text}'''\n{keys}")
    assert load_config(str(folder / "w.toml")).env == from_file
    return from_file


@pytest.mark.parametrize("glyph", sorted(set(GLYPHS) & set(METTAGRID_GLYPHS)))
def test_a_map_that_may_be_meant_for_mettagrid_gives_a_note(glyph: str, tmp_path: Path) -> None:
    text = f"#####\n#@.{glyph}#\n#####\n"
    if GLYPHS[glyph] == METTAGRID_GLYPHS[glyph]:
        loaded(tmp_path, text)  # warnings are errors
        return
    with pytest.warns(ConfigWarning) as notes:
        config = loaded(tmp_path, text)
    assert str(notes[0].message) == (
        f'{tmp_path}/w.toml: the map has "{glyph}", read as {GLYPHS[glyph]} (in MettaGrid: {METTAGRID_GLYPHS[glyph]}); '
        'set env.map_builder.legend = "mettagrid" if it is a map of MettaGrid, else "metta"'
    )
    assert GLYPHS[glyph] in config.map_builder.cell_names
    for legend in ('"mettagrid"', '"metta"', "{}"):
        loaded(tmp_path, text, f"legend = {legend}\n")
    loaded(tmp_path, text.replace(".", "l"))  # not a map of MettaGrid, which does not know "l"
    loaded(tmp_path, f"{text}\n{glyph} altar\n")
    parse_config(dump_config(RunConfig(env=config)), "config.toml", directory=tmp_path)


def test_every_builder_of_a_world_is_searched(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(
        '[env.map_builder]\ntype = "Rooms"\n[[env.map_builder.rooms]]\ntype = "Mirrored"\n'
        '[env.map_builder.rooms.builder]\ntype = "Ascii"\nmap = "@m"\n'
    )
    with pytest.warns(ConfigWarning, match=r"set env\.map_builder\.rooms\[0\]\.builder\.legend"):
        load_config(str(tmp_path / "w.toml"))


YAML = """# a map
type: mettagrid.map_builder.ascii.AsciiMapBuilder.Config
map_data: |-
    #####
    #@.m#
    #.X.#
    #####
char_to_map_name:
  "#": wall
  '.': empty
  m: mine_red  # red
  "@": agent.agent
  "X": altar
  "Z": assembler
"""


@pytest.mark.parametrize("yaml", [YAML, YAML.replace("map_name", "name").replace("|-", "|")])
def test_a_yaml_file_with_a_map_is_read(yaml: str, tmp_path: Path) -> None:
    drawn = loaded(tmp_path, yaml).map_builder
    assert (drawn.height, drawn.width) == (4, 5)
    assert drawn.cell_names[6:9] == ["agent.agent", "empty", "mine_red"]
    assert drawn.cell_names[12] == "altar"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("# two rooms\n\n_target_: metta.map.mapgen.MapGen\nroot:\n  params:\n    data: |\n      #@#\n", "a.map"),
        ("game:\n  num_agents: 2\n", "a.map"),
        ("- a\n- b\n", "a.yml"),
        ("#@#\n", "a.yaml"),
    ],
)
def test_other_yaml_is_recognized(text: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"file  is YAML without a block map_data: \|; draw the map as rows"):
        loaded(tmp_path, text, name=name)


@pytest.mark.parametrize("text", [YAML, "game:\n  num_agents: 2\n", "\n# it\ndefaults:\n- a\n"])
def test_yaml_in_place_of_a_toml_file_is_recognized(text: str) -> None:
    with pytest.raises(ConfigError, match="line 1  is YAML, not TOML"):
        parse_config(text, "w.yaml")


@pytest.mark.parametrize("text", ["####\n#@_#\n####\n", "####\r\n#.@#\r\n####", "###\n#@#\n###\n\n@ agent\n"])
def test_a_drawn_map_in_place_of_a_toml_file_is_recognized(text: str) -> None:
    with pytest.raises(ConfigError, match="line 1  is a drawn map, not TOML"):
        parse_config(text, "w.map")
    assert parse_config("######\n# me #\n######\n\n[run]\nseed = 3\n", "w.toml").run.seed == 3


# -- borders ---------------------------------------------------------------------------------------------------------


def test_a_border_of_walls_around_a_drawn_map() -> None:
    builder = {"type": "Ascii", "map": "@.\n._", "border_width": 2, "connected": True}
    config = EnvConfig.model_validate({"map_builder": builder})
    assert (config.game.height, config.game.width) == (6, 6)
    env = make_environment(config)
    env.reset(seed=0)
    assert draw_map(config, env.cells()).splitlines()[:6] == ["######"] * 2 + ["##@.##", "##._##"] + ["######"] * 2


def test_a_room_with_a_border_has_doors() -> None:
    room = {"type": "Ascii", "map": "@..", "border_width": 1}
    builder = {"type": "Rooms", "rooms": [room, room], "door_width": 1, "connected": True}
    config = EnvConfig.model_validate({"map_builder": builder})
    env = make_environment(config)
    env.reset(seed=0)
    assert draw_map(config, env.cells()).splitlines()[2] == "##@.....@..##"
