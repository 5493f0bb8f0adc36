"""PartRunner: calls the custom rules of worlds, checks what they return, and adds it to rewards, features and ends."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from metta.errors import Noted, UsageError
from metta.world.parts.compiled_parts import CompiledFeature, CompiledPart, CompiledReward
from metta.world.parts.distances import DistanceFields
from metta.world.parts.outcomes import NEXT_OUTCOME, OUTCOMES, RUNNING, TERMINATED, TRUNCATED
from metta.world.parts.part_call import PartCall
from metta.world.parts.view import WorldsView
from metta.world.state.worlds import Worlds

REWARD_TERMS: Final = "reward_terms"
"""Name of the part array with the sum of each reward over the episode. `[agents, terms] float32`"""


class PartRunner:
    """Calls the parts of `worlds`, which must have some: at the start of an episode, and after every step."""

    def __init__(self, worlds: Worlds):
        self._worlds = worlds
        self._parts = worlds.compiled.parts
        self._fields = DistanceFields()
        arrays = worlds.part_arrays
        if self._parts.rewards:
            arrays[REWARD_TERMS] = np.zeros((worlds.agents, len(self._parts.terms)), np.float32)
        if self._parts.terminations:
            arrays[OUTCOMES] = np.zeros(worlds.num_worlds, np.int8)
        for feature in self._parts.features:
            dtype, shape, _ = _result_of(feature, WorldsView(worlds))
            arrays[feature.array] = np.zeros(shape, dtype)

    def start(self, starting: NDArray[np.int64]) -> None:
        """Call all parts for worlds that start an episode. Only features and memories are kept.

        `starting` are the indices of the worlds, ascending.
        """
        call = _Call(self._worlds, starting, None, "at the start of an episode")
        for termination in self._parts.terminations:
            call.ends(termination.part)
        for reward in self._parts.rewards:
            call.reward(reward)
        self._write_features(call)

    def step(self) -> None:
        """Call all parts after a step."""
        worlds = self._worlds
        call = _Call(worlds, None, self._fields, f"in step {worlds.clock}")
        if self._parts.terminations:
            outcomes = worlds.part_arrays[OUTCOMES]
            outcomes[:] = NEXT_OUTCOME[outcomes]
            may_end = (outcomes == RUNNING) & (worlds.steps <= worlds.by_ruleset(worlds.compiled.rulesets.last_step))
            for termination in self._parts.terminations:
                chosen, is_over = call.ends(termination.part)
                ended = chosen[is_over & may_end[chosen] & (outcomes[chosen] != TERMINATED)]
                outcomes[ended] = np.where(termination.truncates[worlds.ruleset[ended]], TRUNCATED, TERMINATED)
        if self._parts.rewards:
            terms = worlds.part_arrays[REWARD_TERMS]
            for reward in self._parts.rewards:
                rows, values = call.reward(reward)
                worlds.reward[rows] += values
                terms[rows, reward.term] += values
        self._write_features(call)

    def _write_features(self, call: _Call) -> None:
        worlds = self._worlds
        for feature in self._parts.features:
            values = worlds.part_arrays[feature.array]
            chosen, rows, view = call.selection(feature.part)
            new = call.checked(feature.part, *_result_of(feature, view))
            if feature.at == "cells":
                values[chosen] = new
                continue
            if feature.at == "offset" and (new[:, 2] & 0xFF != new[:, 2]).any():
                wrong = new[new[:, 2] & 0xFF != new[:, 2], 2][0]
                raise UsageError(
                    f"{feature.part.title} must return values from 0 to 255, but returned {wrong} {call.when}"
                )
            if feature.at == "agents":
                worlds.items_changed[rows] |= values[rows] != new  # the token table is to be updated
            values[rows] = new


def _result_of(feature: CompiledFeature, view: WorldsView) -> tuple[DTypeLike, tuple[int, ...], str]:
    """Type, shape and names of the axes of what a feature returns."""
    if feature.at == "cells":
        return np.uint8, (view.num_worlds, *view.shape), "worlds, rows, cols"
    if feature.at == "offset":
        return np.int16, (view.agents, 3), "agents, (row, col, value)"
    return np.uint8, (view.agents,), "agents"


class _Call:
    """Calls of parts after one step, with the worlds that each part sees."""

    def __init__(self, worlds: Worlds, chosen: NDArray[np.int64] | None, fields: DistanceFields | None, when: str):
        self._worlds, self._chosen, self._fields, self.when = worlds, chosen, fields, when
        self._views: dict[bytes, WorldsView] = {}

    def selection(self, part: CompiledPart) -> tuple[Any, Any, WorldsView]:
        """The worlds for which a part is called, their rows of agents, and the view of them."""
        worlds, chosen = self._worlds, self._chosen
        if not part.rulesets.all():
            has_part = part.rulesets[worlds.ruleset]
            chosen = has_part.nonzero()[0] if chosen is None else chosen[has_part[chosen]]
        key = part.rulesets.tobytes()
        if key not in self._views:
            self._views[key] = WorldsView(worlds, chosen, self._fields if chosen is None else None)
        view = self._views[key]
        return (slice(None), slice(None), view) if chosen is None else (chosen, worlds.rows_of_worlds(chosen), view)

    def reward(self, reward: CompiledReward) -> tuple[Any, NDArray[np.float32]]:
        """Rows of agents, and the weighted values of a reward for them."""
        _, rows, view = self.selection(reward.part)
        values = self.checked(reward.part, np.float32, (view.agents,), "agents")
        with np.errstate(invalid="ignore", over="ignore"):
            weighted: NDArray[np.float32] = values * reward.weight[self._worlds.group_row[rows]]
        if not np.isfinite(weighted).all():
            index = int(np.flatnonzero(~np.isfinite(weighted))[0])
            world, agent = divmod(int(self._worlds.all_agents[rows][index]), view.num_agents)
            raise UsageError(
                f"{reward.part.title} must return finite numbers, but returned {values[index]} for agent {agent} of "
                f"world {world} {self.when}"
            )
        return rows, weighted

    def ends(self, part: CompiledPart) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The worlds for which a termination was called, and whether their episodes are over."""
        chosen, _, view = self.selection(part)
        indices = np.arange(self._worlds.num_worlds)[chosen]
        return indices, self.checked(part, np.bool_, (view.num_worlds,), "worlds")

    def checked(self, part: CompiledPart, dtype: DTypeLike, shape: tuple[int, ...], axes: str) -> NDArray[Any]:
        """What a part returns. Raises UsageError, with part and step, unless it has this dtype and shape."""
        _, _, view = self.selection(part)
        if not view.num_worlds:  # none of these worlds has the part
            return np.zeros(shape, dtype)
        view.begin(PartCall(part.key, part.title, part.stream))
        with Noted(f"{part.title} was called {self.when}"):
            result = part.function(view, **part.settings)
        view.end()
        if isinstance(result, np.ndarray) and result.dtype == dtype and result.shape == shape:
            return result
        found = f"{result.dtype} {list(result.shape)}" if isinstance(result, np.ndarray) else type(result).__name__
        expected = f"{np.dtype(dtype)} {list(shape)} ([{axes}])"
        raise UsageError(f"{part.title} must return {expected}, but returned {found} {self.when}")
