"""Layers compiled in place: weights keep their names, so that checkpoints do not know of it."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from typing import Final

from metta.agent.policy import MettaAgent
from metta.config.compile import CompileConfig
from metta.errors import UsageError

_COMPILERS: Final = ("cl",) if sys.platform == "win32" else ("g++", "clang++", "c++")


def compile_agent(agent: MettaAgent, config: CompileConfig) -> None:
    """Let torch compile the dense layers of an agent when they are first called; nothing if not `enabled`.

    The sums over tokens and the LSTM stay as they are: their shapes follow from what is seen, and their kernels are
    fast already. Copies of the agent are not compiled. Raises UsageError where there is no C++ compiler to do it with.
    """
    if not config.enabled:
        return
    if not has_compiler():
        raise UsageError(
            f"[compile] takes a C++ compiler ({', '.join(_COMPILERS)}, or the one that CXX names), and none is here; "
            "install one, or set compile.enabled = false"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of parts of torch that its compiler imports
        for module in (*agent.backbone.dense_layers(), agent.policy_head, agent.value_head):
            module.compile(mode=config.mode, dynamic=True)


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which torch calls for code of its own making."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else _COMPILERS))
