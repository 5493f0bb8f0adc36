"""`metta bench`: measure the speed of training on this machine, and what other settings would bring."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from metta import api
from metta_cli import output
from metta_cli.commands.train import overrides
from metta_cli.parameters import Debug, Device, Json, Set, Source, integer_option
from metta_cli.torch_setup import set_up_torch
from metta_cli.views.progress_line import ProgressLine

Seconds = Annotated[int, integer_option("Seconds that the measurement takes, roughly.", 1)]
Profile = Annotated[
    str | None,
    typer.Option(metavar="FILE.json", help="Also trace an epoch, for https://ui.perfetto.dev: the only file written."),
]
LARGE_NOISE = 0.05
"""Smallest visible change of the speed above which a line says so."""
PARTS = {
    "learn": "learn: the policy is updated",
    "infer": "infer: the policy chooses actions",
    "wait": "wait: for the simulator",
    "simulate": "simulate: the worlds step",
    "transfer": "transfer: from and to the GPU",
    "other": "other: experience is stored",
}


def bench(
    source: Source,
    seconds: Seconds = 30,
    profile: Profile = None,
    device: Device = None,
    set_: Set = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the speed of training here, and what would change it.

    Says what bounds the speed. Trains parts of epochs without saving anything. Trials of settings alternate with the
    unchanged file; the table has the ratios of their speeds, with uncertainties. Other programs on the same cores make
    all figures uncertain.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or torch's profiler prints two lines of its log
    with api.open_config(source, overrides(set_, device=device)) as config:
        set_up_torch()
        if profile is not None:
            api.check_writable(profile)
        with ProgressLine() as line:
            result = api.bench(config, seconds, lambda text, share: line(f"measuring: {text}", share))
            if profile is not None:
                epoch_seconds = config.experience.batch_size / result.steps_per_second
                line(f"measuring: tracing an epoch, {output.format_duration(epoch_seconds)} or more", 1.0)
                profile = str(api.write_trace(config, profile))
    if json:
        output.print_json(_as_json(config, result, profile))
        return
    _print(config, result, seconds)
    if profile is not None:
        output.print_lines(["", f"wrote {profile}: open it at https://ui.perfetto.dev"])


def _print(config: api.RunConfig, result: api.BenchResult, seconds: int) -> None:
    threads = f"{result.threads} thread{'' if result.threads == 1 else 's'}"
    cores = f"{result.cores} core{'' if result.cores == 1 else 's'}"
    speed = f"{result.steps_per_second:,.0f} agent steps per second"
    output.print_lines([f"{config.run.name} on {result.device}, {threads}, {cores}: {speed}"])
    output.print_columns(("part", "us per agent step", "time"), list(_split_rows(result)))
    output.print_wrapped(result.bound)
    made = [each for each in result.trials if each.log_ratios]
    if made:
        rows = [(each.trial.name, _verdict(each), each.trial.caveat) for each in made]
        output.print_columns(("setting", "times as fast", "changes learning"), rows)
    for reason in dict.fromkeys(each.reason for each in result.trials if each.reason):
        names = [each.trial.name for each in result.trials if each.reason == reason]
        output.print_wrapped(f"not tried ({reason}): {'; '.join(names)}")
    for line in _advice(result, seconds):
        output.print_lines([line])


def _split_rows(result: api.BenchResult) -> Iterator[tuple[str, str, str]]:
    """Rows of the table of parts: name, microseconds per agent step, share of the time."""
    split = result.split
    for name, label in PARTS.items():
        value = (result.gpu.transfer if result.gpu else 0.0) if name == "transfer" else getattr(split, name)
        share = f"{value / split.total:.0%}"
        if name == "simulate" and split.beside:
            value, share = value + split.beside, "beside the policy"
        if name == "transfer":
            share = "beside the policy" if result.gpu else "no GPU"
        yield label, f"{1e6 * value:.2f}", share
    yield "total", f"{1e6 * split.total:.2f}", "100%"


def _verdict(result: api.TrialResult) -> str:
    plus_minus = output.encodable("±", "+-")
    text = f"{result.ratio:.2f} {plus_minus} {result.noise:.2f}"
    return text if result.differs else f"no difference ({text})"


def _advice(result: api.BenchResult, seconds: int) -> Iterator[str]:
    """The TOML lines that make training faster."""
    if result.recommended:
        yield ""
        yield "faster, and what is learned does not change:"
        yield from _toml(result.recommended)
        if result.together is not None and len(result.recommended) > 1:
            yield f"  # together: {_verdict(result.together)}"
    if result.different:
        yield ""
        yield "faster, but what is learned changes; compare rewards after the same time:"
        yield from _toml(result.different)
    if not result.recommended and not result.different:
        yield ""
        yield "no setting that was tried makes training faster here"
    if result.noise > LARGE_NOISE:
        yield (
            f"changes of less than {result.noise:.0%} could not be seen: measure without other programs, or for longer"
        )
    if any(each.reason == "no time left" for each in result.trials):
        yield f"to try all settings: --seconds {4 * seconds}"
    if result.cores > 1 and result.most_with_processes > 1.1 * max([1.0, *(each.ratio for each in result.recommended)]):
        yield (
            f"one process per core trains at most {result.most_with_processes:.1f} times as fast: "
            f"torchrun --nproc-per-node {result.cores} -m metta_cli train ..."
        )


def _toml(results: Sequence[api.TrialResult]) -> Iterator[str]:
    """The settings of trials as TOML, by table."""
    tables: dict[str, list[str]] = {}
    for result in results:
        remark = f"  # {_verdict(result)}" + (f"; {result.trial.caveat}" if result.trial.caveat else "")
        if result.trial.threads:
            yield f"  in the shell: export OMP_NUM_THREADS={result.trial.threads}{remark}"
        for setting in result.trial.settings:
            table, _, line = setting.partition(".")
            tables.setdefault(table, []).append(f"  {line}{remark}")
            remark = ""
    for table, lines in tables.items():
        yield f"  [{table}]"
        yield from lines


def _as_json(config: api.RunConfig, result: api.BenchResult, profile: str | None) -> dict[str, Any]:
    return {
        "name": config.run.name,
        "device": result.device,
        "threads": result.threads,
        "cores": result.cores,
        "parameters": result.num_weights,
        "steps_per_second": result.steps_per_second,
        "seconds_per_agent_step": dataclasses.asdict(result.split) | {"total": result.split.total},
        "gpu": dataclasses.asdict(result.gpu) if result.gpu else None,
        "cpu_time": result.cpu_time,
        "bound": result.bound,
        "trials": [_trial_as_json(each) for each in result.trials],
        "together": _trial_as_json(result.together) if result.together else None,
        "recommended": [each.trial.name for each in result.recommended],
        "faster_but_different": [each.trial.name for each in result.different],
        "profile": profile,
    }


def _trial_as_json(result: api.TrialResult) -> dict[str, Any]:
    return {
        "settings": list(result.trial.settings),
        "threads": result.trial.threads or None,
        "changes_learning": result.trial.caveat or None,
        "ratio": result.ratio,
        "noise": result.noise,
        "differs": result.differs,
        "samples": len(result.log_ratios),
        "not_tried": result.reason or None,
    }
