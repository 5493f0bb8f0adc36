"""MettaGridEnv: the vector environment, which resets and steps many worlds at once.

`tests/benchmarks/README.md` lists where the time of a step goes; `tests/benchmarks/bench_env.py` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.adapters.gymnasium_vector import Autoreset, GymnasiumVectorEnv
from metta.adapters.pettingzoo_parallel import PettingZooEnv
from metta.config.env.env_config import EnvConfig
from metta.config.plan.world_union import unite_worlds
from metta.errors import UsageError
from metta.random_streams import EpisodeSplit
from metta.spaces import ActionSpace, ObservationSpace
from metta.world.arguments import checked_actions, checked_mask, checked_order, cumulative_shares, output_array
from metta.world.episode_summary import StepInfo, episode_stats, summarize
from metta.world.episodes import EpisodeStreams, episode_ends, stagger
from metta.world.observation.action_masks import ActionMasks
from metta.world.observation.observe import CompactObservations, Observer, Window
from metta.world.observation.packed import Observations, padded_rows, token_array
from metta.world.parts.run_parts import PartRunner
from metta.world.picture import paint_world
from metta.world.render import draw_world, view_cells, view_converters
from metta.world.reset_pool import ResetPool
from metta.world.rules.actions import count_actions, run_main_phase
from metta.world.rules.combat import run_attack_phase
from metta.world.rules.custom_rules import advance_objects
from metta.world.rules.rewards import add_diversity_bonus, share_rewards
from metta.world.rules.turn_order import Turns, next_order
from metta.world.state.compiled_config import CompiledConfig
from metta.world.state.saved_state import completed, load_worlds, save_worlds
from metta.world.state.state_validation import UNKNOWN_SEED, check_streams, check_worlds
from metta.world.state.worlds import Worlds


class MettaGridEnv:
    """A vector environment of `num_worlds` worlds with `num_agents` agents each.

    Arrays have one row per agent in world-major order: row = world * num_agents + agent. Their first size, called
    `agents` below, is num_worlds * num_agents. Array properties may be overwritten by the next `step` or `reset`: copy
    arrays that must not change.

    `config` is one config or several ("tasks"), whose `spec` must be the same except for actions: `configs` then have
    the actions of all tasks, and those that a task lacks fail in it. The task of each episode is drawn with
    probabilities proportional to `task_weights`, by default uniformly.

    With `auto_reset`, a world whose episode ends starts the next one in the same step. Without it, the world continues
    past the end until `reset`.

    `first_world` is the global index of the first world. Environments with the same seed that together have the global
    indices 0 to n - 1 give the same results as one environment of n worlds.

    `split` selects maps and turn orders: "train" those of training, "validation" those of evaluations during training,
    "test" those of all other evaluations. With the same seed or another one, no two splits have a random stream in
    common.

    Raises UsageError for arguments that are out of range, ConfigError for configs that one policy cannot play.
    """

    def __init__(
        self,
        config: EnvConfig | Sequence[EnvConfig],
        num_worlds: int = 1,
        seed: int | None = None,
        first_world: int = 0,
        task_weights: Sequence[float] | None = None,
        auto_reset: bool = True,
        split: EpisodeSplit = "train",
    ):
        configs = [config] if isinstance(config, EnvConfig) else list(config)
        if not configs or num_worlds < 1 or first_world < 0:
            raise UsageError(
                f"an environment needs at least one config, num_worlds of at least 1 and first_world of at least 0; "
                f"got {len(configs)} configs, num_worlds {num_worlds}, first_world {first_world}"
            )
        self.configs = unite_worlds(configs)
        self.config = self.configs[0]
        self.spec = self.config.spec
        self.num_worlds = num_worlds
        self.num_agents = self.spec.num_agents
        self.agents = num_worlds * self.num_agents
        self.auto_reset = auto_reset
        self.single_observation_space = ObservationSpace(self.config)
        self.single_action_space = ActionSpace(self.config)
        self.observation_shape = (self.agents, self.spec.num_observation_tokens, 3)
        self._streams = EpisodeStreams(seed, first_world, split)
        self.set_task_weights([1.0] * len(configs) if task_weights is None else task_weights)
        self._build(shares_rulesets=True)
        no_observations = np.zeros((0, *self.observation_shape[1:]), np.uint8)
        self._no_episode_ended = StepInfo(np.zeros(0, np.int64), no_observations, ())
        self._was_reset = False

    def _build(self, shares_rulesets: bool) -> None:
        self._shares_rulesets = shares_rulesets
        self._worlds = Worlds(CompiledConfig(self.configs, shares_rulesets), self.num_worlds)
        self._parts = PartRunner(self._worlds) if self._worlds.compiled.parts else None
        self._observer = Observer(self._worlds, Window(self._worlds))
        self._action_masks: ActionMasks | None = None
        self._reset_pool = ResetPool(self._worlds, self._streams, self._observer.window)

    # -- episodes -----------------------------------------------------------------------------------------------

    def reset(
        self,
        seed: int | None = None,
        out: Observations | None = None,
        staggered: bool = False,
        worlds: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.uint8], StepInfo]:
        """Start a new episode in every world. With `seed`, restart the sequence of episodes from that seed.

        An environment that got no seed draws one from the operating system at its first reset; later resets continue
        the sequence. A copy of such an environment draws another seed at its next reset.

        With `staggered`, episodes start at different steps, so that they do not all end at once: in the world with
        global index n, at the fraction n * 0.618... mod 1 of the length of the episode.

        With a mask `worlds [worlds] bool`, only these worlds start a new episode; the others continue theirs, and their
        rows of `out` are not written. Raises UsageError if it is combined with `seed` or `staggered`, or before the
        first reset of all worlds.

        Returns observations `[agents, tokens, 3] uint8` (written to `out`, if given, as in `step`) and an empty
        StepInfo.
        """
        if worlds is not None:
            return self._reset_some(worlds, out, seed is None and not staggered)
        if self._streams.restart(seed):
            self._worlds.episode[:] = -1
            self._reset_pool.discard_all()
        observations = output_array(out, self.observation_shape)
        self._start_episodes(range(self.num_worlds), observations)
        if staggered:
            stagger(self._worlds, self._streams.first_world)
            self._observer.observe(None, observations)
        return token_array(observations), self._no_episode_ended

    def _reset_some(
        self, worlds: NDArray[np.bool_], out: Observations | None, is_alone: bool
    ) -> tuple[NDArray[np.uint8], StepInfo]:
        mask = checked_mask(worlds, self.num_worlds)
        if not self._was_reset or not is_alone:
            raise UsageError(
                "the seed and the staggering are those of all worlds: reset all of them first, and some later with the "
                "mask alone"
            )
        observations = output_array(out, self.observation_shape)
        if out is None:
            self._observer.observe(None, observations, is_counted=False)
        self._start_episodes(mask.nonzero()[0].tolist(), observations)
        return token_array(observations), self._no_episode_ended

    def compact_observations(self) -> CompactObservations:
        """The observations of the last `step` or `reset` in compressed sparse row format, without padding.

        A linear layer over one input per (location, feature), with `weight [256 * features, width] float32`, is

            torch.nn.functional.embedding_bag(
                indices.long(), weight, offsets[:-1], mode="sum", per_sample_weights=values.float()
            )

        for tensors `indices`, `values` and `offsets`. The result is `[agents, width] float32`. This takes a few percent
        of the time of the same layer on a dense input.
        """
        return self._observer.compact()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions each agent may take in the next step. `[agents, flat actions] bool`, as `spec.flat_actions`

        False where an action is certain to fail, whatever the turn order and whatever other agents do, as far as the
        agent's observation tells. noop is always true; without it, an agent whose actions all fail keeps the first one.
        """
        if self._action_masks is None:
            self._action_masks = ActionMasks(self._worlds, self._observer)
        return self._action_masks.compute()

    def step(
        self,
        actions: NDArray[np.integer[Any]],
        out: Observations | None = None,
        order: NDArray[np.integer[Any]] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], StepInfo]:
        """Advance every world by one step.

        `actions [agents, 2]` are integers: action id and argument. Ids and arguments that do not exist have no effect
        and are penalized. `order [agents]` has, for each world, the agent indices within the world in turn order; by
        default a random order. Returns

            observations  [agents, tokens, 3] uint8   with `auto_reset`, the first of the next episode where one ended
            rewards       [agents] float32            after sharing between agents
            terminated    [agents] bool               the episode ended by `episode_lifetime` or a termination
            truncated     [agents] bool               the episode ended by `max_steps` or a termination that truncates
            info          StepInfo                    the episodes that ended, with their final observations

        Observations are written to `out` if given: `[agents, tokens, 3] uint8`, contiguous, or PackedObservations, to
        hold them without padding; its `tokens` are then returned. Raises UsageError before the first `reset`, and for
        actions, `out` or `order` of another shape or type.
        """
        if not self._was_reset:
            raise UsageError("call reset() before the first step()")
        worlds = self._worlds
        actions = checked_actions(actions, self.agents)
        by_world = None if order is None else checked_order(order, self.num_worlds, self.num_agents)
        turns = Turns(worlds, actions, by_world)
        observations = output_array(out, self.observation_shape)

        worlds.clock += 1
        worlds.steps += 1
        worlds.success.fill(False)
        punishment = worlds.by_ruleset(worlds.compiled.rulesets.time_punishment)
        worlds.reward.reshape(self.num_worlds, -1)[...] = punishment[:, None]
        worlds.last_action[:] = actions  # modulo 256: a token value is one byte

        advance_objects(worlds)
        run_attack_phase(worlds, turns)
        run_main_phase(worlds, turns)
        count_actions(worlds, turns)
        if self._parts is not None:
            self._parts.step()
        self._observer.observe(None, observations)

        worlds.individual_rewards += worlds.reward
        rewards = share_rewards(worlds)
        terminated, truncated, ended = episode_ends(worlds)
        add_diversity_bonus(self._worlds, ended, rewards)
        worlds.returned_rewards += rewards
        info = self._finish_episodes(ended, terminated, observations) if ended.size else self._no_episode_ended
        ends = terminated.repeat(self.num_agents), truncated.repeat(self.num_agents)
        return token_array(observations), rewards, *ends, info

    def _finish_episodes(
        self, ended: NDArray[np.int64], terminated: NDArray[np.bool_], observations: Observations
    ) -> StepInfo:
        """Summarize the episodes that ended and, with `auto_reset`, start the next ones."""
        rows = self._worlds.rows_of_worlds(ended)
        info = StepInfo(
            ended_agents=rows,
            final_observations=padded_rows(observations, rows),
            episodes=summarize(self._worlds, ended, terminated),
        )
        if self.auto_reset:
            self._start_episodes(ended.tolist(), observations)
        return info

    def _start_episodes(self, ended: Sequence[int], observations: Observations) -> None:
        self._reset_pool.start_episodes(ended, self._task_shares, observations)
        self._observer.discard(ended)
        self._was_reset = True

    # -- state of the worlds ---------------------------------------------------------------------------------------

    @property
    def seed(self) -> int | None:
        """The seed of all random streams; None before the first `reset` of an environment that got no seed."""
        return self._streams.seed

    @property
    def default_seed(self) -> int:
        """The seed of evaluations, matches and experience made from this environment: the one it was given, or 0."""
        return self._streams.given_seed or 0

    @property
    def task_weights(self) -> list[float]:
        """The probability of each task. `[tasks]`"""
        return [float(share) for share in np.diff(self._task_shares, prepend=0.0)]

    @property
    def action_success(self) -> NDArray[np.bool_]:
        """Whether the last action of each agent succeeded; false at the start of an episode. `[agents] bool`"""
        return self._worlds.success

    @property
    def positions(self) -> NDArray[np.int64]:
        """(row, col) of each agent in its world. `[agents, 2] int64`"""
        return self._worlds.positions(self._worlds.cell - self._worlds.slot_start_of_agent)

    @property
    def orientations(self) -> NDArray[np.int64]:
        """Orientation of each agent: 0 up, 1 down, 2 left, 3 right. `[agents] int64`"""
        return self._worlds.orientation

    @property
    def freeze_counters(self) -> NDArray[np.int64]:
        """Number of further actions of each agent that are skipped because it is frozen. `[agents] int64`

        0: not frozen; -1: permanently frozen.
        """
        return self._worlds.freeze

    @property
    def colors(self) -> NDArray[np.int64]:
        """Color of each agent, 0 to 255. `[agents] int64`"""
        return self._worlds.color

    @property
    def inventories(self) -> NDArray[np.int16]:
        """Number of units of each item that each agent holds. `[agents, items] int16`"""
        return self._worlds.inventory

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of each agent, as an index into `config.game.groups`. `[agents] int64`"""
        return self._worlds.group_row % self._worlds.compiled.num_groups

    @property
    def individual_rewards(self) -> NDArray[np.float32]:
        """Reward of each agent in the last step before sharing, as in its last_reward token. `[agents] float32`"""
        return self._worlds.reward

    @property
    def episode_rewards(self) -> NDArray[np.float32]:
        """Sum of `individual_rewards` over the running episode. `[agents] float32`"""
        return self._worlds.individual_rewards

    @property
    def steps(self) -> NDArray[np.int64]:
        """Current step of the episode of each world. `[worlds] int64`"""
        return self._worlds.steps

    @property
    def tasks(self) -> NDArray[np.int64]:
        """Task of each world, as an index into `configs`. `[worlds] int64`"""
        return self._worlds.task

    def next_order(self) -> NDArray[np.int64]:
        """The random turn order that the next `step` uses, in the format of its argument `order`. `[agents] int64`"""
        return next_order(self._worlds).ravel()

    def cells(self, world: int = 0) -> NDArray[np.int16]:
        """The cells of a world. `[rows, cols] int16`

        0 is an empty cell, t > 0 an object of type id t, -(g + 1) an agent of group g.
        """
        return view_cells(self._worlds, world)

    def converters(self, world: int = 0) -> dict[str, NDArray[Any]]:
        """The state of the n converters of a world, in row-major order of their cells.

        `type_id [n] int64`, `position [n, 2] int64` (row, col), `is_busy [n] bool` (converting or in cooldown),
        `inventory [n, items] int16`, `states [n, states] uint8` (of registered objects, in the order of their option).
        """
        return view_converters(self._worlds, world)

    def episode_stats(self, world: int = 0) -> dict[str, Any]:
        """The statistics of the running episode of a world: counters by name, without those that are 0.

        `{"game": {name: count}, "agent": [{name: count}, ...], "converter": [{name: count}, ...]}`, with one entry per
        agent and per converter.
        """
        return episode_stats(self._worlds, world)

    def render(self, world: int = 0) -> str:
        """A text drawing of a world: objects as in drawn maps, agents as ^ v < > by orientation."""
        return draw_world(self._worlds, world)

    def render_rgb(self, world: int = 0, agent: int | None = None) -> NDArray[np.uint8]:
        """A picture of a world, with the outline of the observation window of its agent `agent`, if one is given.

        `[rows * pixels, cols * pixels, 3] uint8`, with the rows and cols of the largest map of all tasks and a square
        of 4 to 24 pixels for each cell.
        """
        return paint_world(self._worlds, world, agent)

    def feature_grid(self, world: int = 0) -> NDArray[np.uint8]:
        """The complete world as a grid of features, such as the input of a central critic. `[rows, cols, features]`

        For each cell, the values of the tokens that an observation has for it, by feature id (`spec.feature_names`),
        and 0 for features without a token; the cell of an agent also has the agent's last action, last reward and
        completion of the episode. `uint8`, with the rows and cols of the largest map of all tasks.
        """
        return self._observer.feature_grid(world)

    # -- tasks, saving, closing ---------------------------------------------------------------------------------

    def set_task_weights(self, weights: Sequence[float]) -> None:
        """Set the probabilities of the tasks of future episodes, proportional to `weights [tasks]`.

        Raises UsageError unless there is one finite weight of at least 0 per config, and their sum is positive.
        """
        self._task_shares = cumulative_shares(weights, len(self.configs))

    def state(self) -> dict[str, Any]:
        """A copy of the complete state, including random streams, for `load_state`: NumPy arrays and integers."""
        return save_worlds(self._worlds) | {
            "task_shares": self._task_shares.copy(),
            "seed": UNKNOWN_SEED if self._streams.seed is None else self._streams.seed,
            "first_world": self._streams.first_world,
            "has_begun": int(self._was_reset),
            "shares_rulesets": int(self._shares_rulesets),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise CheckpointError, naming the invalid entry, unless `load_state` can load this state."""
        state = completed(state)
        check_streams(state, len(self.configs))
        worlds, shares_rulesets = self._worlds, bool(state["shares_rulesets"])
        if shares_rulesets != self._shares_rulesets:
            worlds = Worlds(CompiledConfig(self.configs, shares_rulesets), self.num_worlds)
        check_worlds(worlds, state)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state of an environment with the same configs and number of worlds; arrays may also be tensors.

        Raises CheckpointError, and leaves the environment unchanged, if the state does not fit.
        """
        self.check_state(state)
        state = completed(state)
        if bool(state["shares_rulesets"]) != self._shares_rulesets:
            self._build(not self._shares_rulesets)
        load_worlds(self._worlds, state)
        self._task_shares = np.array(state["task_shares"], np.float64)
        seed = int(state["seed"])
        known_seed = None if seed == UNKNOWN_SEED else seed
        self._streams = EpisodeStreams(known_seed, int(state["first_world"]), self._streams.split)
        self._reset_pool = ResetPool(self._worlds, self._streams, self._observer.window)
        self._was_reset = bool(state["has_begun"])
        self._observer.rebuild()

    def close(self) -> None:
        """Has no effect, since the environment holds no external resources."""

    # -- interfaces of other libraries -----------------------------------------------------------------------------

    def to_gymnasium_vector(
        self,
        autoreset_mode: Autoreset | None = None,
        render_mode: str | None = "ansi",
        flat_actions: bool = False,
        action_masks: bool = False,
    ) -> GymnasiumVectorEnv:
        """This environment as a Gymnasium vector environment with one sub-environment per agent.

        The arguments are those of `GymnasiumVectorEnv`. `auto_reset` is set to fit `autoreset_mode`.
        """
        return GymnasiumVectorEnv(self, autoreset_mode, render_mode, flat_actions, action_masks)

    def to_pettingzoo(
        self, render_mode: str | None = "ansi", flat_actions: bool = False, action_masks: bool = False
    ) -> PettingZooEnv:
        """This environment as a PettingZoo parallel environment; `auto_reset` is set to false.

        The arguments are those of `PettingZooEnv`. Raises UsageError if this environment has more than one world, or if
        PettingZoo is not installed.
        """
        return PettingZooEnv(self, render_mode, flat_actions, action_masks)
