"""Estimate of a run's memory from its config, before anything is allocated.

The constants were measured. The error of the total is at most about a third, which suffices to report before training
that a run does not fit, and which setting to lower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from metta.config.agent import AgentModelConfig
from metta.config.batch_plan import BatchPlan
from metta.config.env.env_config import EnvConfig
from metta.config.env.env_spec import EnvSpec
from metta.config.plan.network_size import CONV_CHANNELS, memory_heads, memory_state_size, num_weights
from metta.config.plan.worker_count import worker_count
from metta.config.policies import by_table, joint_plan, plan_of
from metta.config.run import RunConfig, config_of_policy, policy_settings

WEIGHT_COPIES: Final = 9
"""Copies of the weights: weights, gradients and two moments of Adam; the initial weights; and, while a checkpoint is
written, weights and moments again, as a copy and as a file."""
CELL_BYTES: Final = 16
"""Bytes per cell of a world: its map and that of the next episode."""
AGENT_BYTES: Final = 4_000
"""Bytes per agent in the simulator: state, statistics and observation."""
ACTIVATION_BYTES: Final = 4
"""Bytes per activation, float32."""
TYPICAL_TOKENS: Final = 60
"""Tokens of a typical observation."""
OWN_TOKENS: Final = 16
"""Tokens of an agent's own cell in an observation."""
TOKENS_PER_CELL: Final = 0.7
"""Tokens of each other cell of the window, on average, in a crowded world; in the presets 0.1 to 0.9."""
WORKER_BYTES: Final = 60_000_000
"""Bytes of a worker process without its worlds: Python, NumPy and metta."""
WARN_ABOVE: Final = 0.8
"""Fraction of the free memory above which a run gets a warning."""


@dataclass(frozen=True)
class MemoryPart:
    """One part of the memory that a run needs."""

    name: str
    bytes: int
    reason: str
    setting: str
    """key of the config to lower so that this part becomes smaller"""
    value: int
    """current value of that key"""
    policy: str = ""
    """name of the table `[policies.NAME]` whose part it is; empty without such tables, or for a part of all policies"""

    @property
    def owner(self) -> str:
        """The end of its name in messages: ` of hunters`, or empty."""
        return f" of {self.policy}" if self.policy else ""


def crowded_tokens(spec: EnvSpec) -> int:
    """Tokens of an observation in a crowded world of `spec`, on average.

    The experience stores only the tokens that agents see. How many these are is known once worlds exist; this is about
    as many as in the most crowded preset. The upper bound is `num_observation_tokens`, several times as many in most
    worlds, and runs that fit would be refused by it.
    """
    cells = spec.observation_height * spec.observation_width
    return min(spec.num_observation_tokens, OWN_TOKENS + round(TOKENS_PER_CELL * cells))


def experience_bytes(config: RunConfig, plan: BatchPlan, spec: EnvSpec) -> int:
    """Bytes of one epoch's experience in crowded worlds of `spec`."""
    steps = plan.segments_per_agent * plan.horizon
    # tokens of three bytes, an index of 8 bytes and the start of an episode
    observations = (steps + 1) * plan.agents * (3 * crowded_tokens(spec) + 8 + 1) + 8
    outcomes = steps * plan.agents * (8 + 5 * 4 + 2) + plan.agents * (4 + 4 + 1)
    action_masks = steps * plan.agents * len(spec.flat_actions) if config.agent.mask_actions else 0
    teacher_values = len(spec.flat_actions) + 1  # probabilities and the value
    teacher = steps * plan.agents * teacher_values * 4 if config.kickstarting.teacher else 0
    memory = plan.segments_per_agent * plan.agents * memory_state_size(config.agent) * 4
    groups = 2 * (steps + 1) * plan.agents if config.agent.critic != "own" else 0
    return observations + action_masks + outcomes + teacher + memory + groups


def rule_bytes(env: EnvConfig, cells: int) -> int:
    """Bytes of the custom rules of a world: sums of rewards, features, what is below agents; not their memories."""
    at = [feature.options.at for feature in env.features]
    num_agents, num_cell_features = env.game.num_agents, at.count("cells")
    kinds = [entry.options for entry in env.object_types.values() if entry.options is not None]
    per_cell = 5 * num_cell_features + 8 * any(kind.walkable for kind in kinds)
    return cells * per_cell + num_agents * (4 * len(env.rewards) + len(at) + 5 * at.count("offset") - num_cell_features)


def memory_parts(
    config: RunConfig, env: EnvConfig, cells: int, weights: Mapping[str, int] | None = None, device: str = "cpu"
) -> list[MemoryPart]:
    """The parts of a run's memory, in worlds such as `env` with maps of `cells` cells. Frozen policies are not counted.

    `weights` is the number of weights of each policy, by its name; by default it follows from the config, see
    `num_weights`. `device` is the type of the policies' device, on which the number of workers may depend.
    """
    policies, spec = policy_settings(config, env), env.spec
    plan = joint_plan(config.experience, policies, env)
    worlds = MemoryPart(
        "worlds",
        plan.num_worlds * (cells * CELL_BYTES + spec.num_agents * AGENT_BYTES + rule_bytes(env, cells)),
        f"{plan.num_worlds:,} worlds of {cells:,} cells and {spec.num_agents:,} agents",
        "experience.forward_pass_minibatch_target_size",
        config.experience.forward_pass_minibatch_target_size,
    )
    experience, networks, learning = [], [], []
    for name, members in by_table(policies).items():
        policy = members[0]
        if policy.train:
            own = config_of_policy(config, policy)
            count = num_weights(own.agent, spec) if weights is None else weights[policy.name]
            own_plan = plan_of(policy, plan, env)
            experience.append(times(_experience_part(own, name, own_plan, spec), len(members), "policies"))
            networks.append(times(_network_part(own, name, count), len(members), "policies"))
            learning.append(_learning_part(own, name, own_plan, spec))
    count = worker_count(config.experience, plan, device).count
    workers = MemoryPart(
        "workers",
        count * WORKER_BYTES,
        f"{count} processes that step the worlds",
        "experience.workers",
        count,
    )
    largest = max(learning, key=lambda part: part.bytes)  # policies learn one after the other
    return [*experience, worlds, *networks, largest, *([workers] if count else [])]


def _experience_part(config: RunConfig, policy: str, plan: BatchPlan, spec: EnvSpec) -> MemoryPart:
    return MemoryPart(
        "experience",
        experience_bytes(config, plan, spec),
        f"{plan.batch_size:,} steps, each with about {crowded_tokens(spec)} tokens",
        "experience.batch_size",
        config.experience.batch_size,
        policy,
    )


def _network_part(config: RunConfig, policy: str, weights: int) -> MemoryPart:
    return MemoryPart(
        "policy",
        4 * WEIGHT_COPIES * weights,
        f"{weights:,} weights, {WEIGHT_COPIES} times: gradient, optimizer, checkpoint",
        f"policies.{policy}.agent.hidden_dim" if policy else "agent.hidden_dim",
        config.agent.hidden_dim,
        policy,
    )


def _learning_part(config: RunConfig, policy: str, plan: BatchPlan, spec: EnvSpec) -> MemoryPart:
    steps = max(1, plan.batch_size // plan.num_minibatches)
    forward = -(-plan.num_worlds // plan.num_world_batches) * plan.num_learners
    step = step_bytes(config, spec)
    return MemoryPart(
        "learning",
        max(steps * step, forward * step // 2),
        f"{steps:,} steps of a minibatch x {step:,} bytes",
        "experience.minibatch_size",
        config.experience.minibatch_size,
        policy,
    )


def times(part: MemoryPart, count: int, owners: str) -> MemoryPart:
    """The part of `count` owners together, such as processes."""
    return (
        replace(part, bytes=count * part.bytes, reason=f"{count} {owners}, each {part.reason}") if count > 1 else part
    )


def step_bytes(config: RunConfig, spec: EnvSpec) -> int:
    """Bytes of activations of one agent step between the forward and the backward pass."""
    agent = config.agent
    positions = -(-spec.observation_height // 3) * -(-spec.observation_width // 3)
    backbone = {
        "cnn": 6 * CONV_CHANNELS * positions + 12 * TYPICAL_TOKENS * 4,
        "mlp": 12 * TYPICAL_TOKENS,
        "attention": 64 * 8 * TYPICAL_TOKENS,
    }.get(agent.backbone, agent.hidden_dim)
    memory = agent.lstm_layers * _memory_activations(agent) if agent.forward_lstm else 0
    heads = 4 * agent.hidden_dim * (agent.mlp_layers + 1) + 6 * len(spec.flat_actions)
    critic = 3 * agent.hidden_dim if agent.critic != "own" else 0
    return ACTIVATION_BYTES * (backbone + memory + heads + critic) + 2 * 3 * crowded_tokens(spec)


def _memory_activations(agent: AgentModelConfig) -> int:
    """Activations of one layer of the memory for one step."""
    hidden, (heads, width) = agent.hidden_dim, memory_heads(agent.hidden_dim)
    # of attention: the scores of each head, and the part of the window that all steps of a part of the segment share
    keys = agent.memory_window + agent.bptt_horizon
    attention = 8 * hidden + 4 * heads * keys + 2 * width * keys // agent.bptt_horizon
    return {"lstm": 12 * hidden, "mingru": 10 * hidden, "attention": attention}.get(agent.memory, hidden)


def too_large(parts: list[MemoryPart], available: int, owner: str = "") -> str | None:
    """The message if the parts need more than `available` bytes, with the setting to lower; None if they fit.

    The bytes are all that `owner` (such as "this machine") has; without one, they are those that are free.
    """
    needed = sum(part.bytes for part in parts)
    if needed <= available:
        return None
    largest = max(parts, key=lambda part: part.bytes)
    room = available - (needed - largest.bytes)
    if room >= largest.bytes // 64:
        lower = f"lower {largest.setting} from {largest.value:,} to {_rounded(largest, room):,}"
    else:
        both = sorted(parts, key=lambda part: -part.bytes)[:2]
        lower = f"lower {both[0].setting} (now {both[0].value:,}) and {both[1].setting} (now {both[1].value:,})"
    shares = ", ".join(f"{part.name}{part.owner} {size(part.bytes)}" for part in parts)
    limit = f"{owner} has {size(available)}" if owner else f"{size(available)} are free"
    return f"needs about {size(needed)} of memory; {limit}: {shares}; {lower}"


def size(count: float) -> str:
    """A number of bytes with three digits and a unit: `1.5 GiB`."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if count >= 1000:
            count, unit = count / 1024, larger
    return f"{count:,.3g} {unit}"


def _rounded(part: MemoryPart, room: int) -> int:
    """The value of the part's setting with which it needs at most `room` bytes: a power of two."""
    share = room / part.bytes
    # the number of weights grows with the square of the width
    value = part.value * (share**0.5 if part.setting.endswith("agent.hidden_dim") else share)
    return max(1, 1 << (int(value).bit_length() - 1))
