"""Replay of recordings of the C++ MettaGrid on metta, compared byte for byte; also a script.

    python tests/support/conformance.py RECORDING.npz ...

Prints a line for each recording that agrees. At the first difference of a recording it prints its position and the map
around it, as recorded and as played. The exit status is 1 if there was a difference, and 2 if a file is no recording.
pytest runs the same comparison (`tests/world/test_conformance.py`).

Compared before the first step: names of actions, features and items, arguments and scales. Compared at every step:
observations, rewards (float32, bit for bit), truncations, success of actions, agents' positions, orientation, frozen,
colors, inventories and accumulated rewards, converters' state and inventories, every cell of the map; at the end every
counter of the statistics. The C++ MettaGrid can be stepped past the end of an episode. So a recording that reaches its
limit of steps is replayed twice: with `auto_reset` to the end of the episode, and without it to the end of the
recording.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError
from recordings import NotARecordingError, Recording

from metta.config.env.glyphs import GLYPHS
from metta.world.env import MettaGridEnv


@dataclass(frozen=True)
class Moment:
    """The results and state of one world after a step. Rewards, flags and success `[agents]` are None after the reset.

    `state` holds the arrays that `recorded_state` names. A player that resets shows neither it nor the success of
    actions where an episode ended: they are None.
    """

    observations: np.ndarray
    rewards: np.ndarray | None = None
    truncated: np.ndarray | None = None
    success: np.ndarray | None = None
    state: dict[str, np.ndarray] | None = None


class Player(Protocol):
    """A simulator of one world: the engine or the reference simulator."""

    world: int
    """Index of the world in its batch."""

    def reset(self) -> Moment:
        """Start the episode."""

    def step(self, actions: np.ndarray, order: np.ndarray) -> Moment:
        """Take one step with the given actions `[agents, 2]` in the given order `[agents]`."""

    def statistics(self) -> dict[str, Any]:
        """The counters so far: `{"game": {..}, "agent": [{..}], "converter": [{..}]}`."""


@dataclass(frozen=True)
class Difference:
    """The first difference between a player and a recording; `str` gives a description."""

    recording: Recording
    step: int
    what: str
    agent: int | None = None
    place: tuple[int, int] | None = None
    """(row, col) of the difference, if it is not about an agent"""
    world: int = 0
    played: dict[str, np.ndarray] | None = None
    """the state of the player, by the names of `recorded_state`"""

    def __str__(self) -> str:
        recording, step, agent = self.recording, self.step, self.agent
        whose = "" if agent is None else f", agent {agent}"
        lines = [f"{recording.name}, step {step}, world {self.world}{whose}: {self.what}"]
        if agent is not None and step:
            action, argument = (int(number) for number in recording.actions[step - 1, agent])
            names = recording.config.spec.action_names
            name = names[action] if 0 <= action < len(names) else "no such action"
            turn = recording.order[step - 1].tolist().index(agent) + 1
            lines.append(f"it did {name} ({action}, {argument}), as number {turn} of {recording.num_agents}")
        return "\n".join([*lines, *self._pictures()])

    def _pictures(self) -> list[str]:
        """The map around the difference, side by side: recorded before and after the step, and played."""
        recording, step = self.recording, self.step
        if self.agent is None and self.place is None:
            return []
        shown = {
            f"recorded after step {moment}": recorded_state(recording, moment) for moment in {max(step - 1, 0), step}
        }
        if self.played is not None:
            shown[f"played after step {step}"] = self.played
        pictures = [[title, *_drawn_around(recording, state, self.agent, self.place)] for title, state in shown.items()]
        width = max(len(line) for picture in pictures for line in picture)
        return [
            "  ".join(f"{line:<{width}}" for line in side_by_side).rstrip()
            for side_by_side in zip(*pictures, strict=True)
        ]


def compare(recording: Recording, player: Player, length: int | None = None) -> Difference | None:
    """Play the first `length` steps of a recording (default: all). Returns the first difference, or None."""
    last = recording.length if length is None else length
    moment = player.reset()
    difference = _compare_moment(recording, 0, moment)
    for step in range(1, last + 1):
        if difference is not None:
            break
        moment = player.step(recording.actions[step - 1], recording.order[step - 1])
        difference = _compare_moment(recording, step, moment)
    if difference is None and last == recording.length and moment.state is not None:
        difference = _compare_statistics(recording, player.statistics())
    return difference and dataclasses.replace(difference, world=player.world, played=moment.state)


def compare_names(recording: Recording) -> Difference | None:
    """Compare the spec of the world with the arrays of the recording that describe it."""
    spec = recording.config.spec
    features = json.loads(str(recording.arrays.get("features_json", "{}")))
    for what, got, expected in (
        ("names of actions", spec.action_names, recording.arrays.get("action_names")),
        ("largest arguments of actions", spec.max_action_args, recording.arrays.get("max_action_args")),
        ("names of features", spec.feature_names, recording.arrays.get("feature_names")),
        ("scales of features", spec.feature_scales, [entry["normalization"] for entry in features.values()] or None),
        ("names of items", recording.config.game.inventory_item_names, recording.arrays.get("item_names")),
    ):
        if expected is not None and list(got) != list(expected):
            return Difference(recording, 0, f"{what} are {list(got)}, recorded {list(expected)}")
    return None


def recorded_state(recording: Recording, step: int) -> dict[str, np.ndarray]:
    """The recorded state of the world after `step` steps, by the names that messages use."""
    arrays = recording.arrays
    accumulated = arrays["episode_rewards_steps"]
    return {
        "position of agents": arrays["agent_rc"][step],
        "orientation of agents": arrays["agent_orientation"][step],
        "frozen of agents": arrays["agent_frozen"][step] != 0,
        "color of agents": arrays["agent_color"][step],
        "inventory of agents": arrays["agent_inventory"][step],
        "accumulated reward of agents": accumulated[step - 1] if step else np.zeros_like(accumulated[0]),
        "cells": recording.cells(step),
        "busy of converters": arrays["conv_busy"][step] != 0,
        "inventory of converters": arrays["conv_inventory"][step],
    }


def _compare_moment(recording: Recording, step: int, moment: Moment) -> Difference | None:
    recorded = recorded_state(recording, step) if moment.state is not None else {}
    shown = dict(moment.state or {})
    if step:
        for what, got, expected in (
            ("success", moment.success, recording.arrays["action_success"]),
            ("reward", moment.rewards, recording.rewards),
            ("truncation", moment.truncated, recording.arrays["truncations"]),
        ):
            if got is not None:
                shown[f"{what} of agents"], recorded[f"{what} of agents"] = got, expected[step - 1]
    for what, expected in recorded.items():
        difference = _compare_arrays(recording, step, what, shown[what], expected)
        if difference is not None:
            return difference
    return _compare_observations(recording, step, moment.observations)


def _compare_arrays(
    recording: Recording, step: int, what: str, got: np.ndarray, expected: np.ndarray
) -> Difference | None:
    """Equal values; of floats, equal bits."""
    if expected.dtype.kind == "f":
        got, expected = got.astype(expected.dtype).view(np.uint32), expected.view(np.uint32)
        shown_got, shown_expected = got.view(np.float32), expected.view(np.float32)
    else:
        shown_got, shown_expected = got, expected
    if got.shape != expected.shape:
        return Difference(recording, step, f"{what} have the shape {got.shape}, recorded {expected.shape}")
    wrong = np.argwhere(got != expected)
    if not len(wrong):
        return None
    place = tuple(int(index) for index in wrong[0])
    index = place[0] if what != "cells" else place
    agent = place[0] if what.endswith("of agents") else None
    told = f"{what} [{index}] is {shown_got[index]}, recorded {shown_expected[index]} ({len(wrong)} values differ)"
    if what.endswith("of converters"):
        return Difference(recording, step, told, place=_converter_place(recording, place[0]))
    return Difference(recording, step, told, agent, (place[0], place[1]) if what == "cells" else None)


def _converter_place(recording: Recording, converter: int) -> tuple[int, int]:
    """Position (row, col) of a converter; converters are numbered in reading order."""
    types = recording.config.object_types
    converters = [kind.type_id for kind in types.values() if kind.type != "wall"]
    row, col = np.argwhere(np.isin(recording.cells(0), converters))[converter]
    return int(row), int(col)


def _compare_observations(recording: Recording, step: int, observations: np.ndarray) -> Difference | None:
    expected = recording.observations(step)
    if observations.shape != expected.shape:
        return Difference(recording, step, f"observations have the shape {observations.shape}, not {expected.shape}")
    wrong = np.argwhere((observations != expected).any(2))
    if not len(wrong):
        return None
    agent, token = (int(index) for index in wrong[0])
    lines = [f"token {token} of the observation differs ({len(wrong)} tokens of all agents do)"]
    for nearby in range(max(0, token - 2), min(token + 3, expected.shape[1])):
        got, recorded = (_decoded(recording, tokens[agent, nearby]) for tokens in (observations, expected))
        lines.append(f"  {nearby:4}  {got:<36}  recorded  {recorded}{'' if got == recorded else '   <--'}")
    return Difference(recording, step, "\n".join(lines), agent)


def _decoded(recording: Recording, token: np.ndarray) -> str:
    """`row +1 col -2 inv:laser 3`, rows and columns from the observer."""
    location, feature, value = (int(number) for number in token)
    if location == feature == value == 0xFF:
        return "nothing"
    spec = recording.config.spec
    row, col = (location >> 4) - spec.observation_height // 2, (location & 15) - spec.observation_width // 2
    name = spec.feature_names[feature] if feature < len(spec.feature_names) else f"feature {feature}"
    return f"row {row:+d} col {col:+d}  {name} {value}"


def _compare_statistics(recording: Recording, statistics: dict[str, Any]) -> Difference | None:
    expected = recording.statistics
    pairs = [("game", statistics["game"], expected["game"])]
    for kind in ("agent", "converter"):
        if len(statistics[kind]) != len(expected[kind]):
            return Difference(recording, recording.length, f"statistics of {len(statistics[kind])} {kind}s")
        told = zip(statistics[kind], expected[kind], strict=True)
        pairs += [(f"{kind} {index}", got, recorded) for index, (got, recorded) in enumerate(told)]
    wrong = [
        (whose, f"{whose}: {key} is {got.get(key, 0):g}, recorded {recorded.get(key, 0):g}")
        for whose, got, recorded in pairs
        for key in sorted({*got, *recorded})
        if not _same_count(got.get(key, 0), recorded.get(key, 0))
    ]
    if not wrong:
        return None
    told = f"{len(wrong)} counters differ:\n  " + "\n  ".join(line for _, line in wrong[:20])
    kind, *number = wrong[0][0].split()
    if kind == "converter":
        return Difference(recording, recording.length, told, place=_converter_place(recording, int(number[0])))
    return Difference(recording, recording.length, told, int(number[0]) if number else None)


def _same_count(got: float, recorded: float) -> bool:
    """Equal; or nearly equal, above the largest integer that float32 sums of the C++ MettaGrid represent exactly."""
    return np.float32(got) == recorded or (recorded > 2**24 and abs(got - recorded) < 1e-3 * recorded)


def _drawn_around(
    recording: Recording, state: dict[str, np.ndarray], agent: int | None, place: tuple[int, int] | None
) -> list[str]:
    """The window of an agent (drawn as @) or around a place, a line for each row, edges of the map left blank."""
    glyphs = {name: glyph for glyph, name in reversed(GLYPHS.items())}
    names = {entry.type_id: name for name, entry in recording.config.object_types.items()} | {0: "empty"}
    cells, places = state["cells"], state["position of agents"].tolist()
    drawing = [[glyphs.get(names.get(int(cell), ""), "?") for cell in row] for row in cells]
    for other, (row, col) in enumerate(places):
        drawing[row][col] = "@" if other == agent else "^v<>"[int(state["orientation of agents"][other])]
    row, col = places[agent] if place is None else place
    spec = recording.config.spec
    rows = range(row - spec.observation_height // 2, row + spec.observation_height // 2 + 1)
    cols = range(col - spec.observation_width // 2, col + spec.observation_width // 2 + 1)
    return [
        "  " + "".join(drawing[r][c] if 0 <= r < len(cells) and 0 <= c < cells.shape[1] else " " for c in cols)
        for r in rows
    ]


class EnginePlayer:
    """One world of the engine as a player; agents of the other worlds of its batch act at random.

    `twins` are further worlds of the same task, which take the same actions and must give the same results. `others`
    are recordings played in other worlds at the same time, by world.
    """

    def __init__(
        self,
        env: MettaGridEnv,
        world: int = 0,
        twins: Sequence[int] = (),
        seed: int = 0,
        others: Mapping[int, Recording] | None = None,
    ):
        self.env, self.world, self.twins, self.others = env, world, twins, others or {}
        self.generator = np.random.default_rng(seed)
        self.steps = self.ended = 0
        """steps so far, and episodes of other worlds that ended meanwhile"""

    def reset(self) -> Moment:
        """The first moment of the first episode of the environment's seed."""
        observations, _ = self.env.reset(self.env.seed)
        self.steps = 0
        return Moment(self._mine(observations), state=engine_state(self.env, self.world))

    def step(self, actions: np.ndarray, order: np.ndarray) -> Moment:
        """One step of all worlds; after the end of an episode only what the step itself tells."""
        env, generator = self.env, self.generator
        all_actions = generator.integers(0, env.single_action_space.nvec + 1, (env.agents, 2))
        all_orders = np.stack([generator.permutation(env.num_agents) for _ in range(env.num_worlds)])
        for world, other in self.others.items():
            if self.steps < other.length:
                all_actions[self._rows(world)], all_orders[world] = other.actions[self.steps], other.order[self.steps]
        for world in (self.world, *self.twins):
            all_actions[self._rows(world)], all_orders[world] = actions, order
        self.steps += 1
        observations, rewards, _, truncated, info = env.step(all_actions, order=all_orders.ravel())
        self.ended += sum(episode.world not in (self.world, *self.twins) for episode in info.episodes)
        rows = self._rows(self.world)
        if env.auto_reset and rows.start in info.ended_agents:
            first = info.ended_agents.tolist().index(rows.start)
            final = info.final_observations[first : first + env.num_agents]
            return Moment(final, rewards[rows], truncated[rows])
        state = engine_state(env, self.world)
        return Moment(self._mine(observations), rewards[rows], truncated[rows], env.action_success[rows].copy(), state)

    def _rows(self, world: int) -> slice:
        return slice(world * self.env.num_agents, (world + 1) * self.env.num_agents)

    def _mine(self, observations: np.ndarray) -> np.ndarray:
        mine = observations[self._rows(self.world)]
        for twin in self.twins:
            assert np.array_equal(observations[self._rows(twin)], mine), f"worlds {self.world} and {twin} differ"
        return mine

    def statistics(self) -> dict[str, Any]:
        """The counters of the running episode."""
        return engine_statistics(self.env, self.world)


def engine_state(env: MettaGridEnv, world: int) -> dict[str, np.ndarray]:
    """What `recorded_state` names, of one world of the engine."""
    rows = slice(world * env.num_agents, (world + 1) * env.num_agents)
    converters = env.converters(world)
    return {
        "position of agents": env.positions[rows],
        "orientation of agents": env.orientations[rows].copy(),
        "frozen of agents": env.freeze_counters[rows] != 0,
        "color of agents": env.colors[rows].copy(),
        "inventory of agents": env.inventories[rows].copy(),
        "accumulated reward of agents": env.episode_rewards[rows].copy(),
        "cells": env.cells(world),
        "busy of converters": converters["is_busy"],
        "inventory of converters": converters["inventory"],
    }


def engine_statistics(env: MettaGridEnv, world: int) -> dict[str, Any]:
    """`env.episode_stats` without what says only which converter it is."""
    statistics = env.episode_stats(world)
    whereabouts = {"type_id", "location.r", "location.c"}
    return statistics | {
        "converter": [
            {key: count for key, count in counters.items() if key not in whereabouts}
            for counters in statistics["converter"]
        ]
    }


def engine_difference(recording: Recording) -> Difference | None:
    """Play a recording on the engine: to the end of its episode, and without resets to the end of the recording."""
    difference = compare_names(recording)
    if difference is None:
        difference = compare(recording, EnginePlayer(MettaGridEnv(recording.config, auto_reset=False, seed=0)))
    if difference is None and 0 < recording.config.game.max_steps <= recording.length:
        difference = compare(recording, EnginePlayer(MettaGridEnv(recording.config, seed=0)), recording.episode_length)
    return difference


def main(paths: Sequence[str]) -> int:
    """Compare every recording with the engine. Returns the exit status."""
    status = 0
    for path in paths:
        try:
            recording = Recording(Path(path))
        except NotARecordingError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        try:
            difference = engine_difference(recording)
        except ValidationError as error:
            # what the C++ MettaGrid allows and metta rejects on purpose, such as a window of 17 cells
            print(f"{recording.name}: metta rejects the configuration: {error}")
            status = status or 1
            continue
        print(difference or f"{recording.name}: {recording.length} steps of {recording.num_agents} agents agree")
        status = status or int(difference is not None)
    return status


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
