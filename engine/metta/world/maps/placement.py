"""Placement of objects and agents on a floor: uniformly at random, near given cells, or at given distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta.config.env.map_generators import RadialConfig, ScatterConfig
from metta.world.maps.connectivity import CellPreferences, Floor, largest_component, place_connected, walking_distances
from metta.world.maps.generators import Cell, Layout


@dataclass(frozen=True)
class PlacementPreferences:
    """Preferred cells of objects and of agents; None: uniformly at random."""

    objects: CellPreferences | None = None
    agents: NDArray[np.int64] | None = None
    """`[rows, cols]`: agents are placed on the free cells with the lowest values"""


def place_entities(
    builder: ScatterConfig,
    layout: Layout,
    num_objects: int,
    kept_free: Sequence[int],
    connected: bool,
    generator: np.random.Generator,
) -> tuple[Floor, NDArray[np.int64]] | None:
    """Choose cells for objects and agents. Returns None if there are not enough cells.

    Returns (floor, cells): row-major indices of the cells of objects, followed by those of agents. If `connected`, the
    floor is the largest component of the layout, it stays connected without the cells of objects, and no object is
    placed on a cell of `kept_free`.
    """
    floor = layout.floor
    if (connected or builder.mean_distance) and not layout.is_connected:
        component = largest_component(floor)
        floor = component if connected else floor
        layout = Layout(component, is_connected=True, hub=layout.hub, ends=layout.ends)
    preferences = _preferences(builder, layout, generator)
    if not connected and preferences.objects is None and preferences.agents is None:
        count = num_objects + builder.agents
        free = floor.ravel().nonzero()[0]
        return (floor, generator.choice(free, size=count, replace=False)) if count <= len(free) else None
    if connected:
        objects = place_connected(floor, num_objects, generator, kept_free, preferences.objects)
    else:
        objects = _preferred_cells(layout.floor, num_objects, preferences.objects, generator)
    if objects is None:
        return None
    is_free = layout.floor.copy()
    is_free.ravel()[objects] = False
    free = is_free.ravel().nonzero()[0]
    if preferences.agents is not None:
        ranks = preferences.agents.ravel()[free]
        free = free[np.lexsort((generator.random(len(free)), ranks))][: builder.agents]
    if builder.agents > len(free):
        return None
    agents = generator.choice(free, size=builder.agents, replace=False)
    return floor, np.concatenate([np.array(objects, np.int64), agents])


def _preferences(builder: ScatterConfig, layout: Layout, generator: np.random.Generator) -> PlacementPreferences:
    if builder.mean_distance:
        return _near_random_start(layout.floor, builder.mean_distance, generator)
    if isinstance(builder, RadialConfig):
        targets = {"anywhere": (), "hub": layout.hub, "ends": layout.ends}
        agents, objects = targets[builder.agents_at], targets[builder.objects_at]
        return PlacementPreferences(
            _nearest_first(layout.floor, objects, generator) if objects else None,
            _distances_to(layout.floor, agents) if agents else None,
        )
    return PlacementPreferences()


def _near_random_start(floor: Floor, mean_distance: float, generator: np.random.Generator) -> PlacementPreferences:
    """Agents close to a random start cell, and objects at Poisson-distributed walking distances from it."""
    cells = floor.ravel().nonzero()[0]
    if not len(cells):
        return PlacementPreferences(lambda _: (), None)
    start = int(cells[generator.integers(len(cells))])
    if len(cells) == floor.size:  # no walls
        distances = _distances_to(floor, [divmod(start, floor.shape[1])])
    else:
        distances = walking_distances(floor, start)
    steps = distances.ravel()[cells]
    order = np.lexsort((generator.random(len(cells)), steps))
    ordered, furthest = cells[order].tolist(), int(np.max(steps))
    starts = steps[order].searchsorted(np.arange(furthest + 2)).tolist()  # first position in `ordered`, by distance

    def preferences(number: int) -> Iterator[int]:
        wanted = min(max(1, int(generator.poisson(mean_distance))), furthest)
        for deviation in range(furthest + 1):
            for distance in {wanted - deviation, wanted + deviation}:
                if 0 <= distance <= furthest:
                    yield from ordered[starts[distance] : starts[distance + 1]]

    return PlacementPreferences(preferences, distances)


def _nearest_first(floor: Floor, targets: Sequence[Cell], generator: np.random.Generator) -> CellPreferences:
    """Cells by their L1 distance to the nearest target, ties in random order. Objects share one iterator of cells."""
    cells = floor.ravel().nonzero()[0]
    distances = _distances_to(floor, targets).ravel()[cells]
    shared = iter(cells[np.lexsort((generator.random(len(cells)), distances))].tolist())
    return lambda _: shared


def _distances_to(floor: Floor, targets: Sequence[Cell]) -> NDArray[np.int64]:
    """L1 distance of every cell to the nearest target. `[rows, cols] int64`"""
    rows, cols = (np.arange(side) for side in floor.shape)
    to_each = [np.abs(rows - row)[:, None] + np.abs(cols - col) for row, col in targets]
    nearest: NDArray[np.int64] = np.min(to_each, axis=0)
    return nearest


def _preferred_cells(
    floor: Floor, num_objects: int, preferences: CellPreferences | None, generator: np.random.Generator
) -> list[int] | None:
    """A free cell for each object, without checking connectivity; None if there are not enough."""
    if preferences is None:
        free = floor.ravel().nonzero()[0]
        return generator.choice(free, size=num_objects, replace=False).tolist() if num_objects <= len(free) else None
    taken: dict[int, None] = {}
    for number in range(num_objects):
        cell = next((cell for cell in preferences(number) if cell not in taken), None)
        if cell is None:
            return None
        taken[cell] = None
    return list(taken)
