"""Train teams of agents in gridworlds from one TOML file. `metta.api` has the public names."""

from importlib.metadata import version

from metta.gymnasium_registration import register_presets

register_presets()


def __getattr__(name: str) -> str:
    """`__version__`: the version of the installed distribution, read when it is asked for."""
    if name == "__version__":
        return version("metta-gridworlds")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
