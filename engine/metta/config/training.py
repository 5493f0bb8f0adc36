"""How a policy learns and what is kept of it: `[optimizer]` to `[experience]`, `[checkpoint]` to `[logging]`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from metta.config.validation.frozen_model import FilePath, FrozenModel, PartOf
from metta.extensions import Registry

LOGGERS: Final[Registry[Any]] = Registry("metta.loggers", "logger")
"""Loggers of one's own; what one must be: rl/loggers.py."""


class OptimizerConfig(FrozenModel):
    """The optimizer."""

    type: Literal["adam", "muon"] = Field(
        default="adam", description="adam, or muon on hidden matrices with AdamW for the rest"
    )
    learning_rate: float = Field(default=0.000457, gt=0, description="step size")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of gradients (muon: its momentum)")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean of squared gradients")
    eps: float = Field(default=1e-12, ge=0, description="added to the denominator")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay")


class LRScheduleConfig(FrozenModel):
    """The learning rate over the run."""

    anneal_lr: bool = Field(default=True, description="false: the learning rate stays where it is")
    schedule_type: Literal["linear", "cosine"] = Field(default="linear", description="shape of the way down to zero")
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        lt=2**53,
        description="agent steps over which the learning rate first rises from zero; needs anneal_lr",
    )


class PPOConfig(FrozenModel):
    """PPO (Schulman et al. 2017, arXiv:1707.06347) with GAE (Schulman et al. 2015, arXiv:1506.02438)."""

    clip_coef: float = Field(default=0.1, gt=0, description="policy ratio is clipped to 1 +- this")
    ent_coef: float = Field(default=0.0021, ge=0, description="weight of the entropy bonus")
    gae_lambda: float = Field(default=0.916, ge=0, le=1, description="lambda of GAE")
    gamma: float = Field(default=0.977, ge=0, le=1, description="discount per step")
    max_grad_norm: float = Field(default=0.5, ge=0, description="gradients are scaled to at most this norm; 0: off")
    vf_clip_coef: float = Field(default=0.1, gt=0, description="new values are clipped to the old ones +- this")
    vf_coef: float = Field(default=0.44, ge=0, description="weight of the value loss")
    l2_reg_loss_coef: float = Field(default=0.0, ge=0, description="weight of the sum of squared weights")
    l2_init_loss_coef: float = Field(
        default=0.0, ge=0, description="weight of the squared distance from the initial weights"
    )
    norm_adv: bool = Field(default=True, description="normalize advantages in each minibatch")
    clip_vloss: bool = Field(default=True, description="clip the value loss")
    target_kl: float | None = Field(default=None, gt=0, description="stop the epoch's updates beyond this KL")


class VTraceConfig(FrozenModel):
    """V-trace (Espeholt et al. 2018, arXiv:1802.01561): targets follow the policy while it learns from a batch."""

    enabled: bool = Field(
        default=False, description="advantages and value targets are corrected by the policy's ratios at each minibatch"
    )
    rho_clip: float = Field(
        default=1.0, gt=0, description="most that a ratio (new to old probability) counts for a step's own error"
    )
    c_clip: float = Field(
        default=1.0, gt=0, description="most that a ratio counts for how far later errors reach back in time"
    )


class PrioritizedSamplingConfig(FrozenModel):
    """Minibatches of the segments that surprise most (Schaul et al. 2016, arXiv:1511.05952)."""

    enabled: bool = Field(
        default=False, description="segments are drawn by their advantages, with replacement, instead of each once"
    )
    alpha: float = Field(
        default=0.8, ge=0, le=10, description="a segment is drawn in proportion to its mean |advantage| to this power"
    )
    beta: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="power of the importance weights that make up for it; rises linearly to 1 over the run",
    )


class NormalizationConfig(FrozenModel):
    """Values and rewards at the scale of one for the learner, by running statistics; reported ones stay unscaled."""

    values: bool = Field(
        default=False,
        description="the value head learns targets less their mean, over their deviation (PopArt, arXiv:1602.07714)",
    )
    value_decay: float = Field(
        default=0.95, ge=0, lt=1, description="share of the value targets' statistics that an epoch leaves of the last"
    )
    rewards: bool = Field(
        default=False,
        description="rewards are divided by the deviation of discounted returns; values are then of such rewards",
    )
    reward_clip: float = Field(default=10.0, ge=0, description="divided rewards are clipped to +- this; 0: not clipped")


class ExperienceConfig(FrozenModel):
    """How experience is collected and cut into minibatches. All sizes count agent steps."""

    batch_size: int = Field(default=524288, ge=1, le=2**40, description="agent steps collected per epoch, at most")
    minibatch_size: int = Field(default=16384, ge=1, le=2**40, description="agent steps per gradient step")
    bptt_horizon: int = Field(default=64, ge=1, le=1_000_000, description="steps of a training segment")
    update_epochs: int = Field(default=1, ge=1, le=10_000, description="passes over the batch per epoch")
    stagger_episodes: bool = Field(
        default=False,
        description="worlds begin at different steps of their first episode, so that episodes do not all end at once",
    )
    zero_copy: bool = Field(default=True, description="the simulator writes straight into experience in host memory")
    cpu_offload: bool = Field(
        default=False, description="experience stays in host memory and moves to the device a minibatch at a time"
    )
    async_factor: int = Field(
        default=2,
        ge=1,
        le=1024,
        description="parts the worlds are split into: one steps while the policy runs on another",
    )
    forward_pass_minibatch_target_size: int = Field(
        default=4096, ge=1, le=2**40, description="agents per forward pass of the policy, about"
    )


class CheckpointConfig(FrozenModel):
    """When and where checkpoints are saved."""

    checkpoint_interval: int = Field(
        default=60, ge=1, le=10**9, description="seconds of wall clock between checkpoints"
    )
    wandb_checkpoint_interval: int = Field(
        default=300,
        ge=0,
        le=10**9,
        description="seconds between uploads of the checkpoint to Weights & Biases; 0: never",
    )
    checkpoint_dir: FilePath = Field(default="", description="directory; empty: checkpoints/ in the run directory")


class SimulationConfig(FrozenModel):
    """Evaluations and replays during training."""

    evaluate_interval: int = Field(
        default=300, ge=0, le=10**9, description="seconds between evaluations in the run's own world; 0: never"
    )
    replay_interval: int = Field(default=300, ge=0, le=10**9, description="seconds between recorded episodes; 0: never")
    replay_dir: FilePath = Field(default="", description="directory; empty: replays/ in the run directory")


class LoggingConfig(FrozenModel):
    """Loggers beside `metrics.jsonl`."""

    tensorboard: bool = Field(
        default=False, description="TensorBoard event files in tensorboard/ of the run directory; needs the extra"
    )
    wandb: bool = Field(default=False, description="log to Weights & Biases; needs the extra")
    wandb_project: str = Field(default="metta", min_length=1, description="project in Weights & Biases")
    wandb_mode: Literal["online", "offline"] = Field(
        default="online",
        description="offline: into the run directory, for `wandb sync` later; the newest log there has all of it",
    )
    extra: list[Annotated[str, PartOf(LOGGERS)]] = Field(
        default_factory=list, description="loggers of your own, by the names they were registered with"
    )
