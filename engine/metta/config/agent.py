"""The policy network: `[agent]`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from metta.config.validation.frozen_model import FrozenModel, PartOf
from metta.extensions import Registry

ObservationType = Literal["grid_obs", "inventory", "global_vars"]
OBSERVATION_TYPES: tuple[ObservationType, ...] = ("grid_obs", "inventory", "global_vars")

BACKBONES: Final[Registry[Any]] = Registry("metta.backbones", "backbone", ("cnn", "attention", "mlp"))
"""The networks from tokens to features; what one must be: agent/backbones.py."""
OBSERVATION_PROCESSORS: Final[Registry[Any]] = Registry(
    "metta.observation_processors", "observation processor", ("flatten_obs_dict",)
)
"""What is done to tokens before a network reads them; what one must be: agent/processors.py."""


class AgentModelConfig(FrozenModel):
    """Neural network architecture."""

    TRAINING_FIELDS: ClassVar[frozenset[str]] = frozenset(
        ("bptt_horizon", "clip_range", "dtypes_fp16", "analyze_weights_interval", "l2_init_weight_update_interval")
    )
    """Fields that change how weights are trained, or in which precision they compute, but not what they compute."""

    hidden_dim: int = Field(
        default=1024, ge=1, le=65536, description="width of the LSTM and of the heads' hidden layers"
    )
    lstm_layers: int = Field(default=1, ge=1, le=64, description="number of LSTM layers")
    mlp_layers: int = Field(default=2, ge=0, le=64, description="hidden layers of each head (policy and value)")
    backbone: Annotated[str, PartOf(BACKBONES)] = Field(
        default="cnn",
        description="from tokens to features: cnn (box and convolutions), attention (latents), mlp, or one of your own",
    )
    bptt_horizon: int = Field(
        default=8,
        ge=1,
        le=1_000_000,
        description="gradients through time are cut every so many steps inside a training segment",
    )
    forward_lstm: bool = Field(default=True, description="false: no LSTM, a feed-forward policy without memory")
    clip_range: float = Field(
        default=0.0, ge=0, description="element-wise gradient clipping to +-range before the norm clip; 0: off"
    )
    use_prev_action: bool = Field(default=True, description="the policy sees its previous action")
    use_prev_reward: bool = Field(default=True, description="the policy sees its previous reward")
    use_cell_ahead: bool = Field(
        default=True, description="the policy is shown the cell straight ahead as such, whichever way it faces"
    )
    egocentric: bool = Field(
        default=False,
        description="the policy sees its surroundings turned so that it always faces up, and rotates from there; "
        "takes a square window",
    )
    observation_types: list[ObservationType] = Field(
        default_factory=lambda: list(OBSERVATION_TYPES),
        description="families of tokens the policy sees",
    )
    dtypes_fp16: bool = Field(
        default=False, description="autocast to bfloat16; on CPUs sums stay float32, and the LSTM on all but the newest"
    )
    obs_scale: float = Field(default=1.0, gt=0, description="multiplies the normalized observation")
    obs_process_func: Annotated[str, PartOf(OBSERVATION_PROCESSORS)] = Field(
        default="flatten_obs_dict", description="name of an observation processor; flatten_obs_dict changes nothing"
    )
    analyze_weights_interval: int = Field(
        default=300,
        ge=0,
        le=10**9,
        description="every so many epochs, weight norms, effective rank and dead units; 0: off",
    )
    l2_init_weight_update_interval: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="every so many epochs the l2-init loss refers to the current weights; 0: never",
    )

    @property
    def architecture(self) -> dict[str, Any]:
        """The fields that shape the function of the weights: a checkpoint loads only where all of them are equal."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in self.TRAINING_FIELDS}
