"""A policy that needs no training: walk to the nearest useful object, put in what it takes, take out what it gives."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metta.agent.policy import PolicyOutput
from metta.agent.recurrent_memory import Memory
from metta.baselines.recipe_values import FILL, RecipeValues
from metta.baselines.spatial_memory import (
    COL_STEPS,
    ROW_STEPS,
    SIDE,
    Integers,
    Mask,
    ObservationParser,
    ParsedObservation,
    SpatialMemory,
    Words,
    cell_bits,
    in_window,
    rotated,
    row_words,
    single_cells,
)
from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError

PER_STEP: Final = 0.9
"""A gain d steps away is worth PER_STEP ** d of itself."""

CURIOSITY: Final = 0.01
"""What an unknown cell is worth, of the largest gain there is."""

PATIENCE: Final = 20
"""Conversions after which a converter that had nothing to work on is worth another look."""

SATED: Final = 0.5
"""What more of an ingredient is worth to an agent that has enough of it for one conversion."""

HOPE: Final = 0.5
"""What an unknown cell is worth, of what is to be gained at a converter that may be there."""

KNOWN: Final = 2
"""The power to which that hope is taken where such a converter is known already."""

LOST: Final = 4
"""Cells that the map shows otherwise at which an agent draws a new one."""

NEVER: Final = 1_000
"""Steps that no flood takes."""


class ScriptedPolicy:
    """Greedy and without weights: knows the recipes of the config, sees what every policy sees, remembers a map.

    Each gain to be had (taking an output, putting in all that a recipe asks for, seeing an unknown cell) sends out a
    flood over the free cells of the agent's own map, later the less it is worth; the agent walks towards where the
    first flood comes from. Other agents stand in the way like objects, as long as they are seen.
    """

    def __init__(self, env_config: EnvConfig):
        self.spec = env_config.spec
        self.economy = RecipeValues.of(env_config)
        self._eyes = ObservationParser(self.spec, self.economy)
        self._actions = _Actions(env_config, self.economy)
        self._needed = self.economy.inputs.max(axis=0, initial=0)
        self._delay_of_surplus = round(math.log(SATED) / math.log(PER_STEP))
        self._delay_of_hope = round(math.log(HOPE) / math.log(PER_STEP))
        # a mine works by itself; to others somebody must have brought something
        self._visits = np.where(self.economy.inputs.any(axis=1), PATIENCE, 1)
        self._delays_of_get, self._delays_of_put, self._delay_of_unknown = _delays(self.economy)

    def initial_memory(self, agents: int) -> SpatialMemory:
        """Empty maps."""
        return SpatialMemory.empty(agents, len(self.economy.names))

    def act(
        self,
        observations: Tensor,
        memory: Memory,
        episode_starts: Tensor | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> PolicyOutput:
        """One step; among ways equally good a random one, also when `deterministic`, so that agents get past others."""
        if not isinstance(memory, SpatialMemory):
            raise UsageError("the scripted policy goes on from its own memory: initial_memory(agents) makes it")
        agents = len(observations)
        taste = torch.rand(agents, 5, generator=generator).numpy()
        sight = self._eyes.read(observations.cpu().numpy())
        if episode_starts is not None and bool(episode_starts.any()):
            memory = _cleared(memory, episode_starts.cpu().numpy(), self.initial_memory(1))
        chart = self._drawn(memory, sight)
        chosen = torch.from_numpy(self._decide(chart, sight, taste))
        actions = self._actions.pairs[chosen]
        return PolicyOutput(actions, chosen, torch.zeros(agents), torch.zeros(agents), chart)

    def _drawn(self, chart: SpatialMemory, sight: ParsedObservation) -> SpatialMemory:
        """The map after what is seen now: where the agent stands on it, and what is around."""
        stepped = np.where(
            (sight.last_action == self._actions.move) & (chart.age > 0), sight.orientation ^ sight.last_argument, -1
        )
        moved, bumped, is_lost = _moved(chart, sight, stepped)
        row_step, col_step = ROW_STEPS[stepped], COL_STEPS[stepped]
        edge = chart.edge | single_cells(chart.row + row_step, chart.col + col_step) * bumped[:, None]
        row, col = chart.row + moved * row_step, chart.col + moved * col_step
        did_put = np.isin(sight.last_action, self._actions.puts) & (chart.age > 0)
        everyone = np.arange(len(row))
        seen = chart.seen & ~rotated(np.array([1], np.uint64), col + SIDE // 2)[:, None]
        seen[everyone, (row + SIDE // 2) & (SIDE - 1)] = 0
        seen[is_lost] = 0
        height, width = self._eyes.shape
        first_col = col - width // 2
        rows = (row[:, None] - height // 2 + np.arange(height)) & (SIDE - 1)
        fresh = row_words(sight.visible, first_col)

        def drawn(words: Words, window: Mask) -> Words:
            words = words.copy()
            here = (everyone[:, None], rows)
            words[here] = (words[here] & ~fresh) | (row_words(window, first_col) & fresh)
            return words

        here = (everyone[:, None, None], np.arange(chart.there.shape[1])[:, None], rows[:, None])

        def drawn_by_type(words: Words, window: Mask) -> Words:
            words = words.copy()
            words[here] = (words[here] & ~fresh[:, None]) | (row_words(window, first_col) & fresh[:, None])
            return words

        # what is out of sight changes: what worked has made something, what was full of ingredients has used them up,
        # and others come and go
        found = (~is_lost).astype(np.uint64)[:, None, None]
        there, full, hungry = chart.there * found, chart.full * found, chart.hungry * found
        for words, after in ((chart.working * found, 1), (there, self._visits)):
            full = full | words * self._is_due(chart, after)
        hungry = hungry | there * self._is_due(chart, FILL)
        return dataclasses.replace(
            chart,
            age=chart.age + 1,
            row=row,
            col=col,
            seen=drawn(seen, sight.visible),
            solid=drawn(chart.solid, sight.solid),
            edge=edge,
            there=drawn_by_type(there, sight.is_type),
            full=drawn_by_type(full, sight.full),
            working=drawn_by_type(chart.working * found, sight.working),
            hungry=drawn_by_type(hungry, sight.hungry),
            put_row=np.where(did_put, row + ROW_STEPS[sight.orientation], chart.put_row),
            put_col=np.where(did_put, col + COL_STEPS[sight.orientation], chart.put_col),
            put_age=np.where(did_put, chart.age, chart.put_age),
        )

    def _is_due(self, chart: SpatialMemory, conversions: Integers | int) -> Words:
        """`[agents, types, 1]`: 1 once in as many steps as so many conversions and rests take, else 0."""
        period = conversions * (self.economy.ticks + self.economy.cooldown) + 1
        return np.asarray(chart.age[:, None] % period == 0, np.uint64)[:, :, None]

    def _decide(self, chart: SpatialMemory, sight: ParsedObservation, taste: NDArray[np.float32]) -> Integers:
        """The index of each agent's pair."""
        agents = np.arange(len(chart.row))
        economy, group = self.economy, sight.group
        # what an agent can take is worth nothing to it once it has enough, what it lacks it cannot put
        lacks = sight.held < economy.enough[group]
        wants = (lacks[:, None] & (economy.outputs > 0)).any(axis=2)
        has_enough = (sight.held >= self._needed) & (self._needed > 0)
        is_sated = (has_enough[:, None] & (economy.outputs > 0)).any(axis=2)
        has = (sight.held[:, None] >= economy.inputs).all(axis=2)
        get = np.where(wants, self._delays_of_get[group] + is_sated * self._delay_of_surplus, NEVER)
        put = np.where(has, self._delays_of_put[group], NEVER)
        coming, pause = self._coming(chart, sight)
        # whoever holds what a converter takes has a reason to look around: it has not seen one yet, or it may see one
        # that is nearer, or that can be reached at all
        missed = np.minimum(put + self._delay_of_hope * np.where(chart.there.any(axis=2), KNOWN, 1), NEVER)
        unknown = missed.min(axis=1, initial=self._delay_of_unknown, keepdims=True)
        sources = np.concatenate([chart.full, chart.hungry, coming, ~chart.seen[:, None]], axis=1)
        delays = np.concatenate([get, put, np.minimum(get + pause, NEVER), unknown], axis=1)
        others = np.zeros_like(chart.seen)
        rows = (chart.row[:, None] - self._eyes.shape[0] // 2 + np.arange(self._eyes.shape[0])) & (SIDE - 1)
        others[agents[:, None], rows] = row_words(sight.agents, chart.col - self._eyes.shape[1] // 2)
        free = chart.seen & ~chart.solid & ~chart.edge & ~others
        near, arrival = _flood(sources, delays, free, chart.row, chart.col)
        score = near * (2 + taste[:, :4])
        score[agents, sight.orientation] += near[agents, sight.orientation]  # rather go on than turn
        direction = np.where(near.any(axis=1), score.argmax(axis=1), -1)
        row = chart.row + ROW_STEPS[direction]
        col = chart.col + COL_STEPS[direction]
        # of all that is to be had in that cell, what sent the first flood
        bits = np.stack([cell_bits(sources[:, index], row, col) for index in range(sources.shape[1])], axis=1)
        waits = np.where(bits, delays, NEVER + 1)
        what = waits.argmin(axis=1)
        at_source = (waits.min(axis=1) <= arrival) & (direction >= 0)
        types = len(economy.names)
        puts = at_source & (what >= types) & (what < 2 * types)
        gets = at_source & (what < 3 * types) & ~puts
        type_ = what % max(1, types)
        lost = direction < 0
        aim = np.where(lost, (taste[:, 4] * 4).astype(np.int64), direction)
        faces = aim == sight.orientation
        actions = self._actions
        pairs = np.where(faces, actions.step, actions.turn[sight.orientation, aim])
        if types:
            pairs = np.where(faces & puts, actions.put[type_], np.where(faces & gets, actions.get[type_], pairs))
        return pairs

    def _coming(self, chart: SpatialMemory, sight: ParsedObservation) -> tuple[Words, Integers]:
        """`[agents, types, 64]` of converters in sight that will give something, and after how long, about.

        The one that the agent itself has just filled gives as soon as it is done; another one that works may have just
        begun or be nearly ready.
        """
        economy = self.economy
        height, width = self._eyes.shape
        working = np.zeros_like(chart.there)
        rows = (chart.row[:, None] - height // 2 + np.arange(height)) & (SIDE - 1)
        here = (np.arange(len(rows))[:, None, None], np.arange(working.shape[1])[:, None], rows[:, None])
        working[here] = row_words(sight.working, chart.col - width // 2)
        filled = single_cells(chart.put_row, chart.put_col)[:, None] & chart.there
        since = (chart.age - chart.put_age)[:, None]
        is_new = (chart.put_age[:, None] >= 0) & (since <= economy.ticks + 1)
        soon: Words = filled * np.asarray(is_new, np.uint64)[:, :, None]
        does = np.asarray((soon != 0).any(axis=2))
        pause = np.where(does, economy.ticks, economy.ticks + economy.cooldown)
        return np.where(does[:, :, None], soon, working & ~chart.full), pause


class _Actions:
    """The pairs that do what the script wants, as indices into `spec.flat_actions`."""

    def __init__(self, env_config: EnvConfig, economy: RecipeValues):
        spec = env_config.spec
        self.pairs = torch.tensor(spec.flat_actions, dtype=torch.int32).view(-1, 2)
        index = {pair: number for number, pair in enumerate(spec.flat_actions)}
        usable = [
            (number, type_, action)
            for number, (_, type_, action) in enumerate(env_config.action_table)
            if spec.action_enabled[number]
        ]
        of_type = {type_: number for number, type_, _ in reversed(usable)}
        kinds = {name: env_config.object_types[name].type for name in economy.names}

        def at_converters(type_: str) -> Integers:
            """`[types]`: the pair of this action, else of one that uses converters of that name or type; else -1."""
            if type_ in of_type:
                return np.full(len(economy.names), index[of_type[type_], 0])
            uses = {action.use: index[number, 0] for number, kind, action in usable if kind == "use"}
            return np.array(
                [uses.get(name, uses.get(kinds[name], uses.get(None, -1))) for name in economy.names], np.int64
            )

        self.get, self.put = at_converters("get_items"), at_converters("put_items")
        turns = [
            (index[number, argument], argument if action.delta is None else None, action.delta or 0)
            for number, type_, action in usable
            if type_ == "rotate"
            for argument in range(spec.max_action_args[number] + 1)
        ]
        needed = {"move": "move" in of_type, "rotate": bool(turns), "get_items or use": (self.get >= 0).all()}
        needed["put_items or use"] = bool((self.put[economy.inputs.any(axis=1)] >= 0).all())
        if missing := [name for name, is_there in needed.items() if not is_there]:
            raise UsageError(f"the scripted policy cannot play here: no action of type {', '.join(missing)}")
        self.move = of_type["move"]
        self.step = index[self.move, 0]
        self.puts = [number for number, type_, _ in usable if type_ in ("put_items", "use")]
        """ids of the actions that may put something in"""
        self.turn = _first_turns(turns)


def _first_turns(turns: list[tuple[int, int | None, int]]) -> Integers:
    """`[orientation, aim]`: the pair to begin with, on the shortest way from one to the other.

    `turns` are (pair, orientation afterwards or None, quarter turns clockwise).
    """
    clockwise = [0, 3, 1, 2]  # up, right, down, left
    first = np.full((4, 4), turns[0][0])
    for begin in range(4):
        reached = {begin: -1}
        front = [begin]
        while front:
            following = []
            for orientation in front:
                for pair, absolute, quarters in turns:
                    turned = clockwise[(clockwise.index(orientation) + quarters) % 4] if absolute is None else absolute
                    if turned not in reached:
                        reached[turned] = pair if orientation == begin else reached[orientation]
                        following.append(turned)
            front = following
        for aim, pair in reached.items():
            if aim != begin:
                first[begin, aim] = pair
    return first


def _delays(economy: RecipeValues) -> tuple[Integers, Integers, int]:
    """Steps by which the flood from each source starts later than that from the largest gain of all.

    `[groups, types]` for taking out, the same for putting in, and for unknown cells.
    """
    largest = float(economy.gain_of_get.max(initial=0.0)) or 1.0

    def delays(gains: NDArray[np.float64]) -> Integers:
        with np.errstate(divide="ignore"):
            steps = np.log(gains / largest) / math.log(PER_STEP)
        return np.minimum(steps, NEVER).round().astype(np.int64)

    return delays(economy.gain_of_get), delays(economy.gain_of_put), int(delays(np.array(CURIOSITY * largest)))


def _cleared(chart: SpatialMemory, episode_starts: Mask, empty: SpatialMemory) -> SpatialMemory:
    """The chart with the maps of some agents empty again."""
    cleared: dict[str, Any] = {}
    for name, values in chart.arrays.items():
        cleared[name] = np.where(episode_starts.reshape(-1, *[1] * (values.ndim - 1)), empty.arrays[name], values)
    return dataclasses.replace(chart, **cleared)


def _moved(chart: SpatialMemory, sight: ParsedObservation, stepped: Integers) -> tuple[Mask, Mask, Mask]:
    """Who has got ahead since the last sight; who could not, though nothing is to be seen there; whose map is wrong.

    No token says whether a move succeeded. What stands still does: by the map it is where it was, or one cell nearer.
    """
    agents, height, width = sight.solid.shape
    ahead_row, ahead_col = ROW_STEPS[stepped], COL_STEPS[stepped]

    def differing(row: Integers, col: Integers) -> Integers:
        """`[agents]`: cells in sight that the map shows otherwise, seen from there."""
        rows = (row[:, None] - height // 2 + np.arange(height)) & (SIDE - 1)
        first_col = col - width // 2
        known = in_window(chart.seen, rows, first_col, width) & sight.visible
        differs = in_window(chart.solid, rows, first_col, width) != sight.solid
        return np.asarray((known & differs).sum(axis=(1, 2)))

    stayed = differing(chart.row, chart.col)
    gone = differing(chart.row + ahead_row, chart.col + ahead_col)
    row, col = height // 2 + ahead_row, width // 2 + ahead_col
    is_inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    cell = (np.arange(agents), np.clip(row, 0, height - 1), np.clip(col, 0, width - 1))
    is_taken = sight.agents[cell] & is_inside
    tried = stepped >= 0
    moved = tried & ((gone < stayed) | ((gone == stayed) & ~is_taken))
    bumped = tried & ~moved & is_inside & ~sight.solid[cell] & ~is_taken & ~sight.is_frozen
    return moved, bumped, np.where(moved, gone, stayed) >= LOST


def _flood(sources: Words, delays: Integers, free: Words, row: Integers, col: Integers) -> tuple[Mask, Integers]:
    """Where the first flood comes from, and when: `[agents, 4]` by direction, and `[agents]` steps.

    `sources [agents, sources, 64]` each begin to flood after `delays [agents, sources]` and spread a cell a step over
    `free [agents, 64]`. No direction at all where none arrives.
    """
    agents = len(row)
    near, arrival = np.zeros((agents, 4), bool), np.full(agents, NEVER)
    are_there = sources.any(axis=2) & (delays < NEVER)
    first = np.where(are_there, delays, NEVER).min(axis=1)
    delays = np.where(are_there, delays - first[:, None], NEVER)
    due = set(delays.ravel().tolist())
    left = np.nonzero(first < NEVER)[0]
    own_row, own_bit = row & (SIDE - 1), np.uint64(1) << (col & (SIDE - 1)).astype(np.uint64)
    flooded = np.zeros((len(left), SIDE), np.uint64)
    last = delays[left].max(axis=1, where=are_there[left], initial=0)
    time = 0
    while left.size:
        if time in due:
            for agent, source in zip(*np.nonzero(delays[left] == time), strict=True):
                flooded[agent] |= sources[left[agent], source]
        spread = flooded | rotated(flooded, 1) | rotated(flooded, -1)
        spread[:, 1:] |= flooded[:, :-1]
        spread[:, :-1] |= flooded[:, 1:]
        spread[:, 0] |= flooded[:, -1]
        spread[:, -1] |= flooded[:, 0]
        arrived = (spread[np.arange(len(left)), own_row[left]] & own_bit[left]) != 0
        done = left[arrived]
        for direction in range(4):
            near[done, direction] = cell_bits(
                flooded[arrived], row[done] + ROW_STEPS[direction], col[done] + COL_STEPS[direction]
            )
        arrival[done] = time + first[done]
        after = flooded | (spread & free[left])
        on = ~arrived & ((last > time) | (after != flooded).any(axis=1))
        left, flooded, last = left[on], after[on], last[on]
        time += 1
    return near, arrival
