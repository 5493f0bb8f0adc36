"""What stands where on a floor: objects and agents on random cells, near certain places, or so far from each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta.config.env.map_generators import RadialConfig, ScatterConfig
from metta.world.maps.connectivity import CellPreferences, Floor, connected_places, largest_component, walking_distances
from metta.world.maps.generators import Cell, Layout


@dataclass(frozen=True)
class Preferences:
    """Where things should rather be; None: anywhere."""

    objects: CellPreferences | None = None
    agents: NDArray[np.int64] | None = None
    """`[rows, cols]`: agents start where it is lowest; nowhere where it is below 0"""


def find_places(
    builder: ScatterConfig,
    layout: Layout,
    num_objects: int,
    kept_free: Sequence[int],
    connected: bool,
    generator: np.random.Generator,
) -> tuple[Floor, NDArray[np.int64]] | None:
    """The floor and the cells of objects, then of agents, numbered in reading order; None if there are not enough.

    Connected, the floor is the largest piece of the layout's, and no object stands on a cell of `kept_free`.
    """
    floor = layout.floor
    if (connected or builder.mean_distance) and not layout.is_whole:
        piece = largest_component(floor)
        floor = piece if connected else floor
        layout = Layout(piece, is_whole=True, hub=layout.hub, ends=layout.ends)
    preferences = _preferences(builder, layout, generator)
    if not connected and preferences.objects is None and preferences.agents is None:
        count = num_objects + builder.agents
        free = floor.ravel().nonzero()[0]
        return (floor, generator.choice(free, size=count, replace=False)) if count <= len(free) else None
    if connected:
        objects = connected_places(floor, num_objects, generator, kept_free, preferences.objects)
    else:
        objects = _wished_places(layout.floor, num_objects, preferences.objects, generator)
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


def _preferences(builder: ScatterConfig, layout: Layout, generator: np.random.Generator) -> Preferences:
    if builder.mean_distance:
        return _around_a_start(layout.floor, builder.mean_distance, generator)
    if isinstance(builder, RadialConfig):
        spots = {"anywhere": (), "hub": layout.hub, "ends": layout.ends}
        agents, objects = spots[builder.agents_at], spots[builder.objects_at]
        return Preferences(
            _nearest_first(layout.floor, objects, generator) if objects else None,
            _distances_to(layout.floor, agents) if agents else None,
        )
    return Preferences()


def _around_a_start(floor: Floor, mean_distance: float, generator: np.random.Generator) -> Preferences:
    """Agents around a random cell; each object a number of steps from there that a Poisson distribution gives."""
    cells = floor.ravel().nonzero()[0]
    if not len(cells):
        return Preferences(lambda _: (), None)
    start = int(cells[generator.integers(len(cells))])
    if len(cells) == floor.size:  # nothing is in the way
        distances = _distances_to(floor, [divmod(start, floor.shape[1])])
    else:
        distances = walking_distances(floor, start)
    far = distances.ravel()[cells]
    order = np.lexsort((generator.random(len(cells)), far))
    ordered, furthest = cells[order].tolist(), int(far.max())
    begins = far[order].searchsorted(np.arange(furthest + 2)).tolist()

    def wishes(number: int) -> Iterator[int]:
        wanted = min(max(1, int(generator.poisson(mean_distance))), furthest)
        for off in range(furthest + 1):
            for steps in {wanted - off, wanted + off}:
                if 0 <= steps <= furthest:
                    yield from ordered[begins[steps] : begins[steps + 1]]

    return Preferences(wishes, distances)


def _nearest_first(floor: Floor, spots: Sequence[Cell], generator: np.random.Generator) -> CellPreferences:
    cells = floor.ravel().nonzero()[0]
    distances = _distances_to(floor, spots).ravel()[cells]
    shared = iter(cells[np.lexsort((generator.random(len(cells)), distances))].tolist())
    return lambda _: shared


def _distances_to(floor: Floor, spots: Sequence[Cell]) -> NDArray[np.int64]:
    """`[rows, cols]`: rows and columns to the nearest of the spots."""
    rows, cols = (np.arange(side) for side in floor.shape)
    to_each = [np.abs(rows - row)[:, None] + np.abs(cols - col) for row, col in spots]
    nearest: NDArray[np.int64] = np.min(to_each, axis=0)
    return nearest


def _wished_places(
    floor: Floor, num_objects: int, wishes: CellPreferences | None, generator: np.random.Generator
) -> list[int] | None:
    """A free cell for each object, whatever it stands in the way of."""
    if wishes is None:
        free = floor.ravel().nonzero()[0]
        return generator.choice(free, size=num_objects, replace=False).tolist() if num_objects <= len(free) else None
    taken: dict[int, None] = {}
    for number in range(num_objects):
        cell = next((cell for cell in wishes(number) if cell not in taken), None)
        if cell is None:
            return None
        taken[cell] = None
    return list(taken)
