"""What a run needs of the computer's memory, by arithmetic, before anything of it is taken.

Sizes follow from the config; the factors behind them were measured (see the constants). The sum is meant to be right to
a third: enough to say in time what does not fit, and which setting makes it fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from metta.config.batch_plan import BatchPlan, plan_batch
from metta.config.env.env_spec import EnvSpec
from metta.config.plan.network_size import CONV_CHANNELS, least_weights
from metta.config.run import RunConfig

WEIGHT_COPIES: Final = 9
"""The weights, their gradient and Adam's two means; the initial weights; and while a checkpoint is written, weights and
means once more as a copy and as a file."""
CELL_BYTES: Final = 16
"""Of a world's map, for each cell: what stands there, and the map of the episode after this."""
AGENT_BYTES: Final = 4_000
"""Of the simulator for each agent: its state, statistics, and the tokens of all it sees."""
ACTIVATION_BYTES: Final = 4
TOKENS_SEEN: Final = 60
"""Of an ordinary observation."""
WARN_ABOVE: Final = 0.8
"""Share of the free memory from which a run is told that it is close."""


@dataclass(frozen=True)
class Part:
    """A part of the memory a run needs."""

    name: str
    bytes: int
    reason: str
    setting: str
    """what to lower to make it smaller"""
    value: int
    """of that setting now"""


def experience_bytes(config: RunConfig, plan: BatchPlan, tokens: int) -> int:
    """Bytes of one epoch's experience, observations of so many tokens above all."""
    steps = plan.segments_per_agent * plan.horizon
    observed = (steps + 1) * plan.agents * (tokens * 3 + 1)
    decided = steps * plan.agents * (8 + 5 * 4 + 2) + plan.agents * 4
    advised = steps * plan.agents * (len(config.env.spec.flat_actions) + 1) * 4 if config.kickstarting.teacher else 0
    memory = 2 * plan.segments_per_agent * config.agent.lstm_layers * plan.agents * config.agent.hidden_dim * 4
    return observed + decided + advised + (memory if config.agent.forward_lstm else 0)


def memory_parts(config: RunConfig, spec: EnvSpec, cells: int) -> list[Part]:
    """What a run needs, part by part, in worlds of `spec` on maps of `cells` cells."""
    plan = plan_batch(config.experience, spec.num_agents)
    weights = least_weights(config.agent, spec)
    steps = max(1, plan.batch_size // plan.num_minibatches)
    forward = -(-plan.num_worlds // plan.num_groups) * plan.num_agents
    step = step_bytes(config, spec)
    return [
        Part(
            "experience",
            experience_bytes(config, plan, spec.num_observation_tokens),
            f"{plan.batch_size:,} steps",
            "experience.batch_size",
            config.experience.batch_size,
        ),
        Part(
            "worlds",
            plan.num_worlds * (cells * CELL_BYTES + spec.num_agents * AGENT_BYTES),
            f"{plan.num_worlds:,} worlds of {cells:,} cells and {spec.num_agents:,} agents",
            "experience.forward_pass_minibatch_target_size",
            config.experience.forward_pass_minibatch_target_size,
        ),
        Part(
            "policy",
            4 * WEIGHT_COPIES * weights,
            f"about {weights:,} weights, {WEIGHT_COPIES} times: gradient, optimizer, checkpoint",
            "agent.hidden_dim",
            config.agent.hidden_dim,
        ),
        Part(
            "learning",
            max(steps * step, forward * step // 2),
            f"{steps:,} steps of a minibatch x {step:,} bytes",
            "experience.minibatch_size",
            config.experience.minibatch_size,
        ),
    ]


def step_bytes(config: RunConfig, spec: EnvSpec) -> int:
    """What is kept of one agent step between the forward and the backward pass."""
    agent = config.agent
    places = -(-spec.observation_height // 3) * -(-spec.observation_width // 3)
    box = {
        "cnn": 6 * CONV_CHANNELS * places + 12 * TOKENS_SEEN * 4,
        "mlp": 12 * TOKENS_SEEN,
        "attention": 64 * 8 * TOKENS_SEEN,
    }.get(agent.backbone, agent.hidden_dim)
    lstm = 12 * agent.hidden_dim * agent.lstm_layers if agent.forward_lstm else 0
    heads = 4 * agent.hidden_dim * (agent.mlp_layers + 1) + 6 * len(spec.flat_actions)
    return ACTIVATION_BYTES * (box + lstm + heads) + 2 * 3 * spec.num_observation_tokens


def too_large(parts: list[Part], available: int) -> str | None:
    """What does not fit into `available` bytes and what to do about it, in a sentence; None if all fits."""
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
    shares = ", ".join(f"{part.name} {size(part.bytes)}" for part in parts)
    return f"needs about {size(needed)} of memory, and {size(available)} are free: {shares}; {lower}"


def size(count: float) -> str:
    """Bytes in the largest unit that leaves three digits."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if count >= 1000:
            count, unit = count / 1024, larger
    return f"{count:,.3g} {unit}"


def _rounded(part: Part, room: int) -> int:
    """The setting that leaves the part at most `room`: a power of two, so that it goes with the others."""
    share = room / part.bytes
    # weights go with the square of the width
    value = part.value * (share**0.5 if part.setting == "agent.hidden_dim" else share)
    return max(1, 1 << (int(value).bit_length() - 1))
