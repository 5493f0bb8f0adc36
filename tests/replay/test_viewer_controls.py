"""The replay viewer in a real browser: playback, selection, keys, zoom, and pages that are large, damaged or narrow."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium
from episodes import LIVELY
from viewer_page import box, cell_center, center, go_to, panels, step_shown

from metta.replay.recording import Replay
from metta.replay.replay_files import ReplayPaths

pytestmark = pytest.mark.usefixtures("no_problems")


def test_clicks_select_entities(browser: Chromium, lively_page: Path, lively: Replay) -> None:
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
    browser.wait_for("document.querySelector('#time').textContent === 'Step 90 of 90'")
    browser.wait_for("document.querySelector('#play').textContent === 'Again'")
    assert panels(browser)["properties"]["action"] == "none, the episode has ended"
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


def test_plays_at_the_chosen_speed(browser: Chromium, lively_page: Path) -> None:
    for speed in (10, 25):
        browser.open(lively_page)
        browser.evaluate(f"document.querySelector('#speed').value = '{speed}'")
        seconds = browser.evaluate(
            f"""new Promise(done => {{
              const began = performance.now();
              const shown = () => parseInt(document.querySelector("#time").textContent.slice("Step ".length));
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
    """(row, col) under a point of the map, according to the page."""
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
        """(row, col) at an offset from the middle of the map, for a cell size and after a drag to the right."""
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
    browser.click(*center(browser, "#fit"))
    assert pointed(browser, *place) == cell_at(*at, fitted)
    browser.click(*center(browser, "#zoom-in"))
    assert pointed(browser, *place) == cell_at(*at, zoomed)
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=middle[0], y=middle[1], deltaX=0, deltaY=160)
    browser.wait_until_drawn()
    assert pointed(browser, *place) == cell_at(*at, zoomed * math.exp(-0.4))


def test_the_follow_box_keeps_an_agent_in_the_middle(browser: Chromium, lively_page: Path, lively: Replay) -> None:
    browser.open(lively_page, "#agent=4")
    browser.click(*center(browser, "#follow"))
    left, top, width, height = box(browser, "#map")
    for step in (10, 70):
        go_to(browser, step)
        assert pointed(browser, left + width / 2, top + height / 2) == tuple(lively.positions[step, 4].tolist())
    browser.press("Escape")
    browser.click(*center(browser, "#follow"))  # off
    browser.click(*center(browser, "#follow"))  # on, with nobody to follow: the first
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


def test_a_large_episode_opens_within_two_seconds(browser: Chromium, large: Replay, large_files: ReplayPaths) -> None:
    browser.open(large_files.page)
    milliseconds = int(browser.evaluate("document.documentElement.dataset.openedIn"))
    assert milliseconds < 2000, f"opened in {milliseconds} ms"
    browser.press("End")
    totals = panels(browser)["groups"]["Total reward"]
    for index, total in enumerate(totals):
        expected = large.total_rewards[-1, large.groups == index].sum(dtype=np.float64)
        assert float(total) == pytest.approx(expected, abs=0.0051)


def test_a_damaged_page_shows_an_error(browser: Chromium, lively_page: Path, tmp_path: Path) -> None:
    html = lively_page.read_text(encoding="utf-8")
    start = html.index(">", html.index('id="episode"')) + 1
    page = tmp_path / "damaged.html"
    page.write_text(html[: start + 2000] + "AAAA" * 50 + html[start + 2200 :], encoding="utf-8")
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait_for("document.querySelector('#title')?.textContent.startsWith('This replay cannot be shown: ')")
    assert browser.problems()
    browser.events.clear()


def test_an_injected_script_is_blocked(browser: Chromium, lively_page: Path, tmp_path: Path) -> None:
    """The content security policy allows the page's own script only."""
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
    rows, cols = LIVELY.game.height, LIVELY.game.width
    assert box(browser, "#map")[3] >= 0.9 * width * rows / cols
    _, top, _, height = box(browser, "#playback")
    assert top + height <= 740, "map and controls are on the first screen together"
    left, top = browser.evaluate(
        "(({left, top}) => [left, top])(document.querySelector('#play').getBoundingClientRect())"
    )
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": left + 9, "y": top + 9}])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.wait_for("document.querySelector('#play').textContent === 'Pause'")
