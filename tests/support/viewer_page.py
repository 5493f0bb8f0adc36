"""The replay viewer as a person sees it in the browser: the texts of its panels and the colors of its map."""

from __future__ import annotations

from typing import Any

from chromium import Chromium

PANELS = """() => {
  const texts = nodes => [...nodes].map(node => node.textContent);
  const all = selector => [...document.querySelectorAll(selector)];
  return {
    properties: Object.fromEntries(all("#properties dd").map(dd => [dd.id.replace("property-", ""), dd.textContent])),
    inventory: all("#inventory li").map(li => texts(li.childNodes).filter(Boolean)),
    groups: Object.fromEntries(all("#groups tbody tr").map(row => [texts(row.cells)[0], texts(row.cells).slice(1)])),
    time: document.querySelector("#time").textContent,
    play: document.querySelector("#play").textContent,
    agent: document.querySelector("#agents").value,
  };
}"""

CELL_COLORS = """(rows, cols) => {
  const canvas = document.querySelector("#map"), {width, height} = canvas;
  const cell = Math.min(width / cols, height / rows);
  const left = (width - cols * cell) / 2, top = (height - rows * cell) / 2;
  const picture = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const at = (x, y) => {
    const start = 4 * (Math.floor(top + y * cell) * width + Math.floor(left + x * cell));
    return [...picture.slice(start, start + 3)].join();
  };
  const points = Array.from({length: 12}, (_, i) => (i + 1) / 13);
  const colors = (row, col) => new Set(points.flatMap(y => points.map(x => at(col + x, row + y))));
  const numbers = color => color.split(",").map(Number);
  return Array.from({length: rows}, (_, row) => Array.from({length: cols}, (_, col) =>
    [...colors(row, col)].map(numbers)));
}"""

BOX = """selector => {
  const {left, top, width, height} = document.querySelector(selector).getBoundingClientRect();
  return [left, top, width, height];
}"""


def panels(browser: Chromium) -> dict[str, Any]:
    """The texts of the panels: properties by id, inventory, groups by row, step, play button, selected agent."""
    return dict(browser.run(PANELS))


def step_shown(browser: Chromium) -> int:
    """The step shown, according to the page."""
    return int(panels(browser)["time"].split(" ")[1])


def go_to(browser: Chromium, step: int) -> None:
    """Show a step and wait until it is drawn."""
    browser.evaluate(f"location.hash = '#step={step}'")
    browser.wait_until_drawn()
    assert step_shown(browser) == step


def box(browser: Chromium, selector: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of an element on the page."""
    left, top, width, height = browser.run(BOX, selector)
    return left, top, width, height


def center(browser: Chromium, selector: str) -> tuple[float, float]:
    """(x, y) of the center of an element on the page."""
    left, top, width, height = box(browser, selector)
    return left + width / 2, top + height / 2


def cell_center(browser: Chromium, row: int, col: int, rows: int, cols: int) -> tuple[float, float]:
    """(x, y) on the page of the center of a cell of the fitted map."""
    left, top, width, height = box(browser, "#map")
    cell = min(width / cols, height / rows)
    return (
        left + (width - cols * cell) / 2 + (col + 0.5) * cell,
        top + (height - rows * cell) / 2 + (row + 0.5) * cell,
    )


def cell_colors(browser: Chromium, rows: int, cols: int) -> list[list[list[list[int]]]]:
    """`[rows][cols]`: the colors in each cell of the fitted map, sampled at 12 x 12 points."""
    return list(browser.run(CELL_COLORS, rows, cols))
