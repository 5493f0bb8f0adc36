"""`metta check`: validate a TOML file, and print all values and derived numbers."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace

from metta import api
from metta.errors import UsageError
from metta_cli import output, resolve
from metta_cli.commands.train import overrides
from metta_cli.parameters import Debug, From, Json, Set, Source


def check(source: Source, from_: From = None, set_: Set = None, json: Json = False, debug: Debug = False) -> None:
    """Validate a TOML file; print all values and derived numbers.

    The output is a TOML file itself, in which the derived numbers are comments; in a terminal they come first. The exit
    code is 2 if the file is not valid or if the run needs more memory than this machine has.
    """
    with api.open_config(source, overrides(set_, init_from=from_)) as config:
        result = _checked(config)
    kept = "kept in the process" if api.keep_freed_memory() else "returned to the system (the C library is not glibc)"
    if json:
        output.print_json(_as_json(config, result))
    elif sys.stdout.isatty():
        output.print_derived(result.rows)
        output.print_lines([f"freed memory is {kept}", "", "# All values", api.dump_config(config).rstrip("\n")])
    else:
        output.print_lines([api.check_text(config, result.rows), f"# freed memory is {kept}"])
    if result.error:
        raise result.error


def _checked(config: api.RunConfig) -> api.ConfigCheck:
    """The check of a config. Imports torch only for custom networks and policies it names, and to find a GPU."""
    weights: dict[str, int] | None = None
    transferred: list[api.Derived] = []
    paths: list[str] = []

    def found(key: object, path: str) -> str:
        paths.append(path)
        return path

    config.with_policies(found)
    world = api.load_tasks(config).env_configs[0]
    policies = api.policy_settings(config, world)
    if paths or any(_is_custom(policy.agent) or policy.kickstarting.teacher for policy in policies):
        weights = {}
        for policy in policies:
            agent = api.make_agent(api.ObservationSpace(world), api.ActionSpace(world), [], "cpu", policy.agent)
            weights[policy.name] = sum(weight.numel() for weight in agent.parameters())
            if policy.train:
                transferred += _transferred(api.load_initial_weights(agent, config, policy))
        resolve.check_teacher(config)
    result = api.check_config(config, weights)
    if not result.fits and config.run.device != "cpu":
        with suppress(UsageError):  # the config is for another machine
            device = api.find_device(config.run.device)
            result = api.check_config(config, weights, device.type, api.gpu_memory(device))
    return replace(result, rows=(*result.rows, *transferred))


def _is_custom(agent: api.AgentModelConfig) -> bool:
    return api.BACKBONES.is_custom(agent.backbone) or api.MEMORIES.is_custom(agent.memory)


def _transferred(transfer: api.WeightTransfer | None) -> list[api.Derived]:
    """What a policy of a new run would take over from the one that it starts with."""
    if transfer is None:
        return []
    head = f"{transfer.policy}: " if transfer.policy else ""
    loaded = api.Derived(
        f"{head}weights taken over", f"{transfer.num_loaded:,}", f"from {transfer.path}", number=transfer.num_loaded
    )
    lists = {"new here": transfer.new, "not taken over": transfer.dropped, "differing": transfer.differing}
    return [
        loaded,
        *(
            api.Derived(f"{head}{name}", str(len(entries)), ", ".join(entries))
            for name, entries in lists.items()
            if entries
        ),
    ]


def _as_json(config: api.RunConfig, result: api.ConfigCheck) -> dict[str, object]:
    rows = [
        {"name": row.name, "value": row.value if row.number is None else row.number, "reason": row.reason}
        for row in result.rows
        if not row.is_warning
    ]
    return {
        "derived": rows,
        "warnings": [row.reason for row in result.rows if row.is_warning],
        "error": str(result.error) if result.error else None,
        "config": config.model_dump(exclude_none=True),
    }
