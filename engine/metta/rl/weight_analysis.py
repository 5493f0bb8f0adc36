"""Weight analysis: norms and effective ranks of weight matrices, and fractions of dead ReLU units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta.agent.devices import to_device
from metta.agent.policy import MettaAgent
from metta.rl.experience import Experience


def analyze_weights(agent: MettaAgent, experience: Experience) -> dict[str, float]:
    """Statistics of the agent's weights and ReLU layers; NAME is that of the parameter or the module.

    - `NAME/norm`: Frobenius norm of a weight with at least two axes
    - `NAME/effective_rank`: of the same weights, flattened to `[outputs, inputs]` (see `effective_rank`)
    - `NAME/dead`: fraction of a ReLU layer's units whose output is 0 for every agent, for the observations after the
      last step of the experience
    """
    report: dict[str, float] = {}
    for name, weight in agent.named_parameters():
        if weight.ndim >= 2:
            matrix = weight.detach().flatten(1)
            report[f"{name}/norm"] = float(matrix.norm())
            report[f"{name}/effective_rank"] = effective_rank(matrix)
    return report | _dead_units(agent, experience)


def effective_rank(matrix: Tensor) -> float:
    """Effective rank of Roy and Vetterli 2007: from 1 to the rank of the matrix; 0 for a matrix of zeros.

    It is exp(-sum p log p), p the singular values divided by their sum.
    """
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    singular_values = torch.linalg.eigvalsh(gram.cpu().double()).clamp(min=0).sqrt()
    if not bool(singular_values.sum() > 0):
        return 0.0
    return float(torch.exp(torch.special.entr(singular_values / singular_values.sum()).sum()))


def _dead_units(agent: MettaAgent, experience: Experience) -> dict[str, float]:
    """`NAME/dead` of each ReLU layer."""
    is_active: dict[str, Tensor] = {}

    def record(name: str, output: Tensor) -> None:
        active = (output.flatten(0, -2) > 0).any(0)
        is_active[name] = is_active[name] | active if name in is_active else active

    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: record(name, output))
        for name, module in agent.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        for batch in experience.agent_batches:
            step, rows = experience.steps_collected, batch.rows
            observations = experience.observations.at(step, rows).to(agent.device)
            episode_starts = to_device(experience.episode_starts[step, rows], agent.device)
            agent.value(observations, batch.memory, episode_starts, experience.groups_of(step, rows))
    finally:
        for hook in hooks:
            hook.remove()
    return {f"{name}/dead": float((~active).float().mean()) for name, active in is_active.items()}
