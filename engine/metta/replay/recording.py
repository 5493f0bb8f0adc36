"""Episode recording: play one episode of a policy or a team, and return the states of the world as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metta.agent.policy import Policy
from metta.agent.team import Team
from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.replay.block_tracking import BlockTracker
from metta.replay.episode_player import EpisodePlayer
from metta.world.env import MettaGridEnv

DEFAULT_MAX_STEPS: Final = 1000
"""Maximum number of recorded steps if neither the game nor the caller limits the length of the episode."""


@dataclass(frozen=True)
class Replay:
    """A recorded episode.

    The axis `times` has length steps + 1: the state before each step, and the final state.
    """

    config: EnvConfig
    seed: int
    cells: NDArray[np.int16]
    """`[rows, cols]`, the map at the start of the episode: 0 for an empty cell, the type id of an object, or -1 - g for
    an agent of group g"""

    groups: NDArray[np.int64]
    """`[agents]`, index of each agent's group in `config.game.groups`"""
    positions: NDArray[np.int16]
    """`[times, agents, 2]`, (row, col)"""
    orientations: NDArray[np.uint8]
    """`[times, agents]`, 0 up, 1 down, 2 left, 3 right"""
    is_frozen: NDArray[np.bool_]
    """`[times, agents]`"""
    colors: NDArray[np.uint8]
    """`[times, agents]`, 0 to 255"""
    inventories: NDArray[np.uint8]
    """`[times, agents, items]`, amount of each item"""

    converter_is_busy: NDArray[np.bool_]
    """`[times, converters]`, converting or cooling; converters in row-major order of the map"""
    converter_inventories: NDArray[np.uint8]
    """`[times, converters, items]`, amount of each item"""
    converter_states: NDArray[np.uint8]
    """`[times, converters, states]`, states of objects of registered types, in the order of their option"""
    block_positions: NDArray[np.int16]
    """`[times, blocks, 2]`, (row, col) of swappable walls, ordered by their first positions in row-major order"""

    actions: NDArray[np.int32]
    """`[steps, agents, 2]`, (action id, argument) of each agent"""
    action_success: NDArray[np.bool_]
    """`[steps, agents]`, whether the action of the step succeeded"""
    rewards: NDArray[np.float32]
    """`[steps, agents]`, as returned by `env.step`"""

    policies: tuple[str, ...]
    """`[agents]`, name of the policy that played each agent; an empty name for that of no team"""

    @property
    def steps(self) -> int:
        """Number of steps played."""
        return len(self.actions)

    @property
    def total_rewards(self) -> NDArray[np.float32]:
        """Cumulative reward of each agent after each step, summed in float32 as in the simulator. `[steps, agents]`"""
        return np.add.accumulate(self.rewards, axis=0, dtype=np.float32)


class _StateRecorder:
    """Collects the states over time of an env with one world."""

    def __init__(self, env: MettaGridEnv):
        self.env = env
        self.blocks = BlockTracker(env.config, env.cells())
        self._states: dict[str, list[np.ndarray]] = {}

    def add_state(self) -> None:
        """Append the current state of the world."""
        env, converters = self.env, self.env.converters()
        self._append("positions", env.positions, np.int16)
        self._append("orientations", env.orientations, np.uint8)
        self._append("is_frozen", env.freeze_counters != 0, np.bool_)
        self._append("colors", env.colors, np.uint8)
        self._append("inventories", env.inventories, np.uint8)
        self._append("converter_is_busy", converters["is_busy"], np.bool_)
        self._append("converter_inventories", converters["inventory"], np.uint8)
        self._append("converter_states", converters["states"], np.uint8)
        if len(self.blocks.positions):
            self.blocks.update(env.cells())
        self._append("block_positions", self.blocks.positions, np.int16)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays `[times, ...]` by the name of the field of `Replay`."""
        return {name: np.stack(states) for name, states in self._states.items()}

    def _append(self, name: str, values: np.ndarray, dtype: type[np.generic]) -> None:
        self._states.setdefault(name, []).append(values.astype(dtype))  # a copy: the env updates its arrays in place


def record_episode(
    policy: Policy | Team, env_config: EnvConfig, seed: int, max_steps: int | None = None, deterministic: bool = False
) -> Replay:
    """Play one episode in a new world and record every state.

    The same policy, config and seed give the same episode. Recording stops when the episode ends or after `max_steps`
    steps, by default `DEFAULT_MAX_STEPS` if the game does not limit the length of an episode. Global random states and
    the policy's training mode are left unchanged. With `deterministic`, agents take the most likely action instead of a
    sampled one. Raises UsageError if `max_steps` is below 1, or if the policy was
    made for other observations or actions.
    """
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"max_steps must be at least 1; got {max_steps}")
    player = EpisodePlayer(policy, env_config, seed, deterministic)
    env = player.env
    first_cells = env.cells()
    recorder = _StateRecorder(env)
    recorder.add_state()
    actions, action_success, rewards = [], [], []
    for _ in range(max_steps or _episode_length(env_config)):
        player.step()
        actions.append(player.actions)
        action_success.append(env.action_success.copy())
        rewards.append(player.rewards)
        recorder.add_state()
        if player.is_over:
            break
    return Replay(
        config=env_config,
        seed=seed,
        cells=first_cells,
        groups=env.groups.copy(),
        actions=np.stack(actions),
        action_success=np.stack(action_success),
        rewards=np.stack(rewards),
        policies=player.policy_names,
        **recorder.arrays(),
    )


def _episode_length(config: EnvConfig) -> int:
    """Maximum length of an episode in steps, set by the game or else `DEFAULT_MAX_STEPS`."""
    limits = [steps for steps in (config.game.max_steps, config.game.episode_lifetime) if steps]
    return min(limits, default=DEFAULT_MAX_STEPS)
