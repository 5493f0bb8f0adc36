"""Optimizers (Adam, Muon with AdamW), learning-rate schedules, and gradient statistics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from metta.agent.devices import HostCopy
from metta.agent.policy import MettaAgent
from metta.config.training import OptimizerConfig
from metta.errors import UsageError


def make_optimizer(agent: MettaAgent, config: OptimizerConfig | None = None) -> torch.optim.Optimizer:
    """Make the optimizer of `config.type`: Adam, or Muon for the hidden matrices with AdamW for all other weights.

    `beta1` is also Muon's momentum. Muon's updates are scaled to the RMS of AdamW's updates, so that both use one
    learning rate.
    """
    config = config or OptimizerConfig()
    betas = (config.beta1, config.beta2)
    if config.type == "adam":
        return torch.optim.Adam(
            agent.parameters(), config.learning_rate, betas, config.eps, config.weight_decay, fused=True
        )
    matrices = agent.hidden_matrices()
    matrix_ids = {id(weight) for weight in matrices}
    rest = [weight for weight in agent.parameters() if id(weight) not in matrix_ids]
    adamw = torch.optim.AdamW(
        rest, config.learning_rate, betas, config.eps, weight_decay=config.weight_decay, fused=True
    )
    if not matrices:
        return adamw
    muon = torch.optim.Muon(
        matrices,
        config.learning_rate,
        config.weight_decay,
        momentum=config.beta1,
        adjust_lr_fn="match_rms_adamw",
    )
    return JointOptimizer([muon, adamw])


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers, each for different weights, with one common state and list of parameter groups."""

    def __init__(self, parts: list[torch.optim.Optimizer]):
        self._parts: list[torch.optim.Optimizer] = []
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._share_state()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_parts": self._parts}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of weights, which the last optimizer trains."""
        if self._parts:
            self._parts[-1].add_param_group(param_group)  # adds it to the list of groups of that optimizer alone
            self.param_groups.append(param_group)
        else:
            super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step of each optimizer; the loss of `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of all optimizers."""
        super().load_state_dict(state_dict)
        self._share_state()

    def _share_state(self) -> None:
        """Make the optimizers use this one's groups and state, so that schedulers and checkpoints apply to all."""
        self.state = defaultdict(dict, self.state)
        begin = 0
        for part in self._parts:
            end = begin + len(part.param_groups)
            part.param_groups = self.param_groups[begin:end]
            part.state = self.state
            begin = end


def make_lr_scheduler(
    optimizer: torch.optim.Optimizer,
    total_timesteps: int,
    batch_size: int,
    warmup_steps: int | None = None,
    schedule_type: str = "linear",
    anneal_lr: bool = True,
) -> LRScheduler | None:
    """Make the learning-rate schedule: linear warm-up, then linear or cosine decay to 0 at the end of the run.

    Step the schedule once per batch. `total_timesteps`, `batch_size` and `warmup_steps` are in agent steps. Of N
    batches in the run, the first W are warm-up; the learning rate of batch n (from 0) is multiplied by

        (n + 1) / (W + 1)                          if n < W
        1 - x  or  (1 + cos(pi x)) / 2             otherwise, with x = (n - W) / (N - W)

    If `anneal_lr` is false, returns None: the learning rate is constant, without warm-up.

    Raises UsageError for an unknown `schedule_type`, for a `total_timesteps` or `batch_size` below 1, and for negative
    `warmup_steps`.
    """
    if schedule_type not in ("linear", "cosine"):
        raise UsageError(f'schedule_type: unknown "{schedule_type}"; known: cosine, linear')
    if total_timesteps < 1 or batch_size < 1:
        raise UsageError(f"total_timesteps and batch_size must be at least 1; got {total_timesteps} and {batch_size}")
    if warmup_steps is not None and warmup_steps < 0:
        raise UsageError(f"warmup_steps must be at least 0; got {warmup_steps}")
    if not anneal_lr:
        return None
    return LambdaLR(optimizer, schedule_factor(total_timesteps, batch_size, warmup_steps, schedule_type))


def schedule_factor(
    total_timesteps: int, batch_size: int, warmup_steps: int | None = None, schedule_type: str = "linear"
) -> Callable[[int], float]:
    """The factor of the learning rate of batch n, as a function of n: see `make_lr_scheduler`."""
    batches = math.ceil(total_timesteps / batch_size)
    warmup = math.ceil((warmup_steps or 0) / batch_size)

    def factor(batch: int) -> float:
        if batch < warmup:
            return (batch + 1) / (warmup + 1)
        progress = min(1.0, (batch - warmup) / max(1, batches - warmup))
        return 1 - progress if schedule_type == "linear" else (1 + math.cos(math.pi * progress)) / 2

    return factor


def compute_gradient_stats(model: nn.Module) -> dict[str, float]:
    """L2 norms of gradients (`grad_norm_mean`, `grad_norm_max`, `grad_norm_min`) and of weights (`param_norm_mean`).

    Mean, maximum and minimum are over the norms of the model's parameter tensors. Parameters without a gradient are
    left out; if none has a gradient, the gradient norms are 0.
    """
    weights = _norms(model.parameters())
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    gradients = _norms(grads) if grads else torch.zeros_like(weights)
    norms = torch.stack([gradients.mean(), gradients.max(), gradients.min(), weights.mean()])
    names = ("grad_norm_mean", "grad_norm_max", "grad_norm_min", "param_norm_mean")
    return dict(zip(names, HostCopy(norms).wait().tolist(), strict=True))


def _norms(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([tensor.detach().norm() for tensor in tensors])
