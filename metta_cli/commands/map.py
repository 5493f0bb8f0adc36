"""`metta map`: print the initial map of an episode."""

from __future__ import annotations

from typing import Annotated

from metta import api
from metta_cli import output
from metta_cli.parameters import Debug, Set, Source, integer_option


def map_(
    source: Source,
    seed: Annotated[int, integer_option("Seed of the map.", 0)] = 0,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Print the initial map of an episode, and its legend.

    Each character is a cell. The output is a map file, which a world of type "Ascii" can use.
    """
    env_config = api.load_world(source, set_ or ())
    world = api.make_environment(env_config)
    world.reset(seed=seed)
    text = api.draw_map(env_config, world.cells())
    if output.can_animate():
        from metta_cli.views.world_view import styled_map  # noqa: PLC0415  # rich is imported only where needed

        console, width = output.make_console(), env_config.game.width
        console.print(styled_map(env_config, text), no_wrap=True, overflow="crop")
        if console.width < width:
            output.print_note(f"the terminal shows {console.width} of {width} columns; metta map ... > FILE writes all")
    else:
        output.print_lines([text])
