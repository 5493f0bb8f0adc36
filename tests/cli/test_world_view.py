"""The view of `metta watch` and `metta play` at several sizes of the terminal, with and without colors."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from metta.api import EnvConfig, EpisodePlayer, ScriptedPolicy, draw_map, load_world
from metta_cli.interactive import WATCH_KEYS, PlayedEpisode
from metta_cli.key_bindings import KeyBindings
from metta_cli.views.world_view import WorldView, earnings, styled_map

SIZES = [(120, 24), (80, 24), (40, 24), (80, 50)]
WORLDS = ["quickstart", "arena_small", "predator_prey", "hearts"]
ARROW = "[▲▼◀▶△▽◁▷]"


def player(world: str | EnvConfig, steps: int = 0) -> EpisodePlayer:
    config = load_world(world) if isinstance(world, str) else world
    played = EpisodePlayer(ScriptedPolicy(config), config)
    for _ in range(steps):
        played.step()
    return played


def screen(
    played: EpisodePlayer, width: int = 120, height: int = 24, *, encoding: str = "utf-8", **options
) -> list[str]:
    """The lines of a view, as text."""
    with open("/dev/null", "w", encoding=encoding) as null:
        console = Console(file=null, width=width, height=height, record=True, color_system=None)
        view = WorldView(console, played, "a world")
        view.failure = options.pop("failure", "")
        console.print(view.render("3 steps/s", options.pop("keys", WATCH_KEYS), **options))
        return console.export_text().splitlines()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_view_fits_and_keeps_its_numbers(world: str, width: int, height: int) -> None:
    played = player(world, 7)
    lines = screen(played, width, height)
    text = "\n".join(lines)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    for pattern in ("3 steps/s", r"step 7 of", r"reward +\d\.\d+ per agent", rf"agent +{ARROW}0", "q quit", "ahead "):
        assert re.search(pattern, text), text
    for sign, name in [("r", "mine_red"), ("▒", "wall")]:
        if world != "arena_small" or name == "wall":
            assert re.search(rf"{sign} +{name}", text), text
    if world != "predator_prey":
        assert re.search("_ +altar", text), text


@pytest.mark.parametrize("world", WORLDS)
def test_agents_have_distinct_numbers_and_teams_distinct_signs(world: str) -> None:
    played = player(world)
    env = played.env
    lines = screen(played, 400, 100)
    shown = {
        int(number): sign for sign, number in re.findall(rf"({ARROW})(\d+)", "\n".join(line[:250] for line in lines))
    }
    assert sorted(shown) == list(range(env.num_agents))
    teams = list(env.config.game.groups)
    signs = {
        team: {shown[agent] for agent in range(env.num_agents) if teams[env.groups[agent]] == team} for team in teams
    }
    assert len(set().union(*signs.values())) == sum(map(len, signs.values())) == len(teams)
    text = "\n".join(lines)
    for team in teams if len(teams) > 1 else []:
        assert re.search(
            rf"{next(iter(signs[team]))}\S* +{team}, {int((env.groups == teams.index(team)).sum())} agents", text
        )


def test_a_terminal_without_unicode() -> None:
    lines = screen(player("arena_small", 3), 80, 24, encoding="ascii")
    text = "\n".join(lines)
    assert text.isascii()
    assert re.search(r"\^v<> +team_1, 4 agents", text)
    assert re.search(r"AV\(\) +team_2, 4 agents", text)


def test_the_altar_stands_out_from_everything_else() -> None:
    with open("/dev/null", "w", encoding="utf-8") as null:
        console = Console(file=null, width=120, height=24, color_system="truecolor", force_terminal=True, record=True)
        console.print(WorldView(console, player("quickstart"), "").render("", []))
        styled = console.export_text(styles=True)
    altars = load_world("quickstart").map_builder.objects["altar"]
    assert len(re.findall(r"\x1b\[1;7;95m_", styled)) == altars + 1  # and in the legend


def test_the_panel_says_what_is_ahead_and_why_an_action_failed() -> None:
    config = EnvConfig.model_validate({"map_builder": {"type": "Ascii", "map": "R\n@"}})
    played = player(config)
    bindings = KeyBindings(config)
    action = bindings.action("p", 0)
    assert action is not None
    played.step({0: action})
    text = "\n".join(screen(played, failure="generator_red needs 1 ore_red", keys=bindings.help))
    assert re.search(r"ahead +generator_red: \d battery_red ready", text), text
    assert "put items: failed" in text
    assert re.search("because +generator_red needs 1 ore_red", text)
    assert re.search("p put items", text)
    assert re.search(r"R +generator_red: 1 ore_red -> 1 battery_red", text)


def test_what_earns_reward() -> None:
    config = load_world("quickstart")
    assert earnings(config, 0) == "heart +1, battery_red +0.1 (first 2), ore_red +0.02 (first 2)"
    assert earnings(EnvConfig(), 0).endswith("ore_red +0.01 (first 10), each step -0.0001")
    assert earnings(load_world("predator_prey"), 0) != earnings(load_world("predator_prey"), 1)


def test_the_summary_of_an_episode() -> None:
    played = player("quickstart")
    summary = PlayedEpisode(played, 0)
    for _ in range(60):
        played.step()
        summary.update()
    first, second = summary.lines()
    reward, others = played.total_rewards[0], played.total_rewards[1:].mean()
    assert first == f"episode 1: reward {reward:.3f} (mean of the others: {others:.3f})"
    gained = re.fullmatch(r"gained (.+); 60 steps; failed actions: (\d+)", second)
    assert gained
    assert re.search(r"[1-9]\d* ore_red, [1-9]\d* battery_red, [1-9]\d* heart", gained[1])


@pytest.mark.parametrize("world", WORLDS)
def test_a_map_in_color_is_the_same_text(world: str) -> None:
    env = player(world).env
    text = draw_map(env.config, env.cells())
    styled = styled_map(env.config, text)
    assert styled.plain == text
    drawing = text.split("\n\n")[0]
    altars = [index for index, glyph in enumerate(drawing) if glyph == "_"]
    shown = {span.start for span in styled.spans if "reverse" in str(span.style) and span.start < len(drawing)}
    assert world == "predator_prey" or shown == set(altars) != set()


@pytest.mark.parametrize("world", WORLDS)
def test_all_cells_of_the_map_have_the_same_width(world: str) -> None:
    played = player(world, 5)
    with open("/dev/null", "w", encoding="utf-8") as null:
        view = WorldView(Console(file=null, width=400, height=100), played, "")
        rows = view._map(100, 400).plain.splitlines()
    game, digits = played.env.config.game, len(str(played.env.num_agents - 1))
    assert {len(row) for row in rows} == {game.width * (1 + digits)}
    assert len(rows) == game.height
