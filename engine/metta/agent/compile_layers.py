"""Compile the agent's dense layers with `torch.compile`, in place, so that parameter names do not change."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from typing import Final

from metta.agent.policy import MettaAgent
from metta.config.training import CompileConfig
from metta.errors import UsageError

_COMPILERS: Final = ("cl",) if sys.platform == "win32" else ("g++", "clang++", "c++")


def compile_agent(agent: MettaAgent, config: CompileConfig) -> None:
    """Compile the dense layers of an agent when they are first called; do nothing unless `config.enabled`.

    Token sums and the LSTM are not compiled: their shapes depend on the data, and their kernels are fast already.
    Copies of the agent are not compiled. Raises UsageError if no C++ compiler is found.
    """
    if not config.enabled:
        return
    if not has_compiler():
        raise UsageError(
            f"[compile] needs a C++ compiler ({', '.join(_COMPILERS)}, or the one that the environment variable CXX "
            "names), and none was found; install one, or set compile.enabled = false"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from parts of torch that its compiler imports
        for module in (*agent.backbone.dense_layers(), agent.policy_head, agent.value_head):
            module.compile(mode=config.mode, dynamic=True)


def has_compiler() -> bool:
    """Whether a C++ compiler is on the PATH; the environment variable CXX overrides the names that are tried."""
    compiler = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([compiler] if compiler else _COMPILERS))
