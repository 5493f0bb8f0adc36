"""Self-play against frozen policies: who plays whom, and the frozen side of the worlds.

A world's agents sit in seats: the first are learners, whose steps are experience, the others are opponents. Seats and
the opponents' policy are drawn when a world's episode begins; memories are cleared there, so that a seat may pass from
one agent to another without a trace.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from metta.agent.policy import MettaAgent, check_policy_fits
from metta.agent.recurrent_memory import Memory
from metta.config.env.env_spec import EnvSpec
from metta.config.self_play import SelfPlayConfig, num_opponents
from metta.errors import CheckpointError, UsageError
from metta.world.env import MettaGridEnv
from metta.world.episode_summary import EpisodeSummary, StepInfo


@dataclass
class FrozenPolicy:
    """A member of the pool. Its weights never change."""

    name: str
    """`given_000` for the first file of the config, `epoch_000010` for a snapshot after ten epochs"""
    agent: MettaAgent

    @property
    def is_snapshot(self) -> bool:
        """Whether it is the run's own policy of an earlier epoch."""
        return self.name.startswith("epoch_")


OPPONENTS = "opponents"
"""In the directory of checkpoints: the frozen policies."""


def opponent_file(name: str) -> str:
    """Where a run keeps a member of its pool, from the directory of its checkpoints."""
    return f"{OPPONENTS}/{name}.pt"


def check_names(names: Sequence[str]) -> None:
    """Raise CheckpointError for a name that no pool gives, which might lead elsewhere."""
    for name in names:
        if not re.fullmatch(r"(given|epoch)_[0-9]+", name):
            raise CheckpointError(
                f'the trainer state names an opponent "{name}"; they are given_000, epoch_000100, ...'
            )


class OpponentPool:
    """The frozen policies: those that were given, and the newest snapshots of the policy in training."""

    def __init__(self, config: SelfPlayConfig, members: Sequence[FrozenPolicy]):
        self.config = config
        self.members = list(members)
        """a place in this list is kept for good: a new snapshot takes that of the oldest"""

    def add_snapshot(self, epoch: int, agent: MettaAgent) -> None:
        """Take the policy in as it is now. Where the oldest snapshot gives way, the new one plays its episodes on."""
        frozen = copy.deepcopy(agent).requires_grad_(False)
        frozen.initial_weights = {}
        member = FrozenPolicy(f"epoch_{epoch:06d}", frozen)
        snapshots = self._snapshots()
        if len(snapshots) < self.config.pool_size:
            self.members.append(member)
        else:
            self.members[snapshots[0]] = member

    def draw(self, generator: torch.Generator) -> int:
        """The place of the policy that plays an episode."""
        is_newest, place = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        snapshots = self._snapshots()
        if snapshots and is_newest < self.config.newest_share:
            return snapshots[-1]
        return int(place * len(self.members))

    def check_policy_fits(self, spec: EnvSpec) -> None:
        """Raise UsageError if a member was made for other worlds."""
        for member in self.members:
            check_policy_fits(member.agent, spec)

    def _snapshots(self) -> list[int]:
        """The places of the snapshots, oldest first."""
        places = [place for place, member in enumerate(self.members) if member.is_snapshot]
        return sorted(places, key=lambda place: self.members[place].name)


class Opponents:
    """The frozen side of one group of worlds."""

    def __init__(self, env: MettaGridEnv, pool: OpponentPool, generator: torch.Generator):
        self.env = env
        self.pool = pool
        self.generator = generator
        counts = {num_opponents(pool.config, config) for config in env.configs}
        if len(counts) > 1:
            raise UsageError(
                "self_play: every scene must have as many opponents as the others; "
                f"there are {', '.join(map(str, sorted(counts)))}"
            )
        self.count = counts.pop()
        """opponents in each world"""
        self.seats = np.zeros((env.num_worlds, env.num_agents), np.int64)
        """`[worlds, agents]`: the world's agent in each seat; learners first, each side in its order"""
        self.places = np.zeros(env.num_worlds, np.int64)
        """`[worlds]`: the place in the pool of who plays the opponents"""
        self.observations = torch.zeros(0)
        self.episode_starts = torch.ones(env.num_worlds * self.count, dtype=torch.bool)
        self.memories: list[Memory] = []
        """of each member of the pool, for all opponents; what it remembers of those it does not play is idle"""

    @property
    def learners(self) -> np.ndarray:
        """`[learners] int64`: the rows of the agents that learn, world by world."""
        return self._rows(self.seats[:, : self.env.num_agents - self.count])

    @property
    def rows(self) -> np.ndarray:
        """`[opponents] int64`: the rows of the agents that frozen policies play, world by world."""
        return self._rows(self.seats[:, self.env.num_agents - self.count :])

    def begin(self, observations: np.ndarray) -> np.ndarray:
        """Seat the agents of all worlds, which have just begun; what the learners see."""
        self._seat(range(self.env.num_worlds))
        self.observations = torch.from_numpy(observations[self.rows])
        seen: np.ndarray = observations[self.learners]
        return seen

    def actions(self, learners: np.ndarray) -> np.ndarray:
        """`[agents, 2]`: the actions of all agents, given the learners' `[learners, 2]`."""
        actions = np.empty((self.env.agents, 2), learners.dtype)
        actions[self.learners] = learners
        chosen = np.empty((len(self.episode_starts), 2), learners.dtype)
        playing = np.repeat(self.places, self.count)
        for place, member in enumerate(self.pool.members):
            if place == len(self.memories):
                self.memories.append(member.agent.initial_memory(len(self.episode_starts)))
            played = torch.from_numpy(np.flatnonzero(playing == place))
            if len(played):
                device, memory = member.agent.device, self.memories[place]
                on_device = played.to(device)
                decision = member.agent.act(
                    self.observations[played].to(device),
                    memory.select(on_device),
                    self.episode_starts[played].to(device),
                    self.generator,
                )
                memory.hidden[:, on_device] = decision.memory.hidden
                memory.cell[:, on_device] = decision.memory.cell
                chosen[played.numpy()] = decision.actions.cpu().numpy()
        actions[self.rows] = chosen
        return actions

    def learners_part(
        self, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, info: StepInfo
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, StepInfo, list[float]]:
        """Of what a step brought, the learners' part, by the seats of that step; and the opponents' mean rewards.

        Those are one number for each episode that ended. Worlds whose episode ended are seated anew.
        """
        learners = self.learners
        row_of = np.full(self.env.agents, -1)
        row_of[learners] = np.arange(len(learners))
        ended = row_of[info.ended_agents]
        episodes, opponents = [], []
        for episode in info.episodes:
            own, others = self._sides(episode)
            episodes.append(replace(episode, rewards=own))
            opponents.append(float(others.mean()))
        part = replace(
            info,
            ended_agents=ended[ended >= 0],
            final_observations=info.final_observations[ended >= 0],
            episodes=tuple(episodes),
        )
        result = rewards[learners], terminated[learners], truncated[learners], part, opponents
        self.episode_starts = torch.from_numpy((terminated | truncated)[self.rows])
        self._seat([episode.world for episode in info.episodes])
        return result

    def see(self, observations: np.ndarray) -> np.ndarray:
        """Let the opponents see their part of `[agents, tokens, 3]`; the learners'."""
        self.observations = torch.from_numpy(observations[self.rows])
        seen: np.ndarray = observations[self.learners]
        return seen

    def state(self) -> dict[str, Any]:
        """All that the opponents' next step depends on, beside the pool and the generator."""
        return {
            "seats": torch.from_numpy(self.seats.copy()),
            "places": torch.from_numpy(self.places.copy()),
            "observations": self.observations,
            "episode_starts": self.episode_starts,
            "memories": [{"hidden": memory.hidden, "cell": memory.cell} for memory in self.memories],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state()` was taken."""
        self.seats, self.places = state["seats"].numpy().copy(), state["places"].numpy().copy()
        self.observations, self.episode_starts = state["observations"], state["episode_starts"]
        self.memories = [
            Memory(memory["hidden"], memory["cell"]).to(member.agent.device)
            for memory, member in zip(state["memories"], self.pool.members, strict=False)
        ]

    def _seat(self, worlds: Iterable[int]) -> None:
        """Draw who sits where, and who plays the opponents, in worlds whose episode begins."""
        config, num_agents = self.pool.config, self.env.num_agents
        for world in worlds:
            if config.share:
                order = torch.randperm(num_agents, generator=self.generator).numpy()
                is_opponent = order < self.count
            else:
                first = world * num_agents
                names = list(self.env.configs[self.env.tasks[world]].game.groups)
                played = [names.index(group) for group in config.groups]
                is_opponent = np.isin(self.env.groups[first : first + num_agents], played)
            if is_opponent.sum() != self.count:
                raise UsageError(f"self_play: a map has {is_opponent.sum()} opponents where {self.count} were expected")
            self.seats[world] = np.argsort(is_opponent, kind="stable")
            self.places[world] = self.pool.draw(self.generator)

    def _sides(self, episode: EpisodeSummary) -> tuple[np.ndarray, np.ndarray]:
        """The learners' and the opponents' rewards."""
        rewards = episode.rewards[self.seats[episode.world]]
        return rewards[: len(rewards) - self.count], rewards[len(rewards) - self.count :]

    def _rows(self, seats: np.ndarray) -> np.ndarray:
        """Seats as rows of the group's agents."""
        rows: np.ndarray = (seats + np.arange(len(seats))[:, None] * self.env.num_agents).ravel()
        return rows
