"""One episode of a policy, step by step: everything that could be seen in the world, as arrays over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.agent.policy import Policy
from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.replay.block_tracking import BlockTracker
from metta.replay.episode_player import EpisodePlayer
from metta.world.env import MettaGridEnv

ENDLESS_EPISODE: Final = 1000
"""Steps that are recorded where an episode never ends and nobody said how long."""


@dataclass(frozen=True)
class Replay:
    """An episode. States are those before each step and, last, the one after the last step: `times` = steps + 1."""

    config: EnvConfig
    seed: int
    cells: NDArray[np.int16]
    """`[rows, cols]`, the map at the beginning, encoded as by `build_map`"""

    groups: NDArray[np.int64]
    """`[agents]`, each one's group by its place in `config.game.groups`"""
    positions: NDArray[np.int16]
    """`[times, agents, 2]`, (row, col)"""
    orientations: NDArray[np.uint8]
    """`[times, agents]`, 0 up, 1 down, 2 left, 3 right"""
    is_frozen: NDArray[np.bool_]
    """`[times, agents]`"""
    colors: NDArray[np.uint8]
    """`[times, agents]`"""
    inventories: NDArray[np.uint8]
    """`[times, agents, items]`"""

    converter_is_busy: NDArray[np.bool_]
    """`[times, converters]`, converting or cooling; converters in row-major order of the map"""
    converter_inventories: NDArray[np.uint8]
    """`[times, converters, items]`"""
    block_positions: NDArray[np.int16]
    """`[times, blocks, 2]`, (row, col) of swappable walls, which begin in row-major order of the map"""

    actions: NDArray[np.int32]
    """`[steps, agents, 2]`, (action id, argument)"""
    action_success: NDArray[np.bool_]
    """`[steps, agents]`"""
    rewards: NDArray[np.float32]
    """`[steps, agents]`, what `step` returned"""

    @property
    def steps(self) -> int:
        """How many steps were played."""
        return len(self.actions)

    @property
    def total_rewards(self) -> NDArray[np.float32]:
        """`[steps, agents]`: each agent's reward so far, added up in float32 as the simulator does."""
        return np.add.accumulate(self.rewards, axis=0, dtype=np.float32)


class _Film:
    """Collects the states of an env's only world, one after the other."""

    def __init__(self, env: MettaGridEnv):
        self.env = env
        self.blocks = BlockTracker(env.config, env.cells())
        self.frames: dict[str, list[np.ndarray]] = {}

    def expose(self) -> None:
        """Add the state that the world is in."""
        env, converters = self.env, self.env.converters()
        self._add("positions", env.positions, np.int16)
        self._add("orientations", env.orientations, np.uint8)
        self._add("is_frozen", env.freeze_counters != 0, np.bool_)
        self._add("colors", env.colors, np.uint8)
        self._add("inventories", env.inventories, np.uint8)
        self._add("converter_is_busy", converters["is_busy"], np.bool_)
        self._add("converter_inventories", converters["inventory"], np.uint8)
        if len(self.blocks.positions):
            self.blocks.follow(env.cells())
        self._add("block_positions", self.blocks.positions, np.int16)

    def _add(self, name: str, frame: np.ndarray, dtype: type[np.generic]) -> None:
        self.frames.setdefault(name, []).append(frame.astype(dtype))  # a copy: the world's arrays change in place


def record_episode(agent: Policy, env_config: EnvConfig, seed: int, max_steps: int | None = None) -> Replay:
    """Play one episode in a world of its own and keep every state of it.

    The same policy, config and seed give the same episode. It ends where the game ends it, or after `max_steps`; a
    game without an end needs one, and gets `ENDLESS_EPISODE`. Nothing outside is changed: world and random numbers
    are the recording's own, and a policy in training mode is so again afterwards.
    """
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps must be at least 1; got {max_steps}")
    stage = EpisodePlayer(agent, env_config, seed)
    env = stage.env
    first_cells = env.cells()
    film = _Film(env)
    film.expose()
    actions, successes, rewards = [], [], []
    for _ in range(max_steps or _longest(env_config)):
        stage.step()
        actions.append(stage.actions)
        successes.append(env.action_success.copy())
        rewards.append(stage.rewards)
        film.expose()
        if stage.is_over:
            break
    frames = {name: np.stack(frames) for name, frames in film.frames.items()}
    return Replay(
        config=env_config,
        seed=seed,
        cells=first_cells,
        groups=env.groups.copy(),
        actions=np.stack(actions),
        action_success=np.stack(successes),
        rewards=np.stack(rewards),
        **frames,
    )


def _longest(config: EnvConfig) -> int:
    """The steps after which an episode of this game is over."""
    ends = [steps for steps in (config.game.max_steps, config.game.episode_lifetime) if steps]
    return min(ends, default=ENDLESS_EPISODE)
