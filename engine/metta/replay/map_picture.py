"""Pictures of the map of a recorded episode at each step, drawn like the replay page (extra `video`)."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from metta.config.env.objects import ATTACK_TARGETS
from metta.geometry import COUNTERCLOCKWISE, STEPS
from metta.replay.map_sprites import SHAPES, THEME, Canvas, Point, SpritePainter, circle
from metta.replay.recording import Replay
from metta.world.rules.combat import NEAREST_ORDER


class MapPainter:
    """Draws the states of an episode, `cell` pixels per cell."""

    def __init__(self, replay: Replay, cell: int):
        self._replay, self._cell = replay, cell
        self._painter = SpritePainter(replay.config)
        self._types = {entry.type_id: entry for entry in replay.config.object_types.values()}
        # at low zoom, agents are drawn larger than their cells, so that they remain visible among the objects
        self._agent_size = max(cell, min(16, round(1.7 * cell)))
        items = replay.config.game.inventory_item_names
        self._converters = []
        self._blocks = []
        self._background = self._floor()
        for row, col in np.argwhere(replay.cells > 0).tolist():
            entry = self._types[int(replay.cells[row, col])]
            if entry.type != "wall":
                outputs = [items.index(item) for item in entry.output or {}]
                self._converters.append((row, col, entry, outputs))
            elif entry.swappable:
                self._blocks.append(entry)
            else:
                self._background.paste(self._painter.object(cell, entry), (col * cell, row * cell))
        self._action_types = [type_ for _, type_, _ in replay.config.action_table]

    def picture(self, step: int) -> Image.Image:
        """The state before a step, with the attacks of the step; after the last step for `step = replay.steps`."""
        replay, cell = self._replay, self._cell
        picture = self._background.copy()
        for index, (row, col, entry, outputs) in enumerate(self._converters):
            ready = int(replay.converter_inventories[step, index, outputs].sum())
            is_busy = bool(replay.converter_is_busy[step, index])
            is_faint = entry.is_faint(replay.converter_states[step, index].tolist())
            self._paste(picture, self._painter.object(cell, entry, is_busy, ready, is_faint), row, col)
        for entry, (row, col) in zip(self._blocks, replay.block_positions[step].tolist(), strict=True):
            self._paste(picture, self._painter.object(cell, entry), row, col)
        for agent, (row, col) in enumerate(replay.positions[step].tolist()):
            sprite = self._painter.agent(
                self._agent_size,
                int(replay.groups[agent]),
                int(replay.orientations[step, agent]),
                bool(replay.is_frozen[step, agent]),
                str(agent),
            )
            self._paste(picture, sprite, row, col)
        if step < replay.steps:
            for agent in range(len(replay.groups)):
                target = self._attack_target(step, agent)
                if target is not None:
                    self._paint_attack(picture, replay.positions[step, agent], replay.positions[step, target])
        return picture

    def _floor(self) -> Image.Image:
        rows, cols = self._replay.cells.shape
        width, height = cols * self._cell, rows * self._cell
        floor = Image.new("RGB", (width, height), THEME["floor"])
        if self._cell >= 12:
            draw = ImageDraw.Draw(floor)
            for row in range(1, rows):
                draw.line((0, row * self._cell, width, row * self._cell), THEME["grid"])
            for col in range(1, cols):
                draw.line((col * self._cell, 0, col * self._cell, height), THEME["grid"])
        return floor

    def _paste(self, picture: Image.Image, sprite: Image.Image, row: int, col: int) -> None:
        shift = (self._cell - sprite.width) // 2
        picture.paste(sprite, (col * self._cell + shift, row * self._cell + shift), sprite)

    def _attack_target(self, step: int, agent: int) -> int | None:
        """The agent hit by this agent's attack. Attacks precede all moves and rotations of the step."""
        replay = self._replay
        action_id, argument = replay.actions[step, agent].tolist()
        type_ = self._action_types[action_id]
        if not replay.action_success[step, agent] or type_ not in ("attack", "attack_nearest"):
            return None
        places = [ATTACK_TARGETS[argument - 1]] if type_ == "attack" else NEAREST_ORDER
        orientation = int(replay.orientations[step, agent])
        ahead, left = np.array(STEPS[orientation]), np.array(STEPS[COUNTERCLOCKWISE[orientation]])
        start = replay.positions[step, agent]
        for distance, side in places:
            # as in the simulator, negative coordinates are clamped to 0
            cell = np.maximum(0, start + ahead * distance + left * side)
            hit = np.flatnonzero((replay.positions[step] == cell).all(axis=1))
            if len(hit):
                return int(hit[0])
        return None

    def _paint_attack(self, picture: Image.Image, start: np.ndarray, end: np.ndarray) -> None:
        """Paint a zigzag line from attacker to target and a ring around the target."""
        cell, corner = self._cell, np.minimum(start, end) - 1
        rows, cols = (np.maximum(start, end) + 2 - corner).tolist()
        canvas = Canvas(cols * cell, rows * cell, cell)
        (from_y, from_x), (to_y, to_x) = (start - corner + 0.5).tolist(), (end - corner + 0.5).tolist()
        normal = (to_y - from_y) / 6, (from_x - to_x) / 6

        def point(fraction: float, side: int) -> Point:
            x, y = from_x + (to_x - from_x) * fraction, from_y + (to_y - from_y) * fraction
            return x + normal[0] * side, y + normal[1] * side

        line = [(from_x, from_y), point(0.4, 1), point(0.5, -1), (to_x, to_y)]
        for width, color in ((0.16, SHAPES["ink"]), (0.08, SHAPES["attack"])):
            if (from_x, from_y) != (to_x, to_y):
                canvas.stroke(line, color, max(1.5 / cell, width), is_closed=False)
            canvas.stroke(circle(to_x, to_y, 0.46), color, max(1.5 / cell, width))
        layer = canvas.picture()
        row, col = corner.tolist()
        picture.paste(layer, (col * cell, row * cell), layer)
