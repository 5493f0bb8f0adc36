"""`metta export`: write a policy as an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metta import api
from metta_cli import output, resolve
from metta_cli.parameters import Debug
from metta_cli.torch_setup import set_up_torch


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT.pt|RUN_DIR", help="A policy file, or a run directory (its newest policy)."),
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FILE.onnx", help="File to write.  [default: the policy's path with .onnx]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Export a policy as an ONNX model, to run it without torch."""
    set_up_torch()
    checkpoint = resolve.newest_policy(checkpoint)
    policy, path = api.load_policy(checkpoint).agent, out or Path(checkpoint).with_suffix(".onnx")
    output.print_lines([str(api.export_policy(policy, path, overwrite=out is not None))])
