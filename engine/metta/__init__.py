"""Train teams of agents in gridworlds from one TOML file. `metta.api` has the public names."""

import sys
from importlib.metadata import version

if "metta_cli" not in sys.modules:  # the command line uses no Gymnasium ids; without them it starts faster
    from metta.gymnasium_registration import register_presets

    register_presets()


def __getattr__(name: str) -> str:
    """`__version__`: the version of the installed distribution."""
    if name == "__version__":
        return version("metta-gridworlds")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
