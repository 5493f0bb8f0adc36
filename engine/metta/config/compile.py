"""Compiled networks: `[compile]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from metta.config.validation.frozen_model import FrozenModel


class CompileConfig(FrozenModel):
    """Layers turned into kernels of their own by torch.compile, at the first epoch's expense."""

    enabled: bool = Field(
        default=False,
        description="compile the layers behind the first one and the heads; on CPUs that takes a C++ compiler",
    )
    mode: Literal["default", "max-autotune-no-cudagraphs"] = Field(
        default="default", description="of torch.compile: the second tries more kernels, for longer"
    )
