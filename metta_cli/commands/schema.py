"""`metta schema`: print the JSON Schema of the TOML file."""

from __future__ import annotations

from metta import api
from metta_cli import output


def schema() -> None:
    """Print the JSON Schema of the TOML file, for editors."""
    output.print_json(api.config_schema())
