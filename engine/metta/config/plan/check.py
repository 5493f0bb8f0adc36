"""`metta check`: the numbers derived from a config, with reasons, and warnings about settings without effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from metta.config.agent import DEFAULT_MEMORY_WINDOW
from metta.config.batch_plan import BatchPlan
from metta.config.curriculum import AnyCurriculum, CurriculumConfig, ProgressiveConfig
from metta.config.env.env_config import EnvConfig
from metta.config.env.map_builder import MapBuilder, RoomsConfig, walk_builders
from metta.config.loading.curriculum_tasks import Tasks, evaluation_world, fixed_probabilities
from metta.config.loading.load import dump_config, load_tasks
from metta.config.plan.memory_estimate import memory_parts, size
from metta.config.plan.network_size import num_weights
from metta.config.plan.worker_count import worker_count
from metta.config.policies import PolicySettings, by_table, joint_plan, num_agents_of, num_learners_of, plan_of
from metta.config.run import RunConfig, config_of_policy, policy_settings

TASKS_SHOWN = 8


@dataclass(frozen=True)
class Derived:
    """A number derived from the config, or a warning."""

    name: str
    value: str
    """the number as text, with its unit if it is in bytes"""
    reason: str
    is_warning: bool = False
    number: float | None = None
    """the number, in bytes for memory; None for a text"""


def derived(config: RunConfig, weights: Mapping[str, int] | None = None) -> list[Derived]:
    """All numbers derived from the config, in the order of the training pipeline, with warnings in between.

    `weights` is the number of weights of each policy, by its name; by default it follows from the config, see
    `num_weights`. Raises ConfigError if the tasks of the curriculum are invalid.
    """
    tasks = load_tasks(config)
    first = tasks.env_configs[0]
    policies = policy_settings(config, first)
    plan = joint_plan(config.experience, policies, first)
    if weights is None:
        weights = {policy.name: num_weights(policy.agent, first.spec) for policy in policies}
    return [
        *(
            row
            for scene, env in dict(tasks.scenes).items()
            for row in _world(scene if config.curriculum.scenes else "", env)
        ),
        *_tasks(config, tasks, are_masked=all(policy.agent.mask_actions for policy in policies)),
        *_collection(config, plan),
        *(
            row
            for name, members in by_table(policies).items()
            for row in _policy(config, name, members, plan, first, weights[members[0].name])
        ),
        *_memory(config, tasks.env_configs, weights),
    ]


def check_text(config: RunConfig, rows: Sequence[Derived] | None = None) -> str:
    """The config with every value as TOML, then the derived numbers as TOML comments; together a valid config.

    `rows` replaces the numbers of `derived`.
    """
    rows = derived(config) if rows is None else rows
    names = max(len(row.name) for row in rows)
    values = max(len(row.value) for row in rows)
    lines = [
        f"# warning: {row.reason}" if row.is_warning else f"# {row.name:<{names}}  {row.value:>{values}}  {row.reason}"
        for row in rows
    ]
    return "\n".join([dump_config(config).rstrip("\n"), "", "# Derived from this config", *lines])


def _world(scene: str, env: EnvConfig) -> Iterator[Derived]:
    game, builder, spec = env.game, env.map_builder, env.spec
    if scene:
        yield Derived("scene", scene, "one of the scenes drawn at each reset")
    yield Derived("map", f"{game.height} x {game.width}", f"rows x cols: {_builder_text(builder)}")
    yield _number("agents per world", game.num_agents, f"in {_count(len(game.groups), 'group')}")
    ends = {"max_steps, truncated": game.max_steps, "episode_lifetime, terminated": game.episode_lifetime}
    ends = {name: steps for name, steps in ends.items() if steps}
    if ends:
        first = min(ends, key=lambda name: ends[name])
        yield _number("episode", ends[first], f"steps: {first}")
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
    yield _number(
        "actions",
        len(spec.flat_actions),
        f"(action, argument) pairs of {len(spec.action_names)} actions",
    )


def _builder_text(builder: MapBuilder) -> str:
    """The map builder and the types of builders nested in it."""
    if isinstance(builder, RoomsConfig) and builder.room:
        return f"{builder.rows} x {builder.cols} rooms and walls between them"
    inside = sorted({part.type for path, part, _ in walk_builders(builder) if path})
    return f'map builder "{builder.type}"' + (f", of {', '.join(inside)}" if inside else "")


def _tasks(config: RunConfig, tasks: Tasks, are_masked: bool) -> Iterator[Derived]:
    """The number of tasks, and the probabilities of the first ones when training starts."""
    curriculum, count = config.curriculum, len(tasks.names)
    if count == 1:
        if not isinstance(curriculum, CurriculumConfig):
            yield _warning(f'curriculum.type = "{curriculum.type}" has no effect: there is only one task')
        return
    yield _number("tasks", count, f"{_count(max(tasks.scene_of) + 1, 'scene')}{_bins(curriculum)}")
    is_env = evaluation_world(config.env, tasks) == config.env
    yield Derived(
        "evaluation world",
        "[env]" if is_env else tasks.scenes[-1][0],
        "of this file" if is_env else "the last scene: [env] is not set, or a policy of the scenes cannot play it",
    )
    yield from _united_actions(tasks, are_masked)
    if isinstance(curriculum, ProgressiveConfig):
        probabilities = [1.0] + [0.0] * (count - 1)
    elif isinstance(curriculum, CurriculumConfig):
        probabilities = fixed_probabilities(curriculum, tasks.scene_of)
    else:
        probabilities = [1 / count] * count
    for name, probability in list(zip(tasks.names, probabilities, strict=True))[:TASKS_SHOWN]:
        yield Derived("task", f"{100 * probability:.3g} %", f"of resets, initially: {name}")
    if count > TASKS_SHOWN:
        yield _number("more tasks", count - TASKS_SHOWN, f"up to {tasks.names[-1]}")


def _united_actions(tasks: Tasks, are_masked: bool) -> Iterator[Derived]:
    """The number of actions of a policy whose tasks have different actions, and the tasks that lack some."""
    tasks_lacking: dict[str, list[str]] = {}
    for name, env in tasks.by_name.items():
        if missing := tasks.union.lacking(env):
            tasks_lacking.setdefault(", ".join(missing), []).append(name)
    if not tasks_lacking:
        return
    spec = tasks.env_configs[0].spec
    reason = f"(action, argument) pairs of {len(spec.action_names)} actions, those of all tasks"
    yield _number("actions of the policy", len(spec.flat_actions), reason)
    for lacked, names in () if are_masked else tasks_lacking.items():
        more = f" and {len(names) - TASKS_SHOWN} more" if len(names) > TASKS_SHOWN else ""
        yield _warning(
            f"these actions of other tasks always fail in {', '.join(names[:TASKS_SHOWN])}{more}: {lacked}; "
            "agent.mask_actions = true never samples them"
        )


def _bins(curriculum: AnyCurriculum) -> str:
    counts = [f"{len(bucket.values) or bucket.bins} of {key}" for key, bucket in curriculum.buckets.items()]
    return "".join(f" x {count}" for count in counts)


def _collection(config: RunConfig, plan: BatchPlan) -> Iterator[Derived]:
    experience = config.experience
    yield _number(
        "worlds",
        plan.num_worlds,
        f"at most {experience.forward_pass_minibatch_target_size:,} agents per forward pass x async_factor "
        f"{experience.async_factor}, and {experience.batch_size // experience.bptt_horizon:,} segments per batch",
    )
    if plan.num_opponents:
        yield _number(
            "learners per world",
            plan.num_learners,
            f"{plan.num_agents} agents - {plan.num_opponents} that frozen policies play",
        )
    yield _number("agents", plan.agents, f"{plan.num_worlds:,} worlds x {plan.num_learners}")
    wanted = min(experience.async_factor, plan.num_worlds)
    reason = "that step in turn: async_factor"
    if plan.num_world_batches < wanted:
        reason += f" {wanted}, reduced for larger forward passes of each policy"
    yield _number("world batches", plan.num_world_batches, reason)
    if wanted < experience.async_factor:
        yield _warning(
            f"experience.async_factor = {experience.async_factor} is reduced to {wanted}: "
            f"there {'is' if plan.num_worlds == 1 else 'are'} only {_count(plan.num_worlds, 'world')}"
        )
    yield from _workers(config, plan)
    yield _number("segments per agent", plan.segments_per_agent, f"of {plan.horizon} steps, per epoch")
    yield _number("segments", plan.segments, f"{plan.agents:,} agents x {plan.segments_per_agent} segments per agent")
    yield _number("steps per epoch", plan.batch_size, f"{plan.segments:,} segments x {plan.horizon} steps")
    if plan.batch_size < experience.batch_size:
        yield _warning(
            f"experience.batch_size = {experience.batch_size:,} is rounded down to {plan.batch_size:,}: "
            f"{plan.num_worlds:,} whole worlds x {plan.num_learners} agents x {plan.segments_per_agent} segments "
            f"x {plan.horizon} steps"
        )
    timesteps = config.run.total_timesteps
    epochs = f"total_timesteps {timesteps:,} / {plan.batch_size:,}, rounded up"
    yield _number("epochs", _epochs(config, plan), epochs)
    if timesteps < plan.batch_size:
        yield _warning(f"run.total_timesteps = {timesteps:,} is less than one epoch of {plan.batch_size:,} steps")


def _epochs(config: RunConfig, plan: BatchPlan) -> int:
    return -(-config.run.total_timesteps // plan.batch_size)


def _workers(config: RunConfig, plan: BatchPlan) -> Iterator[Derived]:
    """The number of worker processes; "auto" is another one on a GPU, which is not looked for here."""
    setting, device = config.experience.workers, config.run.device.partition(":")[0]
    workers = worker_count(config.experience, plan, "cpu" if device == "auto" else device)
    yield Derived("workers", str(workers.count), workers.reason, number=workers.count)
    if setting == "auto" and device == "auto":
        on_gpu = worker_count(config.experience, plan, "cuda")
        yield Derived("workers on a GPU", str(on_gpu.count), on_gpu.reason, number=on_gpu.count)
    if setting != "auto" and setting > workers.count:
        worlds = _count(plan.num_worlds // plan.num_world_batches, "world")
        yield _warning(f"experience.workers = {setting} is reduced to {workers.count}: a world batch has only {worlds}")


def _policy(
    config: RunConfig, name: str, members: Sequence[PolicySettings], plan: BatchPlan, env: EnvConfig, weights: int
) -> Iterator[Derived]:
    """The numbers of the policy of a table `[policies.NAME]`, or of each of its policies; their names begin with it."""
    policy = members[0]
    agents, learners, groups = num_agents_of(policy, env), num_learners_of(policy, env), ", ".join(policy.groups)
    rows = []
    if policy.member is not None:
        rows.append(_number("policies", len(members), f"one for each agent of {groups}: {policy.name} and so on"))
    elif name:
        rows.append(_number("agents per world", agents, f"those of {groups}"))
    if not policy.train:
        rows.append(Derived("weights", "frozen", f"those of {policy.init_from}"))
    elif name and learners < agents:
        rows.append(_number("learners per world", learners, f"{agents} agents - {agents - learners} opponents"))
    if policy.train:
        rows += _learning(config_of_policy(config, policy), plan, plan_of(policy, plan, env), weights)
    for row in rows:
        if row.is_warning and name:
            yield replace(row, reason=f"policy {name}: {row.reason}")
        else:
            yield replace(row, name=f"{name}: {row.name}" if name else row.name)


def _learning(config: RunConfig, of_all: BatchPlan, plan: BatchPlan, weights: int) -> Iterator[Derived]:
    """The numbers of a policy that learns; `of_all` is the plan of all policies together."""
    experience, agent = config.experience, config.agent
    share = (
        f" x {plan.num_learners} of {of_all.num_learners} learners" if plan.num_learners != of_all.num_learners else ""
    )
    updates = plan.num_minibatches * experience.update_epochs
    memory = f"memory {agent.memory} of {_count(agent.lstm_layers, 'layer')}" if agent.forward_lstm else "no memory"
    yield _number("weights", weights, f"of the policy: backbone {agent.backbone}, {memory} and heads")
    if agent.mask_actions:
        yield Derived("action masks", "on", "actions that cannot succeed are never sampled: agent.mask_actions")
    if agent.critic != "own":
        read = f"of its {agent.critic}: agent.critic; minibatches keep worlds together"
        yield Derived("critic", agent.critic, f"values also depend on the learners {read}")
        if plan.num_learners == 1:
            yield _warning(f'agent.critic = "{agent.critic}" reads nothing more: there is one learner per world')
    yield _number(
        "agents per forward pass",
        -(-plan.num_worlds // plan.num_world_batches) * plan.num_learners,
        "at most: those of one world batch",
    )
    yield _number(
        "minibatches",
        plan.num_minibatches,
        f"batch_size {experience.batch_size:,} / {experience.minibatch_size:,}{share}",
    )
    yield _number(
        "gradient steps per epoch",
        updates,
        f"{plan.num_minibatches} minibatches x update_epochs {experience.update_epochs}",
    )
    yield _number("gradient steps", _epochs(config, of_all) * updates, "in the whole run")
    smallest = plan.segments // plan.num_minibatches * plan.horizon
    if smallest == 1 and config.ppo.norm_adv:
        yield _warning(
            "minibatches of one step have a single advantage, which cannot be normalized: "
            "raise experience.minibatch_size, or set ppo.norm_adv = false"
        )
    if config.ppo.gamma < 1:
        yield _number("discount horizon", 1 / (1 - config.ppo.gamma), f"steps: 1 / (1 - gamma {config.ppo.gamma:g})")
    if config.agent.forward_lstm and config.agent.bptt_horizon > experience.bptt_horizon:
        yield _warning(
            f"agent.bptt_horizon = {config.agent.bptt_horizon} has no effect: "
            f"segments have experience.bptt_horizon = {experience.bptt_horizon} steps"
        )
    if config.agent.memory != "attention" and config.agent.memory_window != DEFAULT_MEMORY_WINDOW:
        yield _warning(
            f"agent.memory_window = {config.agent.memory_window} has no effect: "
            f'agent.memory = "{config.agent.memory}" has no window'
        )
    if config.lr_schedule.warmup_steps is not None and config.lr_schedule.warmup_steps >= config.run.total_timesteps:
        yield _warning(
            f"lr_schedule.warmup_steps = {config.lr_schedule.warmup_steps:,} exceeds the run of "
            f"{config.run.total_timesteps:,} steps: the learning rate never reaches its full value"
        )


def _memory(config: RunConfig, worlds: Sequence[EnvConfig], weights: Mapping[str, int]) -> Iterator[Derived]:
    largest = max(env.game.height * env.game.width for env in worlds)
    parts = memory_parts(config, worlds[0], largest, weights)
    where = "in host memory" if config.experience.cpu_offload else "in device memory"
    for part in parts:
        is_experience = part.name == "experience"
        name = part.name if is_experience else f"memory of {part.name}"
        name = f"{part.policy}: {name}" if part.policy else name
        reason = f"{where}: {part.reason}" if is_experience else part.reason
        yield Derived(name, size(part.bytes), reason, number=part.bytes)
    total = sum(part.bytes for part in parts)
    yield Derived("memory in total", size(total), "without Python and PyTorch", number=total)


def _number(name: str, number: float, reason: str) -> Derived:
    return Derived(name, f"{number:,.0f}", reason, number=number)


def _warning(reason: str) -> Derived:
    return Derived("", "", reason, is_warning=True)


def _count(count: int, entity: str) -> str:
    return f"{count:,} {entity}{'' if count == 1 else 's'}"
