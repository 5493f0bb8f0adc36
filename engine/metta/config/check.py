"""What follows from a config: every derived number with its reason, and what is allowed but probably not meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from metta.config.batch import BatchPlan, plan_batch
from metta.config.env import EnvConfig
from metta.config.load import dump_config, load_config
from metta.config.map_builder import RoomsConfig
from metta.config.run import RunConfig, batch_fits
from metta.errors import ConfigError


@dataclass(frozen=True)
class Derived:
    """A number that the config implies, or a warning about it."""

    name: str
    value: str
    reason: str
    is_warning: bool = False


def derived(config: RunConfig) -> list[Derived]:
    """Every number that follows from the config, in the order of the pipeline, each followed by its warnings.

    Raises UsageError or ConfigError if a scene of the curriculum cannot be had.
    """
    worlds = {scene: load_config(scene).env for scene in config.curriculum.scenes} or {"": config.env}
    played = next(iter(worlds.values()))
    if problems := batch_fits(config.experience, played.game.num_agents):
        raise ConfigError("the experience of these scenes", problems)
    plan = plan_batch(config.experience, played.game.num_agents)
    return [
        *(row for scene, env in worlds.items() for row in _world(scene, env)),
        *_collection(config, plan),
        *_learning(config, plan),
        *_memory(config, plan, played.game.num_observation_tokens),
    ]


def check_text(config: RunConfig) -> str:
    """The config with every value as TOML, then what follows from it as TOML comments: valid input as a whole."""
    rows = derived(config)
    names = max(len(row.name) for row in rows)
    values = max(len(row.value) for row in rows)
    lines = [
        f"# warning: {row.reason}" if row.is_warning else f"# {row.name:<{names}}  {row.value:>{values}}  {row.reason}"
        for row in rows
    ]
    return "\n".join([dump_config(config).rstrip("\n"), "", "# What follows from it", *lines])


def experience_bytes(config: RunConfig, plan: BatchPlan, tokens: int) -> int:
    """Bytes of one epoch's experience, observations of so many tokens above all."""
    steps = plan.rounds * plan.horizon
    observed = (steps + 1) * plan.agents * (tokens * 3 + 1)
    decided = steps * plan.agents * (8 + 5 * 4 + 2) + plan.agents * 4
    memory = 2 * plan.rounds * config.agent.lstm_layers * plan.agents * config.agent.hidden_dim * 4
    return observed + decided + (memory if config.agent.forward_lstm else 0)


def _world(scene: str, env: EnvConfig) -> Iterator[Derived]:
    game, builder, spec = env.game, env.map_builder, env.spec
    if scene:
        yield Derived("scene", scene, "drawn by curriculum.weights at each reset")
    of = (
        f"{builder.rows} x {builder.cols} rooms and the walls between them"
        if isinstance(builder, RoomsConfig)
        else f'map builder "{builder.type}"'
    )
    yield Derived("map", f"{game.height} x {game.width}", f"rows x cols: {of}")
    yield Derived("agents per world", f"{game.num_agents:,}", f"in {_count(len(game.groups), 'group')}")
    ends = {"max_steps, truncated": game.max_steps, "episode_lifetime, terminated": game.episode_lifetime}
    ends = {name: steps for name, steps in ends.items() if steps}
    if ends:
        first = min(ends, key=lambda name: ends[name])
        yield Derived("episode", f"{ends[first]:,}", f"steps: {first}")
    else:
        yield _warning("episodes never end: env.game.max_steps and env.game.episode_lifetime are both 0")
    if 0 < game.episode_lifetime <= game.max_steps:
        yield _warning(
            f"env.game.max_steps = {game.max_steps} never truncates an episode: "
            f"episode_lifetime = {game.episode_lifetime} ends it before"
        )
    window = game.observation_height * game.observation_width
    yield Derived(
        "observation",
        f"{game.num_observation_tokens} x 3",
        f"tokens x bytes, of {window} cells and {len(spec.feature_names)} features",
    )
    yield Derived(
        "actions",
        f"{len(spec.action_pairs)}",
        f"pairs of an action and its argument, of {len(spec.action_names)} actions",
    )


def _collection(config: RunConfig, plan: BatchPlan) -> Iterator[Derived]:
    experience = config.experience
    yield Derived(
        "worlds",
        f"{plan.num_worlds:,}",
        f"at most {experience.forward_pass_minibatch_target_size:,} agents a forward pass x async_factor "
        f"{experience.async_factor}, and {experience.batch_size // experience.bptt_horizon:,} segments in a batch",
    )
    yield Derived("agents", f"{plan.agents:,}", f"{plan.num_worlds:,} worlds x {plan.num_agents}")
    yield Derived("groups", f"{plan.num_groups}", "parts of the worlds that step in turn: async_factor")
    if plan.num_groups < experience.async_factor:
        yield _warning(
            f"experience.async_factor = {experience.async_factor} acts as {plan.num_groups}: "
            f"there {'is' if plan.num_worlds == 1 else 'are'} only {_count(plan.num_worlds, 'world')}"
        )
    yield Derived(
        "agents per forward pass",
        f"{-(-plan.num_worlds // plan.num_groups) * plan.num_agents:,}",
        "at most: a group's worlds",
    )
    yield Derived("rounds", f"{plan.rounds:,}", f"segments of {plan.horizon} steps each agent plays per epoch")
    yield Derived("segments", f"{plan.segments:,}", f"{plan.agents:,} agents x {plan.rounds} rounds")
    yield Derived("steps per epoch", f"{plan.batch_size:,}", f"{plan.segments:,} segments x {plan.horizon} steps")
    if plan.batch_size < experience.batch_size:
        yield _warning(
            f"experience.batch_size = {experience.batch_size:,} asked, {plan.batch_size:,} collected: "
            f"{plan.num_worlds:,} whole worlds x {plan.num_agents} agents x {plan.rounds} rounds x {plan.horizon} steps"
        )


def _learning(config: RunConfig, plan: BatchPlan) -> Iterator[Derived]:
    experience = config.experience
    epochs = -(-config.run.total_timesteps // plan.batch_size)
    updates = plan.num_minibatches * experience.update_epochs
    yield Derived(
        "minibatches",
        f"{plan.num_minibatches:,}",
        f"batch_size {experience.batch_size:,} / {experience.minibatch_size:,}",
    )
    yield Derived(
        "gradient steps per epoch",
        f"{updates:,}",
        f"{plan.num_minibatches} minibatches x update_epochs {experience.update_epochs}",
    )
    yield Derived(
        "epochs", f"{epochs:,}", f"total_timesteps {config.run.total_timesteps:,} / {plan.batch_size:,}, rounded up"
    )
    yield Derived("gradient steps", f"{epochs * updates:,}", "in the whole run")
    if config.run.total_timesteps < plan.batch_size:
        yield _warning(
            f"run.total_timesteps = {config.run.total_timesteps:,} is less than one epoch of {plan.batch_size:,} steps"
        )
    if config.ppo.gamma < 1:
        yield Derived(
            "discount horizon", f"{1 / (1 - config.ppo.gamma):,.0f}", f"steps: 1 / (1 - gamma {config.ppo.gamma:g})"
        )
    if config.agent.forward_lstm and config.agent.bptt_horizon > experience.bptt_horizon:
        yield _warning(
            f"agent.bptt_horizon = {config.agent.bptt_horizon} cuts nothing: "
            f"segments have experience.bptt_horizon = {experience.bptt_horizon} steps"
        )
    if config.lr_schedule.warmup_steps is not None and config.lr_schedule.warmup_steps >= config.run.total_timesteps:
        yield _warning(
            f"lr_schedule.warmup_steps = {config.lr_schedule.warmup_steps:,} outlasts the run of "
            f"{config.run.total_timesteps:,} steps: the learning rate never gets to its full value"
        )


def _memory(config: RunConfig, plan: BatchPlan, tokens: int) -> Iterator[Derived]:
    where = "host memory" if config.experience.cpu_offload else "the device's memory"
    yield Derived("experience", _size(experience_bytes(config, plan, tokens)), f"in {where}: {plan.batch_size:,} steps")


def _warning(reason: str) -> Derived:
    return Derived("", "", reason, is_warning=True)


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _size(size: float) -> str:
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size >= 1000:
            size, unit = size / 1024, larger
    return f"{size:,.3g} {unit}"
