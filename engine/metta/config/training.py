"""Tables about training and its output: `[optimizer]`, `[ppo]`, `[experience]`, `[checkpoint]`, `[logging]` and others.

In the order of this file: `[optimizer]`, `[lr_schedule]`, `[ppo]`, `[vtrace]`, `[prioritized_sampling]`,
`[normalization]`, `[experience]`, `[kickstarting]`, `[distributed]`, `[compile]`, `[checkpoint]`, `[simulation]`,
`[logging]`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from metta.config.validation.file_paths import FilePath
from metta.config.validation.frozen_model import FrozenModel, IntegerOrAuto, RegisteredName
from metta.errors import Problem, RulesError
from metta.extensions import Registry

LOGGERS: Final[Registry[Any]] = Registry("metta.loggers", "logger")
"""Custom loggers by name; each is a `metta.api.RunLogger` (run/loggers.py)."""

POLICIES: Final[Registry[Any]] = Registry("metta.policies", "policy", ("random", "scripted"))
"""Policies that are made rather than trained, by name; each is a function from an EnvConfig to a `metta.api.Policy`."""


class OptimizerConfig(FrozenModel):
    """The optimizer of the policy's weights."""

    type: Literal["adam", "muon"] = Field(
        default="adam",
        description="adam (arXiv:1412.6980), or muon (Jordan et al. 2024) for hidden weight matrices and AdamW for the "
        "other weights",
    )
    learning_rate: float = Field(default=0.000457, gt=0, description="learning rate")
    beta1: float = Field(
        default=0.9, ge=0, lt=1, description="decay rate of the running mean of gradients; the momentum of muon"
    )
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay rate of the running mean of squared gradients")
    eps: float = Field(default=1e-12, ge=0, description="constant added to the denominator of an update")
    weight_decay: float = Field(
        default=0.0, ge=0, description="weight decay: added to the gradient by adam, decoupled in muon and AdamW"
    )


class LRScheduleConfig(FrozenModel):
    """Learning rate schedule: an optional linear warm-up, then annealing to zero at the end of the run."""

    anneal_lr: bool = Field(default=True, description="anneal the learning rate; false keeps it constant")
    schedule_type: Literal["linear", "cosine"] = Field(
        default="linear", description="shape of the annealing: linear, or half a period of a cosine"
    )
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        lt=2**53,
        description="agent steps over which the learning rate rises linearly from zero; used only with anneal_lr",
    )


class PPOConfig(FrozenModel):
    """PPO (Schulman et al. 2017, arXiv:1707.06347) with GAE (Schulman et al. 2015, arXiv:1506.02438)."""

    clip_coef: float = Field(default=0.1, gt=0, description="the policy ratio is clipped to 1 +- clip_coef")
    ent_coef: float = Field(default=0.0021, ge=0, description="weight of the entropy bonus in the loss")
    gae_lambda: float = Field(default=0.916, ge=0, le=1, description="lambda of GAE")
    gamma: float = Field(default=0.977, ge=0, le=1, description="discount per step")
    max_grad_norm: float = Field(
        default=0.5, ge=0, description="gradients are scaled down to at most this global L2 norm; 0: off"
    )
    vf_clip_coef: float = Field(
        default=0.1, gt=0, description="with clip_vloss, new values are clipped to the old values +- vf_clip_coef"
    )
    vf_coef: float = Field(default=0.44, ge=0, description="weight of the value loss in the loss")
    l2_reg_loss_coef: float = Field(default=0.0, ge=0, description="weight of the sum of squared weights in the loss")
    l2_init_loss_coef: float = Field(
        default=0.0,
        ge=0,
        description="weight in the loss of the squared distance from the initial weights (arXiv:2308.11958)",
    )
    norm_adv: bool = Field(
        default=True, description="normalize the advantages of each minibatch to mean 0 and standard deviation 1"
    )
    clip_vloss: bool = Field(default=True, description="clip the value loss, see vf_clip_coef")
    target_kl: float | None = Field(
        default=None, gt=0, description="stop the updates of an epoch once the approximate KL divergence exceeds this"
    )


class VTraceConfig(FrozenModel):
    """V-trace (Espeholt et al. 2018, arXiv:1802.01561): off-policy correction of advantages and value targets."""

    enabled: bool = Field(
        default=False, description="recompute advantages and value targets with V-trace at each minibatch"
    )
    rho_clip: float = Field(
        default=1.0,
        gt=0,
        description="upper bound of the importance ratio that weights a step's own temporal difference (rho-bar)",
    )
    c_clip: float = Field(
        default=1.0,
        gt=0,
        description="upper bound of the importance ratio that carries later temporal differences back in time (c-bar)",
    )


class PrioritizedSamplingConfig(FrozenModel):
    """Prioritized sampling of segments by their advantages (after Schaul et al. 2016, arXiv:1511.05952)."""

    enabled: bool = Field(
        default=False,
        description="draw the segments of a minibatch by priority, with replacement, instead of each once per pass",
    )
    alpha: float = Field(
        default=0.8, ge=0, le=10, description="priority of a segment: its mean absolute advantage to this power"
    )
    beta: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="exponent of the importance weights that correct for the sampling; annealed linearly to 1 over the "
        "run",
    )


class NormalizationConfig(FrozenModel):
    """Running normalization of value targets and rewards inside the learner; reported rewards are unscaled."""

    values: bool = Field(
        default=False,
        description="normalize value targets by their running mean and standard deviation (PopArt, van Hasselt et al. "
        "2016, arXiv:1602.07714)",
    )
    value_decay: float = Field(
        default=0.95, ge=0, lt=1, description="decay rate per epoch of the running statistics of value targets"
    )
    rewards: bool = Field(
        default=False,
        description="divide rewards by the running standard deviation of discounted returns (arXiv:2005.12729); values "
        "are then those of scaled rewards",
    )
    reward_clip: float = Field(
        default=10.0, ge=0, description="scaled rewards are clipped to +- reward_clip; 0: not clipped"
    )


class ExperienceConfig(FrozenModel):
    """Collection of experience and its division into minibatches. All sizes count agent steps."""

    batch_size: int = Field(
        default=524288, ge=1, le=2**40, description="agent steps collected per epoch, rounded down to whole worlds"
    )
    minibatch_size: int = Field(default=16384, ge=1, le=2**40, description="agent steps per gradient step")
    bptt_horizon: int = Field(default=64, ge=1, le=1_000_000, description="agent steps of a training segment")
    update_epochs: int = Field(default=1, ge=1, le=10_000, description="passes over the batch per epoch")
    stagger_episodes: bool = Field(
        default=False,
        description="start the first episodes of the worlds at different steps, so that not all episodes end at once",
    )
    zero_copy: bool = Field(
        default=True,
        description="the simulator writes observations without padding into a buffer that is reused; false: it makes a "
        "padded array at each step, which is then packed",
    )
    cpu_offload: bool = Field(
        default=False, description="keep experience in host memory and move it to the device one minibatch at a time"
    )
    async_factor: int = Field(
        default=2,
        ge=1,
        le=1024,
        description="number of world batches; one steps while the policy runs on another",
    )
    workers: Annotated[int | Literal["auto"], IntegerOrAuto(1024)] = Field(
        default=0,
        description="number of processes that step the worlds, a share each, with the same results whatever it is; "
        "0: the worlds step in the process of the policy; auto: what the machine has",
    )
    forward_pass_minibatch_target_size: int = Field(
        default=4096, ge=1, le=2**40, description="approximate number of agents per forward pass of the policy"
    )


class KickstartingConfig(FrozenModel):
    """Kickstarting (Schmitt et al. 2018, arXiv:1803.03835): another policy as teacher; off without `teacher`."""

    teacher: FilePath = Field(
        default="",
        description="policy that labels the steps of the policy in training: scripted, a registered policy, a "
        "checkpoint, or a run (its newest policy; RUN/best.pt: its best one); empty: no teacher",
    )
    label_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="fraction of the agents that the teacher labels; the terms of the loss are means over their steps",
    )
    coef: float = Field(
        default=1.0,
        ge=0,
        description="weight in the loss of the divergence KL(teacher, policy) of the action distributions, nats",
    )
    value_coef: float = Field(
        default=0.0,
        ge=0,
        description="weight in the loss of half the mean squared difference to the teacher's values, which only "
        "checkpoints have",
    )
    hold_steps: int = Field(
        default=0, ge=0, lt=2**53, description="agent steps from the start of the run with constant weights"
    )
    anneal_steps: int = Field(
        default=0,
        ge=0,
        lt=2**53,
        description="agent steps after hold_steps over which both weights fall linearly to zero; 0: they stay constant",
    )

    @model_validator(mode="after")
    def _teacher_has_values(self) -> Self:
        if self.value_coef and self.teacher in POLICIES:
            message = f'needs a checkpoint as teacher; the policy "{self.teacher}" has no values'
            raise RulesError([Problem(("value_coef",), message)])
        return self

    def share(self, agent_step: int) -> float:
        """Factor of both weights after `agent_step` agent steps, 1 to 0; 0 without a teacher."""
        if not self.teacher:
            return 0.0
        if not self.anneal_steps:
            return 1.0
        return min(1.0, max(0.0, 1 - (agent_step - self.hold_steps) / self.anneal_steps))


class DistributedConfig(FrozenModel):
    """Data-parallel training of one policy by several processes started with `torchrun`; unused by a single process."""

    batch: Literal["global", "per_process"] = Field(
        default="global",
        description="batch_size and minibatch_size of [experience] count the agent steps of all processes together "
        "(global) or of each process (per_process)",
    )
    timeout_seconds: int = Field(
        default=900,
        ge=1,
        le=10**9,
        description="seconds that a process waits for the others before the job ends with an error; must exceed the "
        "time of an evaluation or a recording, for which all wait for the first process",
    )


class CompileConfig(FrozenModel):
    """Compilation of network layers with torch.compile, which takes time in the first epoch."""

    enabled: bool = Field(
        default=False,
        description="compile the dense layers of the backbone and the heads; needs a C++ compiler on CPUs",
    )
    mode: Literal["default", "max-autotune-no-cudagraphs"] = Field(
        default="default",
        description="mode of torch.compile; max-autotune-no-cudagraphs tries more kernels and takes longer",
    )


class CheckpointConfig(FrozenModel):
    """When and where checkpoints are saved, and which policies are kept."""

    checkpoint_interval: int = Field(
        default=60, ge=1, le=10**9, description="seconds of wall clock time between checkpoints"
    )
    wandb_checkpoint_interval: int = Field(
        default=300,
        ge=0,
        le=10**9,
        description="seconds between uploads of the newest checkpoint to Weights & Biases; 0: never",
    )
    checkpoint_dir: FilePath = Field(
        default="",
        description="directory of checkpoints; {run_dir}/x is in the run directory; empty: checkpoints/ in it",
    )
    keep_last: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="newest policies that are kept, at least those of the two trainer states; older ones are removed "
        "when a checkpoint has been saved; 0: all",
    )
    keep_best: bool = Field(
        default=False,
        description="keep the policy with the highest mean reward in an evaluation as best.pt; evaluations are those "
        "of simulation.evaluate_interval, and one of the last epoch",
    )


class SimulationConfig(FrozenModel):
    """Evaluations and replays during training."""

    evaluate_interval: int = Field(
        default=300,
        ge=0,
        le=10**9,
        description="seconds between evaluations in the [env] of the file, or in the last scene; 0: never",
    )
    replay_interval: int = Field(default=300, ge=0, le=10**9, description="seconds between recorded episodes; 0: never")
    replay_dir: FilePath = Field(
        default="",
        description="directory of replays; {run_dir}/x is in the run directory; elsewhere, names of replays begin with "
        "that of the run directory; empty: replays/ in the run directory",
    )


class LoggingConfig(FrozenModel):
    """Loggers besides `metrics.jsonl`."""

    tensorboard: bool = Field(
        default=False,
        description="write TensorBoard event files to tensorboard/ in the run directory; needs the extra tensorboard",
    )
    wandb: bool = Field(default=False, description="log to Weights & Biases; needs the extra wandb")
    wandb_project: str = Field(default="metta", min_length=1, description="project in Weights & Biases")
    wandb_mode: Literal["online", "offline"] = Field(
        default="online",
        description="online, or offline: logs are written to the run directory, to be uploaded with `wandb sync`; the "
        "newest one contains the whole run",
    )
    extra: list[Annotated[str, RegisteredName(LOGGERS)]] = Field(
        default_factory=list, description="names of custom loggers, registered or from installed packages"
    )
