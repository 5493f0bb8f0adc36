"""The policy network: the table `[agent]`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from metta.config.validation.frozen_model import FrozenModel, RegisteredName
from metta.errors import Problem, RulesError
from metta.extensions import Registry

ObservationType = Literal["grid_obs", "inventory", "global_vars"]
Critic = Literal["own", "group", "world"]
OBSERVATION_TYPES: tuple[ObservationType, ...] = ("grid_obs", "inventory", "global_vars")

BACKBONES: Final[Registry[Any]] = Registry("metta.backbones", "backbone", ("cnn", "attention", "mlp"))
"""Networks from tokens to features by name; each is a `Backbone` (agent/backbones.py)."""
DEFAULT_MEMORY_WINDOW: Final = 32
MEMORIES: Final[Registry[Any]] = Registry("metta.memories", "memory", ("lstm", "mingru", "attention"))
"""Networks that remember earlier steps by name; each is a `MemoryNetwork` (agent/memory/network.py)."""
OBSERVATION_PROCESSORS: Final[Registry[Any]] = Registry(
    "metta.observation_processors", "observation processor", ("flatten_obs_dict",)
)
"""Functions applied to tokens before the network reads them (`ObservationProcessor` in agent/tokens.py)."""


class AgentModelConfig(FrozenModel):
    """The policy network: backbone, memory, policy head and value head."""

    TRAINING_FIELDS: ClassVar[frozenset[str]] = frozenset(
        (
            "mask_actions",
            "bptt_horizon",
            "clip_range",
            "dtypes_fp16",
            "analyze_weights_interval",
            "l2_init_weight_update_interval",
        )
    )
    """Fields that affect sampling, training or floating-point precision, but not the architecture of the network."""

    hidden_dim: int = Field(
        default=1024,
        ge=1,
        le=65536,
        description="width of the features, of the memory and of the heads' hidden layers",
    )
    memory: Annotated[str, RegisteredName(MEMORIES)] = Field(
        default="lstm",
        description="network that remembers earlier steps of an episode: lstm, mingru (a quarter of the arithmetic of "
        "an LSTM), attention (to the last memory_window steps), or a custom one",
    )
    memory_window: int = Field(
        default=DEFAULT_MEMORY_WINDOW,
        ge=1,
        le=4096,
        description='steps before the current one that memory = "attention" reads; no effect on other memories',
    )
    lstm_layers: int = Field(default=1, ge=1, le=64, description="number of layers of the memory")
    mlp_layers: int = Field(default=2, ge=0, le=64, description="hidden layers of each head (policy and value)")
    critic: Critic = Field(
        default="own",
        description="whose encoded observations the value head reads in training: own, those of the agent; group or "
        "world, also the mean over the agents of its group, or of the whole world, from which the policy learns "
        "(MAPPO). Actions depend on the agent's own observation only",
    )
    backbone: Annotated[str, RegisteredName(BACKBONES)] = Field(
        default="cnn",
        description="network from tokens to features: cnn (two convolutions), attention (cross-attention from latent "
        "queries), mlp, or a custom one",
    )
    bptt_horizon: int = Field(
        default=8,
        ge=1,
        le=1_000_000,
        description="steps after which backpropagation through time is truncated within a training segment",
    )
    forward_lstm: bool = Field(default=True, description="use the memory; false: a feed-forward policy without memory")
    clip_range: float = Field(
        default=0.0,
        ge=0,
        description="gradients are clipped element-wise to +- clip_range, before ppo.max_grad_norm; 0: off",
    )
    use_prev_action: bool = Field(default=True, description="the previous action is an input")
    use_prev_reward: bool = Field(default=True, description="the previous reward is an input")
    use_cell_ahead: bool = Field(
        default=True, description="the cell in front of the agent is an extra input, for every orientation"
    )
    egocentric: bool = Field(
        default=False,
        description="rotate observations so that the agent always faces up, and interpret rotate actions relative to "
        "that; needs a square observation window",
    )
    mask_actions: bool = Field(
        default=False,
        description="never sample actions that cannot succeed in the current state, such as a move into a wall; log-"
        "probabilities and entropy are those of the other actions, in training and wherever the policy plays",
    )
    observation_types: list[ObservationType] = Field(
        default_factory=lambda: list(OBSERVATION_TYPES),
        description="groups of tokens that are inputs",
    )
    dtypes_fp16: bool = Field(
        default=False,
        description="compute in bfloat16 (autocast); on CPUs sums over tokens stay in float32, and so does the LSTM "
        "unless the CPU is fast in bfloat16",
    )
    obs_scale: float = Field(default=1.0, gt=0, description="factor that multiplies all normalized token values")
    obs_process_func: Annotated[str, RegisteredName(OBSERVATION_PROCESSORS)] = Field(
        default="flatten_obs_dict",
        description="observation processor, by name; flatten_obs_dict leaves observations unchanged",
    )
    analyze_weights_interval: int = Field(
        default=300,
        ge=0,
        le=10**9,
        description="epochs between analyses of the weights (norms, effective ranks, dead units); 0: never",
    )
    l2_init_weight_update_interval: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="epochs between updates of the reference weights of ppo.l2_init_loss_coef to the current ones; "
        "0: never",
    )

    @model_validator(mode="after")
    def _memory_is_used(self) -> Self:
        if not self.forward_lstm and self.memory != "lstm":
            message = f'must be true with memory = "{self.memory}"; false: a policy without memory'
            raise RulesError([Problem(("forward_lstm",), message)])
        return self

    @property
    def architecture(self) -> dict[str, Any]:
        """The fields that define the network. A checkpoint can be loaded only if all of them are equal."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in self.TRAINING_FIELDS}
