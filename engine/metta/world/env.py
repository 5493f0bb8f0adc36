"""The vector env: many worlds, stepped at once, each agent one row of every array.

**What bounds it.** A step costs 105 to 210 microseconds of NumPy calls, however few agents there are, and from about a
thousand agents on 0.5 to 1.2 microseconds an agent, statistics included: one machine gave both, on different
days. So shares tell more. In percent of a step, 1,024 agents in 16 worlds and 64 in one (64 x 64 maps, window
11 x 11, 200 tokens, random actions; lower tenth of 600 steps):

    observations 72, 43 | attacks 6, 15 | moves and swaps 5, 11 | the rest of the second pass 5, 10
    reading turns 1, 3 | sorting them 1, 2 | counting actions 2, 3 | converters, rewards 0, 1 | other 7, 10

So what counts is passes over tokens and window cells, for few agents the number of calls: see observe.py. Turns are
cheap because almost nobody is in anybody's way: see turns.py. That each of 64 worlds on open floors ends once costs 5
to 19 steps of them all, the fewer the more agents a world has, one by one no more than together: see
next_episodes.py; maps that take long to draw cost more: see maps.py. `tests/benchmarks/bench_env.py` measures all this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from metta.adapters.gymnasium_vector import GymnasiumVectorEnv
from metta.adapters.pettingzoo_parallel import PettingZooEnv
from metta.config.env.env_config import EnvConfig
from metta.errors import UsageError
from metta.spaces import ActionSpace, ObservationSpace
from metta.world.episodes import Streams
from metta.world.observation.observe import NO_TOKEN, CompactObservations, Observer, Window
from metta.world.render import draw_world, view_cells, view_converters
from metta.world.reset_pool import ResetPool, rows_of
from metta.world.rules.actions import count_actions, run_main_phase
from metta.world.rules.combat import run_attack_phase
from metta.world.rules.converters import advance_converters
from metta.world.rules.rewards import diversity_factor, share_rewards
from metta.world.rules.turn_order import Turn, next_order
from metta.world.state.compiled_config import NEVER, CompiledConfig
from metta.world.state.saved_state import completed, load_worlds, save_worlds
from metta.world.state.state_validation import check_streams, check_worlds
from metta.world.state.worlds import Worlds
from metta.world.episode_summary import StepInfo, episode_stats, summarize

GOLDEN_RATIO: Final = 0.6180339887498949
"""Its multiples modulo 1 lie as evenly between 0 and 1 as those of any number, however many there are (Knuth 6.4)."""


class MettaGridEnv:
    """Worlds of one config, or of several tasks that a policy cannot tell apart by their shapes (equal `spec`).

    Rows of every array are agents, world-major: row = world * num_agents + agent. Where an episode ends, the next one
    begins in the same step (with `auto_reset`; without, the world goes on past its end until `reset`).

    `first_world` is the global index of this batch's first world: two batches with the same seed that together cover
    worlds 0 to n give what one batch of n gives.
    """

    def __init__(
        self,
        config: EnvConfig | Sequence[EnvConfig],
        num_worlds: int = 1,
        seed: int = 0,
        first_world: int = 0,
        task_weights: Sequence[float] | None = None,
        auto_reset: bool = True,
    ):
        configs = [config] if isinstance(config, EnvConfig) else list(config)
        if not configs or num_worlds < 1 or first_world < 0:
            raise UsageError("an environment needs at least one config and one world, and indices from 0")
        self.configs = tuple(configs)
        self.config = configs[0]
        self.spec = self.config.spec
        self.num_worlds = num_worlds
        self.num_agents = self.spec.num_agents
        self.agents = num_worlds * self.num_agents
        self.auto_reset = auto_reset
        self.single_observation_space = ObservationSpace(self.config)
        self.single_action_space = ActionSpace(self.config)
        self.observation_shape = (self.agents, self.spec.num_observation_tokens, 3)
        self._streams = Streams(_checked_seed(seed), first_world)
        self.set_task_weights([1.0] * len(configs) if task_weights is None else task_weights)
        self._build(shares_rulesets=True)
        self._nothing_ended = StepInfo(np.zeros(0, np.int64), np.zeros((0, *self.observation_shape[1:]), np.uint8), ())
        self._has_begun = False

    def _build(self, shares_rulesets: bool) -> None:
        self._shares_rulesets = shares_rulesets
        self._worlds = Worlds(CompiledConfig(self.configs, shares_rulesets), self.num_worlds)
        self._observer = Observer(self._worlds, Window(self._worlds))
        self._next_episodes = ResetPool(self._worlds, self._streams, self._observer.window)

    # -- episodes -----------------------------------------------------------------------------------------------

    def reset(
        self, seed: int | None = None, out: NDArray[np.uint8] | None = None, staggered: bool = False
    ) -> tuple[NDArray[np.uint8], StepInfo]:
        """Begin a new episode in every world; with `seed`, the first one of that seed.

        `staggered` worlds begin at different steps of an episode, so that these do not all end at once: world n with
        the fraction n * 0.618... mod 1 of its steps behind it, by its global index, which spreads any number evenly.

        Returns observations `[agents, tokens, 3] uint8` (written to `out` if given) and an empty StepInfo.
        """
        if seed is not None:
            self._streams.seed = _checked_seed(seed)
            self._worlds.episode[:] = -1
            self._next_episodes.forget()
        observations = self._output(out)
        self._begin(range(self.num_worlds), observations)
        if staggered:
            self._stagger(observations)
        return observations, self._nothing_ended

    def compact_observations(self) -> CompactObservations:
        """The observations of the last `step` or `reset` once more, without padding: see CompactObservations.

        A first layer over (location, feature) takes them as they are, at some percent of what a box of features costs:
        with a `table [256 * features, width]`, `torch.nn.functional.embedding_bag(indices, table, offsets[:-1],
        mode="sum", per_sample_weights=values)` is `[agents, width]` (indices and offsets as one type, values as the
        table's).
        """
        return self._observer.compact()

    def step(
        self,
        actions: NDArray[np.integer[Any]],
        out: NDArray[np.uint8] | None = None,
        order: NDArray[np.integer[Any]] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], StepInfo]:
        """One step of every world.

        `actions [agents, 2]`, any integers: action id and argument. `order [agents]` gives, world by world, the agent
        at each place of the turn order; without it the order is drawn. Returns

            observations  [agents, tokens, 3] uint8   where an episode ended, the first of the next one
            rewards       [agents] float32
            terminated    [agents] bool               the lifetime is over: nothing comes after
            truncated     [agents] bool               cut by max_steps: more would have come
            info          StepInfo                    the episodes that ended, with their final observations

        Observations are written to `out` if given (`[agents, tokens, 3] uint8`, contiguous).
        """
        if not self._has_begun:
            raise UsageError("call reset() before the first step()")
        worlds = self._worlds
        wanted = self._checked(actions)
        turn = Turn(worlds, wanted, order)
        observations = self._output(out)

        worlds.clock += 1
        worlds.steps += 1
        worlds.success[:] = False
        worlds.reward[:] = worlds.compiled.rulesets.time_punishment[worlds.ruleset].repeat(self.num_agents)
        worlds.last_action[:] = wanted  # their low bytes

        advance_converters(worlds)
        run_attack_phase(worlds, turn)
        run_main_phase(worlds, turn)
        count_actions(worlds, turn)
        self._observer.observe(None, observations)

        worlds.individual_rewards += worlds.reward
        rewards = share_rewards(worlds)
        terminated, truncated, ended = self._endings()
        self._add_diversity_bonus(ended, rewards)
        worlds.returned_rewards += rewards
        info = self._end(ended, terminated, observations) if ended.size else self._nothing_ended
        return observations, rewards, terminated.repeat(self.num_agents), truncated.repeat(self.num_agents), info

    def _endings(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
        """Which worlds are terminated and which truncated, `[worlds]`; and those whose episode ended in this step.

        No world is both. One that was not reset when it ended stays what it is.
        """
        worlds, rulesets = self._worlds, self._worlds.compiled.rulesets
        last_step = rulesets.last_step[worlds.ruleset]
        is_over = worlds.steps >= last_step
        if not np.count_nonzero(is_over):
            return is_over, is_over, self._nothing_ended.ended_agents
        terminated = is_over & rulesets.terminates[worlds.ruleset]
        return terminated, is_over & ~terminated, (worlds.steps == last_step).nonzero()[0]

    def _add_diversity_bonus(self, ended: NDArray[np.int64], rewards: NDArray[np.float32]) -> None:
        for world in ended.tolist():
            if self.configs[int(self._worlds.task[world])].game.diversity_bonus_enabled:
                rows = slice(world * self.num_agents, (world + 1) * self.num_agents)
                rewards[rows] *= diversity_factor(self._worlds, world).astype(np.float32)

    def _end(
        self, ended: NDArray[np.int64], terminated: NDArray[np.bool_], observations: NDArray[np.uint8]
    ) -> StepInfo:
        """Sum up the episodes that ended and begin the next ones, with their observations in place of the last."""
        rows = rows_of(ended, self.num_agents)
        info = StepInfo(
            ended_agents=rows,
            final_observations=observations[rows],
            episodes=summarize(self._worlds, ended, terminated),
        )
        if self.auto_reset:
            self._begin(ended.tolist(), observations)
        return info

    def _begin(self, ended: Sequence[int], observations: NDArray[np.uint8]) -> None:
        self._next_episodes.begin(ended, self._task_shares, observations)
        self._observer.forget(ended)
        self._has_begun = True

    def _stagger(self, observations: NDArray[np.uint8]) -> None:
        """Let each episode that has just begun be at another step, as tokens show; one that never ends stays at 0."""
        worlds = self._worlds
        last_step = worlds.compiled.rulesets.last_step[worlds.ruleset]
        fractions = (self._streams.first_world + np.arange(self.num_worlds)) * GOLDEN_RATIO % 1.0
        worlds.first_step[:] = np.where(last_step == NEVER, 0, fractions * last_step)
        worlds.steps[:] = worlds.first_step
        worlds.tokens_written[:] = worlds.tokens_dropped[:] = 0  # those seen before are seen by nobody
        self._observer.observe(None, observations)

    # -- what can be read ---------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """What all streams are derived from, with the global index of each world."""
        return self._streams.seed

    @property
    def task_weights(self) -> list[float]:
        """How often each task is drawn, as shares of 1."""
        return [float(share) for share in np.diff(self._task_shares, prepend=0.0)]

    @property
    def action_success(self) -> NDArray[np.bool_]:
        """Whether each agent's last action succeeded. `[agents]`; false in a world that has just begun."""
        return self._worlds.success

    @property
    def positions(self) -> NDArray[np.int64]:
        """(row, col) of each agent in its world. `[agents, 2]`"""
        return self._worlds.positions(self._worlds.cell - self._worlds.world_start)

    @property
    def orientations(self) -> NDArray[np.int64]:
        """0 up, 1 down, 2 left, 3 right. `[agents]`"""
        return self._worlds.orientation

    @property
    def freeze_counters(self) -> NDArray[np.int64]:
        """Actions each agent still loses, -1: all to come. `[agents]`; frozen is not 0."""
        return self._worlds.freeze

    @property
    def colors(self) -> NDArray[np.int64]:
        """`[agents]`"""
        return self._worlds.color

    @property
    def inventories(self) -> NDArray[np.int16]:
        """Amounts by item id. `[agents, items]`"""
        return self._worlds.inventory

    @property
    def groups(self) -> NDArray[np.int64]:
        """Each agent's group, by its place in `config.game.groups`. `[agents]`"""
        return self._worlds.group_row % self._worlds.compiled.num_groups

    @property
    def individual_rewards(self) -> NDArray[np.float32]:
        """Each agent's reward of the last step before sharing, as its last_reward token shows it. `[agents]`"""
        return self._worlds.reward

    @property
    def episode_rewards(self) -> NDArray[np.float32]:
        """Each agent's individual reward in the running episode. `[agents]`"""
        return self._worlds.individual_rewards

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps taken in each world's running episode. `[worlds]`"""
        return self._worlds.steps

    @property
    def tasks(self) -> NDArray[np.int64]:
        """Index in `configs` of each world's running task. `[worlds]`"""
        return self._worlds.task

    def next_order(self) -> NDArray[np.int64]:
        """The turn order that the next `step` draws if it is given none, as it takes one. `[agents]`"""
        return next_order(self._worlds).ravel()

    def cells(self, world: int = 0) -> NDArray[np.int16]:
        """What stands where, encoded as by `build_map`. `[rows, cols] int16`"""
        return view_cells(self._worlds, world)

    def converters(self, world: int = 0) -> dict[str, NDArray[Any]]:
        """The converters of a world in row-major order of the map.

        `type_id [n]`, `position [n, 2]`, `is_busy [n]` (converting or cooling), `inventory [n, items]`.
        """
        return view_converters(self._worlds, world)

    def episode_stats(self, world: int = 0) -> dict[str, Any]:
        """The counters of a world's running episode by the names of SEMANTICS section 11; those that are 0 left out.

        `{"game": {name: count}, "agent": [{...}], "converter": [{...}]}`
        """
        return episode_stats(self._worlds, world)

    def render(self, world: int = 0) -> str:
        """A world as text: the glyphs of maps, agents as ^ v < > by where they face."""
        return draw_world(self._worlds, world)

    # -- tasks, saving, closing ---------------------------------------------------------------------------------

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """How often each task is drawn when a world begins an episode; only proportions count."""
        shares = np.cumsum(np.asarray(weights, np.float64))
        if len(shares) != len(self.configs) or min(weights) < 0 or shares[-1] <= 0:
            raise UsageError(f"task weights must be {len(self.configs)} numbers from 0, not all 0; got {list(weights)}")
        self._task_shares = shares / shares[-1]

    def state(self) -> dict[str, Any]:
        """Everything, streams and running episodes included, as arrays and integers: see `load_state`."""
        return save_worlds(self._worlds) | {
            "task_shares": self._task_shares.copy(),
            "seed": self._streams.seed,
            "first_world": self._streams.first_world,
            "has_begun": int(self._has_begun),
            "shares_rulesets": int(self._shares_rulesets),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise CheckpointError, naming the part, unless `load_state` can load this state."""
        state = completed(state)
        check_streams(state, len(self.configs))
        shares_rulesets = bool(state["shares_rulesets"])
        is_ours = shares_rulesets == self._shares_rulesets
        check_worlds(
            self._worlds if is_ours else Worlds(CompiledConfig(self.configs, shares_rulesets), self.num_worlds), state
        )

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state()` was taken, in an env of the same configs and number of worlds.

        Raises CheckpointError, with nothing changed, where the state does not fit.
        """
        self.check_state(state)
        state = completed(state)
        if bool(state["shares_rulesets"]) != self._shares_rulesets:
            self._build(not self._shares_rulesets)
        load_worlds(self._worlds, state)
        self._task_shares = np.array(state["task_shares"], np.float64)
        self._streams = Streams(int(state["seed"]), int(state["first_world"]))
        self._next_episodes = ResetPool(self._worlds, self._streams, self._observer.window)
        self._has_begun = bool(state["has_begun"])
        self._observer.redraw()

    def close(self) -> None:
        """Nothing is held open; here for the custom of it."""

    # -- as other libraries know it -----------------------------------------------------------------------------

    def to_gymnasium_vector(self) -> GymnasiumVectorEnv:
        """These worlds as a Gymnasium vector env with an agent in each row."""
        return GymnasiumVectorEnv(self)

    def to_pettingzoo(self) -> PettingZooEnv:
        """This world as a PettingZoo parallel env; needs the extra `pettingzoo`, and raises UsageError without."""
        return PettingZooEnv(self)

    # -- at the door --------------------------------------------------------------------------------------------

    def _checked(self, actions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        given = np.asarray(actions)
        if given.shape != (self.agents, 2) or given.dtype.kind not in "iu":
            raise UsageError(
                f"actions must be integers [agents, 2] = [{self.agents}, 2]; got {given.dtype} {list(given.shape)}"
            )
        return given.astype(np.int64, copy=False)

    def _output(self, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        if out is None:
            return np.full(self.observation_shape, NO_TOKEN, np.uint8)
        if out.shape != self.observation_shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise UsageError(
                f"out must be contiguous uint8 {list(self.observation_shape)}; got {out.dtype} {list(out.shape)}"
            )
        return out


def _checked_seed(seed: int) -> int:
    if seed < 0:
        raise UsageError(f"a seed must be 0 or more; got {seed}")
    return seed


def make_environment(env_config: EnvConfig | None = None, **overrides: Any) -> MettaGridEnv:
    """One world of `env_config` (default: all defaults), with single values replaced by name."""
    if not isinstance(env_config, EnvConfig | None):
        raise UsageError(
            f"env_config must be an EnvConfig; got a {type(env_config).__name__}: "
            "EnvConfig.model_validate makes one of a dictionary, load_config(...).env of a TOML file"
        )
    config = EnvConfig() if env_config is None else env_config
    return MettaGridEnv(config.override(**overrides) if overrides else config)
