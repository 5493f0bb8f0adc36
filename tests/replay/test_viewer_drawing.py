"""The replay viewer in a real browser: panels and map show the states of the simulator."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium
from episodes import HOSTILE_NAMES, LIVELY, ScriptedPolicy, drawn, hostile, simulated
from viewer_page import box, cell_colors, go_to, panels

from metta.agent.team import Team
from metta.baselines.random_policy import RandomPolicy
from metta.config.env.env_config import EnvConfig
from metta.config.env.labels import action_words, cell_glyphs
from metta.config.env.objects import CATALOG
from metta.replay.recording import Replay, record_episode
from metta.replay.replay_files import replay_title, write_replay
from metta.world.env import MettaGridEnv

pytestmark = pytest.mark.usefixtures("no_problems")

NONE = "\u2013"
ORIENTATIONS = ("up ↑", "down ↓", "left ←", "right →")
FLOOR, SEEN_FLOOR = [248, 246, 241], [255, 243, 194]
"""The floor in light colors, outside and inside what the selected agent sees."""
STRIKE = [255, 77, 61]
POINTER = [23, 28, 34]

COLOR_AT = """(col, x, y) => {
  const canvas = document.querySelector("#map"), cell = canvas.width / 3, top = (canvas.height - cell) / 2;
  return [...canvas.getContext("2d").getImageData((col + x) * cell, top + y * cell, 1, 1).data].slice(0, 3);
}"""
"""The color at a point of a cell of a map with one row and three columns."""

SHAPES = """selector => [...document.querySelectorAll(selector)].map(canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = i => data[i + 3] < 128 ? "." : Math.max(...data.slice(i, i + 3)) < 60 ? "dark" : "light";
  return Array.from({length: data.length / 4}, (_, i) => seen(4 * i)).join();
})"""
"""The shapes of icons, without their colors."""

EDGES = ((0.5, 0.1), (0.5, 0.9), (0.1, 0.5), (0.9, 0.5))
"""(x, y) at the top, bottom, left and right of a cell."""


def number(value: float, digits: int) -> str:
    """A number in the format of the page."""
    rounded = round(float(value), digits)
    return str(int(rounded)) if rounded == int(rounded) else f"{rounded:.{digits}f}".rstrip("0")


def expected_properties(replay: Replay, env: MettaGridEnv, step: int, agent: int) -> dict[str, str]:
    row, col = env.positions[agent]
    total = np.float32(0) if step == 0 else replay.total_rewards[step - 1, agent]
    properties = {
        "position": f"row {row}, column {col}",
        "facing": ORIENTATIONS[env.orientations[agent]],
        "color": str(env.colors[agent]),
        "total-reward": number(total, 4),
        "action": "none, the episode has ended",
        "result": NONE,
        "reward": NONE,
    }
    if env.freeze_counters[agent]:
        properties["state"] = "frozen"
    if step < replay.steps:
        action, argument = replay.actions[step, agent]
        properties |= {
            "action": action_words(replay.config)[action][argument],
            "result": "✓ succeeded" if replay.action_success[step, agent] else "✗ failed",
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
            assert groups["Total reward"][index] == number(totals[members].sum(dtype=np.float64), 2)
            for item in np.flatnonzero(lively.inventories.any(axis=(0, 1))).tolist():
                assert groups[items[item]][index] == str(env.inventories[members, item].sum())


def test_the_map_shows_entities_where_the_simulator_has_them(
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


def test_orientations_look_different(browser: Chromium, tmp_path: Path) -> None:
    config = drawn("@@a", legend={"a": "agent.blue"}, max_steps=2, groups={"red": {"id": 0}, "blue": {"id": 1}})
    policy = ScriptedPolicy(config.spec, [[("rotate", 1), ("rotate", 3), ("noop", 0)]])
    page = write_replay(record_episode(policy, config, 0), tmp_path, "facing").page
    browser.open(page, "#step=1")
    browser.press("Escape")
    down, right, _ = ([browser.run(COLOR_AT, col, *at) for at in EDGES] for col in range(3))
    assert [color == POINTER for color in down] == [False, True, False, False]
    assert [color == POINTER for color in right] == [False, False, False, True]


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


def test_the_page_names_the_policy_of_each_agent_of_a_team(browser: Chromium, tmp_path: Path) -> None:
    groups = {"red": {"id": 0}, "blue": {"id": 1}}
    config = drawn("AB", legend={"A": "agent.red", "B": "agent.blue"}, max_steps=1, num_agents=2, groups=groups)
    policies = {name: ScriptedPolicy(config.spec, [[("noop", 0)]]) for name in ("miners", "guards")}
    team = Team(policies, {"miners": ["red"], "guards": ["blue"]})
    browser.open(write_replay(record_episode(team, config, 0), tmp_path, "team").page)
    assert panels(browser)["properties"]["policy"] == "miners"
    assert panels(browser)["groups"]["Policy"] == ["miners", "guards"]
    alone = ScriptedPolicy(config.spec, [[("noop", 0)] * 2])
    browser.open(write_replay(record_episode(alone, config, 0), tmp_path, "alone").page)
    assert "policy" not in panels(browser)["properties"]
    assert "Policy" not in panels(browser)["groups"]


def test_an_attack_is_drawn_on_its_target(browser: Chromium, tmp_path: Path) -> None:
    config = drawn("@..", ".@.", "@..", num_agents=3, max_steps=3)
    # the last agent faces up: two ahead and none aside is the first one; the near right is the one in the middle
    for argument, target in ((5, (0, 0)), (3, (1, 1))):
        policy = ScriptedPolicy(config.spec, [[("noop", 0), ("noop", 0), ("attack", argument)]])
        replay = record_episode(policy, config, 0)
        assert replay.action_success[0, 2]
        assert replay.is_frozen[1].tolist() == [target == (0, 0), target == (1, 1), False]
        browser.open(write_replay(replay, tmp_path, f"attack {argument}").page)
        browser.press("Escape")
        struck = {
            (row, col)
            for row, cells in enumerate(cell_colors(browser, 3, 3))
            for col, colors in enumerate(cells)
            if colors.count(STRIKE) and any(color not in (FLOOR, STRIKE) for color in colors)
        }
        assert target in struck
        assert ({(0, 0), (1, 1)} - {target}).isdisjoint(struck)


def test_an_attack_beyond_the_edge_hits_the_attacker(browser: Chromium, tmp_path: Path) -> None:
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


def test_shows_the_observation_window_and_follows_an_agent(
    browser: Chromium, lively_page: Path, lively: Replay
) -> None:
    browser.open(lively_page, "#agent=2")
    row, col = lively.positions[0, 2].tolist()

    shown = cell_colors(browser, *lively.cells.shape)
    browser.press("v")
    plain = cell_colors(browser, *lively.cells.shape)
    height, width = LIVELY.game.observation_height, LIVELY.game.observation_width
    for r in range(lively.cells.shape[0]):
        for c in range(lively.cells.shape[1]):
            if abs(r - row) <= height // 2 and abs(c - col) <= width // 2:
                assert (SEEN_FLOOR in shown[r][c]) == (FLOOR in plain[r][c])
                assert FLOOR not in shown[r][c]
                assert max(map(max, shown[r][c])) == max(map(max, plain[r][c])) or SEEN_FLOOR in shown[r][c]
            else:
                assert shown[r][c] == plain[r][c], f"a cell that it does not see has changed: {r}, {c}"

    browser.press("f")
    for step in (0, 60, 90):
        go_to(browser, step)
        x, y, width, height = box(browser, "#map")
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2, y=y + height / 2)
        place = lively.positions[step, 2]
        assert browser.text("#pointed").startswith(f"row {place[0]}, column {place[1]} ·"), "not in the middle"


def test_every_type_of_the_catalog_has_a_shape(browser: Chromium, tmp_path: Path) -> None:
    """Shapes alone, without colors and letters, tell the types apart; a type without an icon has its letter."""
    custom = [
        {"type": "mine", "name": "well", "output": {"heart": 1}},
        {"type": "mine", "name": "spring", "output": {"heart": 1}},
        {"type": "converter", "name": "mill", "input": {"heart": 1}, "output": {"armor": 1}},
    ]
    names = [*CATALOG, *(entry["name"] for entry in custom)]
    glyphs = "".join(chr(ord("a") + index) for index in range(len(names)))
    config = EnvConfig.model_validate(
        {
            "game": {"num_agents": 1, "observation_width": 3, "observation_height": 3},
            "objects": custom,
            "map_builder": {
                "type": "Ascii",
                "map": f"{glyphs}@",
                "legend": dict(zip(glyphs, names, strict=True)),
            },
        }
    )
    episode = record_episode(RandomPolicy(config.spec), config, 0, max_steps=1)
    browser.open(write_replay(episode, tmp_path, "types").page)
    pictures = browser.run(SHAPES, "#legend canvas")[1 : len(names) + 1]
    assert len(pictures) == len(names)
    for (name, picture), (other, of_other) in combinations(zip(names, pictures, strict=True), 2):
        differing = sum(a != b for a, b in zip(picture.split(","), of_other.split(","), strict=True))
        assert differing > 30, (
            f"{name} and {other} have the same shape"
        )  # colors alone change up to ten pixels of an edge
    texts = browser.run("() => [...document.querySelectorAll('#legend li')].map(li => li.textContent)")
    characters = cell_glyphs(config)
    for name, text in zip(names, texts[1:], strict=False):
        assert text.startswith(f"{name} \u00d7 1")
        assert text.endswith(characters[name]), "the character of the terminal"
    assert texts[0].endswith("@")


def test_the_legend_comes_before_the_groups(browser: Chromium, lively_page: Path) -> None:
    browser.open(lively_page)
    for width in (1300, 390):
        browser.resize(width, 900, mobile=width < 400)
        assert box(browser, "#legend")[1] < box(browser, "#groups")[1]


CONTRASTS = """() => {
  const probe = document.createElement("canvas").getContext("2d");
  const luminance = name => {
    probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const parts = [1, 3, 5].map(at => parseInt(probe.fillStyle.slice(at, at + 2), 16) / 255);
    const [red, green, blue] = parts.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const pairs = [["--text", "--panel"], ["--text", "--background"], ["--muted", "--panel"], ["--text", "--button"],
                 ["--on-accent", "--accent"], ["--ink", "--floor"], ["--ink", "--seen"]];
  return pairs.map(([one, other]) => [`${one} on ${other}`, contrast(one, other)]);
}"""
"""The contrast of texts and signs with what is behind them, by the formula of WCAG 2."""


def test_light_and_dark(browser: Chromium, lively_page: Path, lively: Replay) -> None:
    browser.open(lively_page)
    floors = []
    for scheme in ("dark", "light"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.wait_until_drawn()
        for pair, contrast in browser.run(CONTRASTS):
            assert contrast >= 4.5, f"{scheme}: {pair}"
        colors = cell_colors(browser, *lively.cells.shape)
        floors.append(next(colors[r][c][0] for r, c in np.argwhere(lively.cells == 0).tolist()))
        assert len(browser.run(SHAPES, "#groups th canvas")) == 2
    assert sum(floors[0]) < 200 < 600 < sum(floors[1])


def test_the_page_is_named(browser: Chromium, lively: Replay, tmp_path: Path) -> None:
    title = replay_title("quickstart-20260101-120000", "epoch 100", "arena <small>")
    browser.open(write_replay(lively, tmp_path, "file", title).page)
    assert title == "quickstart-20260101-120000 · epoch 100 · world arena <small>"
    assert browser.text("h1") == title
    assert browser.evaluate("document.title") == f"{title} · metta replay"


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
    assert browser.evaluate("document.querySelectorAll('img, :not(button) > svg, iframe, body script').length") == 1
    assert browser.evaluate("document.title") == "hostile · metta replay"


def test_the_smallest_episode(browser: Chromium, tmp_path: Path) -> None:
    """One agent, one step, no items, no rewards."""
    config = drawn("@", max_steps=1)
    page = write_replay(record_episode(RandomPolicy(config.spec), config, 0), tmp_path, "small").page
    browser.open(page)
    assert panels(browser)["time"] == "Step 0 of 1"
    assert browser.text("#inventory") == "nothing"
    browser.press("End")
    assert panels(browser)["time"] == "Step 1 of 1"
