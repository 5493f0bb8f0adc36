"""`metta check`: the numbers derived from a config, with reasons, and warnings about settings without effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from metta.config.batch_plan import BatchPlan, plan_batch
from metta.config.curriculum import AnyCurriculum, CurriculumConfig, ProgressiveConfig
from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import MapBuilder, RoomsConfig, walk_builders
from metta.config.loading.curriculum_tasks import Tasks, evaluation_world, fixed_probabilities
from metta.config.loading.load import dump_config, load_tasks
from metta.config.plan.memory_estimate import memory_parts, size
from metta.config.run import RunConfig
from metta.config.self_play import num_opponents

TASKS_SHOWN = 8


@dataclass(frozen=True)
class Derived:
    """A number derived from the config, or a warning."""

    name: str
    value: str
    reason: str
    is_warning: bool = False


def derived(config: RunConfig) -> list[Derived]:
    """All numbers derived from the config, in the order of the training pipeline, with warnings in between.

    Raises ConfigError if the tasks of the curriculum are invalid.
    """
    tasks = load_tasks(config)
    scenes = {scene: task for task, scene in reversed(list(enumerate(tasks.scene_of)))}
    worlds = {name: tasks.env_configs[scenes[index]] for index, name in enumerate(config.curriculum.scenes or [""])}
    first = tasks.env_configs[0]
    plan = plan_batch(config.experience, first.game.num_agents, num_opponents(config.self_play, first))
    return [
        *(row for scene, env in worlds.items() for row in _world(scene, env, bool(config.curriculum.buckets))),
        *_tasks(config, tasks),
        *_collection(config, plan),
        *_learning(config, plan),
        *_memory(config, first),
    ]


def check_text(config: RunConfig) -> str:
    """The config with every value as TOML, then the derived numbers as TOML comments; together a valid config."""
    rows = derived(config)
    names = max(len(row.name) for row in rows)
    values = max(len(row.value) for row in rows)
    lines = [
        f"# warning: {row.reason}" if row.is_warning else f"# {row.name:<{names}}  {row.value:>{values}}  {row.reason}"
        for row in rows
    ]
    return "\n".join([dump_config(config).rstrip("\n"), "", "# Derived from this config", *lines])


def _world(scene: str, env: EnvConfig, has_buckets: bool) -> Iterator[Derived]:
    game, builder, spec = env.game, env.map_builder, env.spec
    if scene:
        yield Derived("scene", scene, "its first task" if has_buckets else "one of the scenes drawn at each reset")
    yield Derived("map", f"{game.height} x {game.width}", f"rows x cols: {_builder_text(builder)}")
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
            f"episode_lifetime = {game.episode_lifetime} ends it earlier"
        )
    window = game.observation_height * game.observation_width
    yield Derived(
        "observation",
        f"{game.num_observation_tokens} x 3",
        f"tokens x bytes, for {window} cells and {len(spec.feature_names)} features",
    )
    yield Derived(
        "actions",
        f"{len(spec.flat_actions)}",
        f"(action, argument) pairs of {len(spec.action_names)} actions",
    )


def _builder_text(builder: MapBuilder) -> str:
    """The map builder and the types of builders nested in it."""
    if isinstance(builder, RoomsConfig) and builder.room:
        return f"{builder.rows} x {builder.cols} rooms and walls between them"
    inside = sorted({part.type for path, part, _ in walk_builders(builder) if path})
    return f'map builder "{builder.type}"' + (f", of {', '.join(inside)}" if inside else "")


def _tasks(config: RunConfig, tasks: Tasks) -> Iterator[Derived]:
    """The number of tasks, and the probabilities of the first ones when training starts."""
    curriculum, count = config.curriculum, len(tasks.names)
    if count == 1:
        if not isinstance(curriculum, CurriculumConfig):
            yield _warning(f'curriculum.type = "{curriculum.type}" has no effect: there is only one task')
        return
    yield Derived("tasks", f"{count:,}", f"{_count(max(tasks.scene_of) + 1, 'scene')}{_bins(curriculum)}")
    is_env = evaluation_world(config.env, tasks.scenes) == config.env
    yield Derived(
        "evaluation world",
        "[env]" if is_env else tasks.scenes[-1][0],
        "of this file" if is_env else "the last scene: [env] is not set, or a policy of the scenes cannot play it",
    )
    if isinstance(curriculum, ProgressiveConfig):
        probabilities = [1.0] + [0.0] * (count - 1)
    elif isinstance(curriculum, CurriculumConfig):
        probabilities = fixed_probabilities(curriculum, tasks.scene_of)
    else:
        probabilities = [1 / count] * count
    for name, probability in list(zip(tasks.names, probabilities, strict=True))[:TASKS_SHOWN]:
        yield Derived("task", f"{100 * probability:.3g} %", f"of resets, initially: {name}")
    if count > TASKS_SHOWN:
        yield Derived("more tasks", f"{count - TASKS_SHOWN:,}", f"up to {tasks.names[-1]}")


def _bins(curriculum: AnyCurriculum) -> str:
    counts = [f"{len(bucket.values) or bucket.bins} of {key}" for key, bucket in curriculum.buckets.items()]
    return "".join(f" x {count}" for count in counts)


def _collection(config: RunConfig, plan: BatchPlan) -> Iterator[Derived]:
    experience = config.experience
    yield Derived(
        "worlds",
        f"{plan.num_worlds:,}",
        f"at most {experience.forward_pass_minibatch_target_size:,} agents per forward pass x async_factor "
        f"{experience.async_factor}, and {experience.batch_size // experience.bptt_horizon:,} segments per batch",
    )
    if plan.num_opponents:
        yield Derived(
            "learners per world",
            f"{plan.num_learners:,}",
            f"{plan.num_agents} agents - {plan.num_opponents} that frozen policies control",
        )
    yield Derived("agents", f"{plan.agents:,}", f"{plan.num_worlds:,} worlds x {plan.num_learners}")
    yield Derived("world batches", f"{plan.num_world_batches}", "that step in turn: async_factor")
    if plan.num_world_batches < experience.async_factor:
        yield _warning(
            f"experience.async_factor = {experience.async_factor} is reduced to {plan.num_world_batches}: "
            f"there {'is' if plan.num_worlds == 1 else 'are'} only {_count(plan.num_worlds, 'world')}"
        )
    yield Derived(
        "agents per forward pass",
        f"{-(-plan.num_worlds // plan.num_world_batches) * plan.num_learners:,}",
        "at most: those of one world batch",
    )
    yield Derived("segments per agent", f"{plan.segments_per_agent:,}", f"of {plan.horizon} steps, per epoch")
    yield Derived(
        "segments", f"{plan.segments:,}", f"{plan.agents:,} agents x {plan.segments_per_agent} segments per agent"
    )
    yield Derived("steps per epoch", f"{plan.batch_size:,}", f"{plan.segments:,} segments x {plan.horizon} steps")
    if plan.batch_size < experience.batch_size:
        yield _warning(
            f"experience.batch_size = {experience.batch_size:,} is rounded down to {plan.batch_size:,}: "
            f"{plan.num_worlds:,} whole worlds x {plan.num_learners} agents x {plan.segments_per_agent} segments "
            f"x {plan.horizon} steps"
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
            f"agent.bptt_horizon = {config.agent.bptt_horizon} has no effect: "
            f"segments have experience.bptt_horizon = {experience.bptt_horizon} steps"
        )
    if config.lr_schedule.warmup_steps is not None and config.lr_schedule.warmup_steps >= config.run.total_timesteps:
        yield _warning(
            f"lr_schedule.warmup_steps = {config.lr_schedule.warmup_steps:,} exceeds the run of "
            f"{config.run.total_timesteps:,} steps: the learning rate never reaches its full value"
        )


def _memory(config: RunConfig, env: EnvConfig) -> Iterator[Derived]:
    parts = memory_parts(config, env.spec, env.game.height * env.game.width)
    where = "in host memory" if config.experience.cpu_offload else "in device memory"
    for part in parts:
        is_experience = part.name == "experience"
        name = part.name if is_experience else f"memory of {part.name}"
        yield Derived(name, size(part.bytes), f"{where}: {part.reason}" if is_experience else part.reason)
    yield Derived("memory in total", size(sum(part.bytes for part in parts)), "without Python and PyTorch")


def _warning(reason: str) -> Derived:
    return Derived("", "", reason, is_warning=True)


def _count(count: int, entity: str) -> str:
    return f"{count:,} {entity}{'' if count == 1 else 's'}"
