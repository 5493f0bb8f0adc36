"""Observations of the reference simulator: section 9 of SEMANTICS as loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reference_entities import IDLE, Agent, Converter, Entity, float32

from metta.config.env.game import GameConfig

GROUP, FROZEN, ORIENTATION, COLOR, BUSY, SWAPPABLE = 1, 3, 4, 5, 6, 7
FIRST_ITEM_FEATURE = 12

Cell = tuple[int, int]


class ObservationEncoder:
    """Encodes the window around an agent as tokens."""

    def __init__(self, game: GameConfig):
        self.game = game
        rows, cols = game.observation_height // 2, game.observation_width // 2
        self.center = rows << 4 | cols
        window = [(row, col) for row in range(-rows, rows + 1) for col in range(-cols, cols + 1)]
        # by distance, then from top to bottom, then the right cell before the left one
        window.sort(key=lambda offset: (abs(offset[0]) + abs(offset[1]), offset[0], -offset[1]))
        self.window = [(row, col, (row + rows) << 4 | (col + cols)) for row, col in window]

    def tokens(
        self,
        observer: Agent,
        last_action: tuple[int, int],
        now: int,
        own: Sequence[tuple[Cell, int, int]],
        features: Mapping[Cell, list[tuple[int, int]]],
    ) -> list[list[int]]:
        """All tokens (location, feature, value) of `observer`, without a limit on their number.

        `own` has (offset, feature, value) of the tokens that it alone observes, `features` (feature, value) by cell.
        """
        global_values = self._global_values(observer, last_action, now)
        tokens = [[self.center, feature, value] for feature, value in enumerate(global_values, 8)]
        tokens += [[self._location(offset), feature, value] for offset, feature, value in own]
        for row, col, location in self.window:
            found = features.get((observer.row + row, observer.col + col), ())
            tokens += [[location, feature, value] for feature, value in found]
        return tokens

    def _location(self, offset: Cell) -> int:
        """The location of the cell of the window that is closest to an offset from the observer."""
        rows, cols = self.center >> 4, self.center & 15
        row, col = (min(max(way, -half), half) for way, half in zip(offset, (rows, cols), strict=True))
        return (row + rows) << 4 | (col + cols)

    def _global_values(self, agent: Agent, last_action: tuple[int, int], now: int) -> tuple[int, int, int, int]:
        completion = rounded(now / self.game.max_steps * 255) & 255 if self.game.max_steps else 0
        action, argument = last_action
        last_reward = rounded(min(255.0, max(0.0, float(float32(float32(100) * agent.reward)))))
        return completion, action & 255, argument & 255, last_reward


def features_of(entity: Entity) -> list[tuple[int, int]]:
    """(feature, value) of each token of an entity."""
    if isinstance(entity, Agent):
        return [
            (0, 0),
            (GROUP, entity.rules.id),
            (FROZEN, int(entity.frozen != 0)),
            (ORIENTATION, entity.orientation),
            (COLOR, entity.color),
            *((FIRST_ITEM_FEATURE + item, amount) for item, amount in sorted(entity.inventory.items())),
        ]
    if isinstance(entity, Converter):
        held = [(FIRST_ITEM_FEATURE + item, amount) for item, amount in sorted(entity.inventory.items()) if amount]
        return [(0, entity.kind.type_id or 0), (COLOR, entity.kind.color), (BUSY, int(entity.phase != IDLE)), *held]
    swappable = [(SWAPPABLE, 1)] if entity.kind.swappable else []
    return [(0, entity.kind.type_id or 0), *swappable]


def rounded(value: float) -> int:
    """A number of at least 0, rounded to the nearest integer, halves up."""
    return int(value) + (value - int(value) >= 0.5)
