"""The page in a real browser: it opens, plays, scrubs and selects, and shows what the simulator had."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium
from episodes import HOSTILE_NAMES, LIVELY, ScriptedPolicy, drawn, hostile, simulated
from viewer_page import box, cell_center, cell_colors, go_to, panels, step_shown

from metta.baselines.random_policy import RandomPolicy
from metta.replay.recording import Replay, record_episode
from metta.replay.replay_files import ReplayPaths, write_replay
from metta.world.env import MettaGridEnv

NONE = "\u2013"
ORIENTATIONS = ("up ↑", "down ↓", "left ←", "right →")
FLOOR = [26, 32, 38]
STRIKE = [255, 90, 77]

COLOR_AT = """(col, x, y) => {
  const canvas = document.querySelector("#map"), cell = canvas.width / 3, top = (canvas.height - cell) / 2;
  return [...canvas.getContext("2d").getImageData((col + x) * cell, top + y * cell, 1, 1).data].slice(0, 3);
}"""
"""The color at a point of a cell of a map with one row and three columns."""

CENTER = """selector => {
  const {left, top, width, height} = document.querySelector(selector).getBoundingClientRect();
  return [left + width / 2, top + height / 2];
}"""
"""The middle of an element on the page."""

SHAPES = """selector => [...document.querySelectorAll(selector)].map(canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = i => data[i + 3] < 128 ? "." : Math.max(...data.slice(i, i + 3)) < 60 ? "dark" : "light";
  return Array.from({length: data.length / 4}, (_, i) => seen(4 * i)).join();
})"""
"""What is left of pictures without their colors."""

EDGES = ((0.5, 0.1), (0.5, 0.9), (0.1, 0.5), (0.9, 0.5))
"""(x, y) at the top, bottom, left and right of a cell."""


@pytest.fixture(autouse=True)
def nothing_goes_wrong(browser: Chromium) -> Iterator[None]:
    browser.resize(1280, 800)
    yield
    assert browser.problems() == []


def number(value: float, digits: int) -> str:
    """As the page writes numbers."""
    rounded = round(float(value), digits)
    return str(int(rounded)) if rounded == int(rounded) else f"{rounded:.{digits}f}".rstrip("0")


def expected_properties(replay: Replay, env: MettaGridEnv, step: int, agent: int) -> dict[str, str]:
    row, col = env.positions[agent]
    total = np.float32(0) if step == 0 else replay.total_rewards[step - 1, agent]
    properties = {
        "position": f"row {row}, column {col}",
        "orientation": ORIENTATIONS[env.orientations[agent]],
        "state": "frozen" if env.freeze_counters[agent] else "free",
        "color": str(env.colors[agent]),
        "total-reward": number(total, 4),
        "action": "none, the episode is over",
        "outcome": NONE,
        "reward": NONE,
    }
    if step < replay.steps:
        action, argument = replay.actions[step, agent]
        properties |= {
            "action": f"{replay.config.spec.action_names[action]} {argument}",
            "outcome": "✓ succeeds" if replay.action_success[step, agent] else "✗ fails",
            "reward": number(replay.rewards[step, agent], 4),
        }
    return properties


def test_panels_show_the_simulators_state(browser: Chromium, lively_page: Path, lively: Replay) -> None:
    browser.open(lively_page, "#agent=0")
    items = lively.config.game.inventory_item_names
    for step, env in enumerate(simulated(lively)):
        if step not in (0, 1, 30, 57, 89, 90):
            continue
        go_to(browser, step)
        for agent in range(6):
            panel = panels(browser)
            assert panel["agent"] == str(agent)
            assert panel["properties"] == expected_properties(lively, env, step, agent)
            held = [[item, str(n)] for item, n in zip(items, env.inventories[agent].tolist(), strict=True) if n]
            assert panel["inventory"] == (held or [])
            browser.press("n")
        groups = panels(browser)["groups"]
        totals = lively.total_rewards[step - 1] if step else np.zeros(6, np.float32)
        for index in range(2):
            members = env.groups == index
            assert groups["Agents"][index] == str(members.sum())
            assert groups["Frozen"][index] == str((env.freeze_counters[members] != 0).sum())
            assert groups["Reward"][index] == number(totals[members].sum(dtype=np.float64), 2)
            for item in np.flatnonzero(lively.inventories.any(axis=(0, 1))).tolist():
                assert groups[items[item]][index] == str(env.inventories[members, item].sum())


def test_the_map_shows_things_where_the_simulator_has_them(
    browser: Chromium, lively_page: Path, lively: Replay
) -> None:
    browser.open(lively_page)
    browser.press("Escape")
    rows, cols = lively.cells.shape
    attacks = [i for i, name in enumerate(LIVELY.spec.action_names) if name.startswith("attack")]
    hits = (np.isin(lively.actions[:, :, 0], attacks) & lively.action_success).any(axis=1)
    peaceful = [*np.flatnonzero(~hits)[::15].tolist(), 90]  # a hit is drawn across what is empty
    assert len(peaceful) >= 4
    for step, env in enumerate(simulated(lively)):
        if step in peaceful:
            go_to(browser, step)
            colors = cell_colors(browser, rows, cols)
            shows = [[any(color != FLOOR for color in cell) for cell in cells] for cells in colors]
            np.testing.assert_array_equal(shows, env.cells() != 0)


def test_each_facing_and_each_group_looks_different(browser: Chromium, tmp_path: Path) -> None:
    config = drawn("@@a", legend={"a": "agent.blue"}, max_steps=2, groups={"red": {"id": 0}, "blue": {"id": 1}})
    policy = ScriptedPolicy(config.spec, [[("rotate", 1), ("rotate", 3), ("noop", 0)]])
    page = write_replay(record_episode(policy, config, 0), tmp_path, "facing").page
    browser.open(page, "#step=1")
    browser.press("Escape")
    down, right, _ = ([browser.run(COLOR_AT, col, *at) for at in EDGES] for col in range(3))
    white = [255, 255, 255]
    assert [color == white for color in down] == [False, True, False, False]
    assert [color == white for color in right] == [False, False, False, True]


def test_the_sprite_of_a_group_is_its_agents_shape(browser: Chromium, tmp_path: Path) -> None:
    groups = {"red": {"id": 0, "sprite": 2}, "blue": {"id": 1, "sprite": 0}, "green": {"id": 2, "sprite": 2}}
    config = drawn("@bg", legend={"b": "agent.blue", "g": "agent.green"}, max_steps=1, groups=groups)
    nobody_acts = ScriptedPolicy(config.spec, [[("noop", 0)] * 3])
    browser.open(write_replay(record_episode(nobody_acts, config, 0), tmp_path, "sprites").page)
    browser.press("Escape")
    # from the middle aslant downwards: a diamond ends before a circle
    inside, near, corner = (0.55, 0.55), (0.72, 0.72), (0.8, 0.8)
    diamond, circle, _ = ([browser.run(COLOR_AT, col, *at) for at in (inside, near, corner)] for col in range(3))
    assert [color == FLOOR for color in diamond] == [False, True, True]
    assert [color == FLOOR for color in circle] == [False, False, True]
    widths = [sum(browser.run(COLOR_AT, col, x / 40, 0.8) != FLOOR for x in range(40)) for col in range(3)]
    assert len(set(widths)) == 3, "an outline that is taken gives way to the next"


def test_no_two_of_many_groups_have_one_shape(browser: Chromium, tmp_path: Path) -> None:
    names = [f"team_{index}" for index in range(14)]
    glyphs = "abcdefghijklmn"
    config = drawn(
        glyphs,
        legend={glyph: f"agent.{name}" for glyph, name in zip(glyphs, names, strict=True)},
        max_steps=1,
        num_agents=14,
        groups={name: {"id": index, "sprite": index % 3} for index, name in enumerate(names)},
    )
    nobody_acts = ScriptedPolicy(config.spec, [[("noop", 0)] * 14])
    browser.open(write_replay(record_episode(nobody_acts, config, 0), tmp_path, "groups").page)
    pictures = browser.run(SHAPES, "#groups th canvas")
    assert len(pictures) == len(set(pictures)) == 14
    assert browser.text("#agents").count("team_") == 14


def test_an_attack_shows_on_its_victim(browser: Chromium, tmp_path: Path) -> None:
    config = drawn("@..", ".@.", "@..", num_agents=3, max_steps=3)
    # the last agent faces up: two ahead and none aside is the first one; the near right is the one in the middle
    for argument, victim in ((5, (0, 0)), (3, (1, 1))):
        policy = ScriptedPolicy(config.spec, [[("noop", 0), ("noop", 0), ("attack", argument)]])
        replay = record_episode(policy, config, 0)
        assert replay.action_success[0, 2]
        assert replay.is_frozen[1].tolist() == [victim == (0, 0), victim == (1, 1), False]
        browser.open(write_replay(replay, tmp_path, f"attack {argument}").page)
        browser.press("Escape")
        struck = {
            (row, col)
            for row, cells in enumerate(cell_colors(browser, 3, 3))
            for col, colors in enumerate(cells)
            if colors.count(STRIKE) and any(color not in (FLOOR, STRIKE) for color in colors)
        }
        assert victim in struck
        assert ({(0, 0), (1, 1)} - {victim}).isdisjoint(struck)


def test_an_attack_beyond_the_edge_falls_on_the_attacker(browser: Chromium, tmp_path: Path) -> None:
    config = drawn("@", ".", max_steps=2)
    replay = record_episode(ScriptedPolicy(config.spec, [[("attack_nearest", 0)]]), config, 0)
    assert replay.is_frozen[1].all()
    browser.open(write_replay(replay, tmp_path, "edge").page)
    browser.press("v")
    (above,), _ = cell_colors(browser, 2, 1)
    assert STRIKE in above
    browser.press("End")
    (above,), _ = cell_colors(browser, 2, 1)
    assert STRIKE not in above


def test_clicks_select_what_is_there(browser: Chromium, lively_page: Path, lively: Replay) -> None:
    browser.open(lively_page)
    step = 40
    go_to(browser, step)
    rows, cols = lively.cells.shape
    for agent in (4, 1):
        row, col = lively.positions[step, agent].tolist()
        browser.click(*cell_center(browser, row, col, rows, cols))
        assert panels(browser)["agent"] == str(agent)
        assert panels(browser)["properties"]["position"] == f"row {row}, column {col}"
        assert browser.text("#pointed").startswith(f"row {row}, column {col} · Agent {agent}, ")
    row, col = np.argwhere(lively.cells == LIVELY.object_types["altar"].type_id)[0].tolist()
    browser.click(*cell_center(browser, row, col, rows, cols))
    properties = panels(browser)["properties"]
    assert (properties["name"], properties["recipe"]) == ("altar", "3 battery_red → 1 heart")
    empty = np.argwhere(lively.cells == 0)
    taken = {tuple(place) for place in lively.positions[step].tolist() + lively.block_positions[step].tolist()}
    row, col = next(place for place in empty.tolist() if tuple(place) not in taken)
    browser.click(*cell_center(browser, row, col, rows, cols))
    assert panels(browser)["properties"] == {}


def test_plays_to_the_end(browser: Chromium, lively_page: Path) -> None:
    browser.open(lively_page)
    browser.evaluate("document.querySelector('#speed').value = '60'")
    assert panels(browser)["play"] == "Play"
    browser.press(" ")
    assert panels(browser)["play"] == "Pause"
    browser.wait_for("document.querySelector('#time').textContent === '90 / 90'")
    browser.wait_for("document.querySelector('#play').textContent === 'Replay'")
    assert panels(browser)["properties"]["action"] == "none, the episode is over"
    browser.press(" ")
    browser.press(" ")
    assert panels(browser)["play"] == "Play"
    assert step_shown(browser) < 45, "playing again begins at the beginning"


def test_scrubs(browser: Chromium, lively_page: Path, lively: Replay) -> None:
    browser.open(lively_page, "#agent=3")
    left, top, width, height = box(browser, "#slider")
    for part in (0.7, 0.2):
        browser.click(left + part * width, top + height / 2)
        step = step_shown(browser)
        assert step == pytest.approx(90 * part, abs=4)
        row, col = lively.positions[step, 3]
        assert panels(browser)["properties"]["position"] == f"row {row}, column {col}"


def test_plays_at_the_speed_it_says(browser: Chromium, lively_page: Path) -> None:
    for speed in (10, 25):
        browser.open(lively_page)
        browser.evaluate(f"document.querySelector('#speed').value = '{speed}'")
        seconds = browser.evaluate(
            f"""new Promise(done => {{
              const began = performance.now(), shown = () => parseInt(document.querySelector("#time").textContent);
              const since = () => (performance.now() - began) / 1000;
              const look = () => shown() >= {2 * speed} ? done(since()) : setTimeout(look, 5);
              document.querySelector("#play").click();
              look();
            }})"""
        )
        # never ahead of its time; behind it by no more than a busy machine takes for a picture
        assert 1.9 < seconds < 4, f"{2 * speed} steps at {speed} a second took {seconds:.2f} s"


def test_a_click_on_the_curve_goes_to_that_step(browser: Chromium, lively_page: Path) -> None:
    browser.open(lively_page)
    left, top, width, height = box(browser, "#curve")
    axis = 48
    for part in (0.5, 0.9, 0.1):
        browser.click(left + axis + part * (width - axis), top + height / 2)
        assert step_shown(browser) == pytest.approx(90 * part, abs=1)
    browser.click(left + 5, top + height / 2)  # on its numbers: the beginning
    assert step_shown(browser) == 0


def pointed(browser: Chromium, x: float, y: float) -> tuple[int, int] | None:
    """[row, col] under a point of the map, as the page says it."""
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    found = re.match(r"row (\d+), column (\d+)", browser.text("#pointed"))
    return (int(found[1]), int(found[2])) if found else None


def test_the_map_zooms_fits_and_is_dragged(browser: Chromium, lively_page: Path, lively: Replay) -> None:
    browser.open(lively_page)
    rows, cols = lively.cells.shape
    left, top, width, height = box(browser, "#map")
    middle = (left + width / 2, top + height / 2)
    fitted = min(width / cols, height / rows)

    def cell_at(right: float, down: float, cell: float, moved: float = 0.0) -> tuple[int, int]:
        """Under a point so far from the middle of the map, with cells of that size, after a drag to the right."""
        return int(rows / 2 + down / cell), int(cols / 2 + (right - moved) / cell)

    at = (-2.6 * fitted, 1.3 * fitted)
    place = (middle[0] + at[0], middle[1] + at[1])
    assert pointed(browser, *place) == cell_at(*at, fitted)
    for key, cell in (("+", fitted * 1.4), ("-", fitted), ("=", fitted * 1.4), ("0", fitted)):
        browser.press(key)
        assert pointed(browser, *place) == cell_at(*at, cell), key
    browser.press("+")
    zoomed = fitted * 1.4
    for kind, x in (("mousePressed", 0.0), ("mouseMoved", zoomed), ("mouseReleased", zoomed)):
        button = "none" if kind == "mouseMoved" else "left"
        browser.call(
            "Input.dispatchMouseEvent", type=kind, x=middle[0] + x, y=middle[1], button=button, buttons=1, clickCount=1
        )
    browser.wait_until_drawn()
    assert pointed(browser, *place) == cell_at(*at, zoomed, moved=zoomed)
    assert panels(browser)["agent"] == "0", "a drag selects nothing"
    browser.click(*browser.run(CENTER, "#fit"))
    assert pointed(browser, *place) == cell_at(*at, fitted)
    browser.click(*browser.run(CENTER, "#zoom-in"))
    assert pointed(browser, *place) == cell_at(*at, zoomed)
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=middle[0], y=middle[1], deltaX=0, deltaY=160)
    browser.wait_until_drawn()
    assert pointed(browser, *place) == cell_at(*at, zoomed * math.exp(-0.4))


def test_the_follow_box_keeps_an_agent_in_the_middle(browser: Chromium, lively_page: Path, lively: Replay) -> None:
    browser.open(lively_page, "#agent=4")
    browser.click(*browser.run(CENTER, "#follow"))
    left, top, width, height = box(browser, "#map")
    for step in (10, 70):
        go_to(browser, step)
        assert pointed(browser, left + width / 2, top + height / 2) == tuple(lively.positions[step, 4].tolist())
    browser.press("Escape")
    browser.click(*browser.run(CENTER, "#follow"))  # off
    browser.click(*browser.run(CENTER, "#follow"))  # on, with nobody to follow: the first
    assert panels(browser)["agent"] == "0"
    browser.press("0")
    assert browser.evaluate("document.querySelector('#follow').checked") is False


def test_keys(browser: Chromium, lively_page: Path) -> None:
    browser.open(lively_page)

    for key, shift, wanted in (
        ("ArrowRight", False, 1),
        ("ArrowRight", True, 11),
        ("ArrowLeft", False, 10),
        ("ArrowLeft", True, 0),
        ("ArrowLeft", False, 0),
        ("End", False, 90),
        ("ArrowRight", False, 90),
        ("Home", False, 0),
    ):
        browser.press(key, shift=shift)
        assert step_shown(browser) == wanted, key
    for key, agent in (("n", "1"), ("p", "0"), ("p", "5"), ("n", "0"), ("Escape", ""), ("p", "5")):
        browser.press(key)
        assert panels(browser)["agent"] == agent, key
    speeds = [browser.evaluate("document.querySelector('#speed').value")]
    for key in ("ArrowUp", "ArrowDown"):
        browser.press(key)
        speeds.append(browser.evaluate("document.querySelector('#speed').value"))
    assert speeds == ["10", "25", "10"]


def test_follows_an_agent_and_shows_what_it_sees(browser: Chromium, lively_page: Path, lively: Replay) -> None:
    browser.open(lively_page, "#agent=2")
    row, col = lively.positions[0, 2].tolist()

    def brightness() -> list[list[int]]:
        colors = cell_colors(browser, *lively.cells.shape)
        return [[max(max(color) for color in cell) for cell in cells] for cells in colors]

    dimmed = brightness()
    browser.press("v")
    plain = brightness()
    height, width = LIVELY.game.observation_height, LIVELY.game.observation_width
    for r in range(lively.cells.shape[0]):
        for c in range(lively.cells.shape[1]):
            is_seen = abs(r - row) <= height // 2 and abs(c - col) <= width // 2
            assert (dimmed[r][c] == plain[r][c]) == is_seen, f"{r}, {c}"

    browser.press("f")
    for step in (0, 60, 90):
        go_to(browser, step)
        x, y, width, height = box(browser, "#map")
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2, y=y + height / 2)
        place = lively.positions[step, 2]
        assert browser.text("#pointed").startswith(f"row {place[0]}, column {place[1]} ·"), "not in the middle"


def test_a_long_crowded_episode_opens_at_once(browser: Chromium, large: Replay, large_files: ReplayPaths) -> None:
    browser.open(large_files.page)
    milliseconds = int(browser.evaluate("document.documentElement.dataset.openedIn"))
    assert milliseconds < 2000, f"opened in {milliseconds} ms"
    browser.press("End")
    totals = panels(browser)["groups"]["Reward"]
    for index, total in enumerate(totals):
        expected = large.total_rewards[-1, large.groups == index].sum(dtype=np.float64)
        assert total == number(expected, 2)


def test_a_damaged_page_says_so(browser: Chromium, lively_page: Path, tmp_path: Path) -> None:
    html = lively_page.read_text(encoding="utf-8")
    start = html.index(">", html.index('id="episode"')) + 1
    page = tmp_path / "damaged.html"
    page.write_text(html[: start + 2000] + "AAAA" * 50 + html[start + 2200 :], encoding="utf-8")
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait_for("document.querySelector('#title')?.textContent.startsWith('This replay cannot be shown: ')")
    assert browser.problems()
    browser.events.clear()


def test_names_are_text(browser: Chromium, tmp_path: Path) -> None:
    page = write_replay(hostile(), tmp_path, "hostile").page
    browser.open(page, "#step=29")
    mine, group, item, action = HOSTILE_NAMES
    legend, groups = browser.text("#legend"), browser.text("#groups")
    assert mine in legend
    assert item in legend
    assert group in groups
    assert "__proto__" in groups
    assert group in browser.text("#agents")
    panels = [browser.evaluate("document.querySelector('#properties').textContent")]
    for step in range(20):
        go_to(browser, step)
        panels.append(browser.text("#properties"))
    assert any(action in panel for panel in panels)
    assert browser.evaluate("document.querySelectorAll('img, svg, iframe, body script').length") == 1
    assert browser.evaluate("document.title") == "hostile · metta replay"


def test_a_strangers_script_would_not_run(browser: Chromium, lively_page: Path, tmp_path: Path) -> None:
    """The second line of defence: the browser runs the page's own script alone."""
    html = lively_page.read_text(encoding="utf-8")
    page = tmp_path / "changed.html"
    page.write_text(
        html.replace("<noscript>", "<script>document.title = 'hacked'</script><noscript>"), encoding="utf-8"
    )
    browser.open(page)
    assert browser.evaluate("document.title") == "lively · metta replay"
    refused = [problem for problem in browser.problems() if "Content Security Policy" in problem]
    assert refused
    browser.events.clear()


@pytest.mark.parametrize("width", [390, 320])
def test_fits_a_phone(browser: Chromium, lively_page: Path, width: int) -> None:
    browser.resize(width, 740, mobile=True)
    browser.open(lively_page, "#step=20&agent=1")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    seen = browser.evaluate(
        """[...document.querySelectorAll("button, select")].map(node => {
          const {left, right, height} = node.getBoundingClientRect();
          return [node.id, left, right, height];
        })"""
    )
    for name, left, right, height in seen:
        assert 0 <= left < right <= width, f"{name} is cut off"
        assert height >= 40, f"{name} is too small for a finger"
    assert box(browser, "#map")[3] >= 0.9 * width
    _, top, _, height = box(browser, "#playback")
    assert top + height <= 740, "map and controls are on the first screen together"
    left, top = browser.evaluate(
        "(({left, top}) => [left, top])(document.querySelector('#play').getBoundingClientRect())"
    )
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": left + 9, "y": top + 9}])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.wait_for("document.querySelector('#play').textContent === 'Pause'")


def test_works_without_a_name_for_everything(browser: Chromium, tmp_path: Path) -> None:
    """The smallest episode: one agent, one step, nothing held, nothing earned."""
    config = drawn("@", max_steps=1)
    page = write_replay(record_episode(RandomPolicy(config.spec), config, 0), tmp_path, "small").page
    browser.open(page)
    assert panels(browser)["time"] == "0 / 1"
    assert browser.text("#inventory") == "nothing"
    browser.press("End")
    assert panels(browser)["time"] == "1 / 1"
