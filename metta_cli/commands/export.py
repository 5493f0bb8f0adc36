"""`metta export`: write a policy as an ONNX model."""

from __future__ import annotations

from typing import Annotated

import typer

from metta import api
from metta.errors import UsageError
from metta_cli import output, resolve
from metta_cli.parameters import BEST_HELP, RUN_HELP, Debug, PolicyName, Set, World, complete_run
from metta_cli.torch_setup import set_up_torch


def export(
    checkpoint: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT.pt|RUN",
            help=f"A policy file, or {RUN_HELP} ({BEST_HELP}).",
            autocompletion=complete_run,
        ),
    ],
    policy: PolicyName = None,
    env: World = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE.onnx", help="File to write.  [default: the policy's path with .onnx]")
    ] = None,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Export a policy as an ONNX model, to run it without torch.

    Of several policies, each is a file; --policy names one of them.
    The model reads the observations of the world that --env names, by default the policy's training world.
    """
    set_up_torch()
    path_of_policy = resolve.newest_policy(*checkpoint, policy=policy)
    if path_of_policy in api.POLICIES:
        raise UsageError(f"the {path_of_policy} policy is no network; only the policy of a checkpoint can be exported")
    env_config = resolve.load_env("export", path_of_policy, env, set_) if env or set_ else None
    agents = api.load_policy(path_of_policy, env_config=env_config).agents
    if out and len(agents) > 1:
        raise UsageError(
            f"--out names one file, and {path_of_policy} holds several policies ({', '.join(agents)}); name one of "
            f"them: metta export {path_of_policy} --policy {next(iter(agents))}"
        )
    file, _ = api.split_policy_name(path_of_policy)
    for name, agent in agents.items():
        path = out or file.with_name(f"{file.stem}_{name}.onnx" if name else f"{file.stem}.onnx")
        output.print_lines([str(api.export_policy(agent, path, overwrite=out is not None))])
