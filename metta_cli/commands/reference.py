"""`metta reference` and `metta schema`: the tables and keys of the TOML file, as text and as JSON Schema."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api
from metta_cli import output
from metta_cli.parameters import Debug


def complete_name(incomplete: str) -> list[tuple[str, str]]:
    """Names and descriptions of the tables, and after a dot also of the keys, that start with `incomplete`."""
    names = {}
    for table in api.config_reference():
        names[_full_name(table)] = table.description
        if "." in incomplete:
            names |= {f"{table.name}.{key.key}": key.description for key in table.keys}
    return [(name, description) for name, description in names.items() if name.startswith(incomplete)]


def reference(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE|KEY",
            help="A table or a key, such as ppo, env.game or ppo.gamma.  [default: list the tables]",
            autocompletion=complete_name,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Print the reference of the TOML file: its tables and keys."""
    tables = api.config_reference(name)
    if name is None:
        output.print_glossary([(_full_name(table), table.description) for table in tables])
        return
    for index, table in enumerate(tables):
        output.print_lines([""] * (index > 0) + [table.header + (f'  type = "{table.type}"' if table.type else "")])
        for paragraph in table.description.split("\n\n"):
            output.print_wrapped(paragraph)
        for key in table.keys:
            facts = [key.type, key.range, key.default if key.default == "required" else f"default {key.default}"]
            output.print_lines(["", key.key])
            output.print_wrapped("; ".join(fact for fact in facts if fact), indent=4)
            output.print_wrapped(key.description, indent=4)


def schema() -> None:
    """Print the JSON Schema of the TOML file, for editors."""
    output.print_json(api.config_schema())


def _full_name(table: api.TableReference) -> str:
    """The name of a table as an argument of `metta reference`: `ppo`, `env.map_builder.Maze`."""
    return f"{table.name}.{table.type}" if table.type else table.name
