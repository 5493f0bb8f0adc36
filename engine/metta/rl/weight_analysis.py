"""A look inside the network: how big its weights are, how many directions they use, which units never fire."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metta.agent.policy import MettaAgent
from metta.rl.experience import Experience


def analyze_weights(agent: MettaAgent, experience: Experience) -> dict[str, float]:
    """For each weight with two axes or more, and for each layer of ReLUs:

    - `NAME/norm`: the Frobenius norm
    - `NAME/effective_rank`: exp of the entropy of the normalized singular values (Roy and Vetterli 2007): how
      many directions the weight really uses, from 1 to the smaller of its sizes
    - `NAME/dead`: the fraction of units that are 0 for every agent in the last step of the experience
    """
    report: dict[str, float] = {}
    for name, weight in agent.named_parameters():
        if weight.ndim >= 2:
            matrix = weight.detach().flatten(1)
            report[f"{name}/norm"] = float(matrix.norm())
            report[f"{name}/effective_rank"] = effective_rank(matrix)
    return report | _dead_units(agent, experience)


def effective_rank(matrix: Tensor) -> float:
    """exp(-sum p log p), p the singular values over their sum; 0 for a matrix of zeros."""
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    singular = torch.linalg.eigvalsh(gram.double()).clamp(min=0).sqrt()
    if not bool(singular.sum() > 0):
        return 0.0
    share = singular / singular.sum()
    return float(torch.exp(torch.special.entr(share).sum()))


def _dead_units(agent: MettaAgent, experience: Experience) -> dict[str, float]:
    fired: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            fired[name] = (output.flatten(0, -2) > 0).any(0)

        return note

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in agent.named_modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        for group in experience.groups:
            before, seen = dict(fired), experience.observations[experience.steps_collected, group.rows]
            agent.value(seen.to(agent.device), group.memory)
            fired.update({name: fired[name] | before[name] for name in before})
    finally:
        for hook in hooks:
            hook.remove()
    return {f"{name}/dead": float((~active).float().mean()) for name, active in fired.items()}
