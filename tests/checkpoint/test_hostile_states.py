"""Trainer states that were changed by hand: each is refused with a message, or trained on; none crashes the process.

They are loaded in another process, since torch can crash on what it does not check. This file is also its program.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Recorder, interrupt, tiny_config, train_epoch
from typer.testing import CliRunner

from metta.api import TrainingState, load_config, resume_run, train_run
from metta.errors import CheckpointError, MettaError
from metta.run.resume.restore_run import restore_run
from metta_cli.main import app

KEPT = Path(__file__).parents[1] / "compatibility" / "version_1" / "run"
EPOCH = 2
RANDOM_CASES = 30

EXPERIENCE = ("extra_args", "experience")
WORLD = (*EXPERIENCE, "worlds", 0)
ADAM = ("optimizer_state_dict", "state", 0)
GROUP = ("optimizer_state_dict", "param_groups", 0)
SCHEDULE = ("lr_scheduler_state_dict",)


def other(shape: tuple[int, ...] = (3, 1), dtype: torch.dtype = torch.float32) -> Callable[[Any], Any]:
    return lambda _: torch.zeros(shape, dtype=dtype)


def filled(value: float) -> Callable[[Any], Any]:
    return lambda found: torch.full_like(found, value)


def one(value: float) -> Callable[[Any], Any]:
    """Only the last number is another one."""

    def change(found: torch.Tensor) -> torch.Tensor:
        found = found.clone()
        found.view(-1)[-1] = value
        return found

    return change


def kind(dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda found: found.to(dtype)


def just(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


REFUSED: list[tuple[tuple[Any, ...], Callable[[Any], Any]]] = [
    (("epoch",), just(-3)),
    (("agent_step",), just(-1)),
    (("total_agent_step",), just(2**60)),
    (("policy_path",), just("../../other/checkpoint_000002.pt")),
    (("policy_path",), just(None)),
    (("stopwatch_state",), just({})),
    (("stopwatch_state", "seconds"), just(float("nan"))),
    (("extra_args",), just({})),
    (("extra_args", "episodes_recorded"), just(-1)),
    (("extra_args", "torch_threads"), just([1])),
    (("extra_args", "other_experiences"), just(7)),
    (("extra_args", "opponents"), just(["../../policy"])),
    (("extra_args", "torch_generator"), other((5,), torch.uint8)),
    (("extra_args", "torch_generator"), filled(255)),
    (("extra_args", "initial_weights"), just(None)),
    (("extra_args", "initial_weights", "ahead"), one(float("nan"))),
    (("extra_args", "curriculum"), just(None)),
    (("extra_args", "curriculum", "names"), just([])),
    (("extra_args", "curriculum", "config"), just({"type": "zzz"})),
    (("extra_args", "curriculum", "config"), just({"type": "low_reward"})),
    (("extra_args", "curriculum", "env_configs", 0, "game", "num_agents"), just(65536)),
    (("extra_args", "curriculum", "env_configs", 0, "map_builder", "objects", "altar"), just(10**6)),
    ((*ADAM, "exp_avg"), other()),
    ((*ADAM, "exp_avg"), kind(torch.int64)),
    ((*ADAM, "exp_avg"), one(float("inf"))),
    ((*ADAM, "step"), just("x")),
    (ADAM, just({})),
    (("optimizer_state_dict", "state"), just({99: {}})),
    (("optimizer_state_dict", "state"), just([])),
    (SCHEDULE, just({})),
    ((*SCHEDULE, "last_epoch"), just("x")),
    ((*SCHEDULE, "last_epoch"), just(-7)),
    ((*EXPERIENCE, "memory", 0, "hidden"), other()),
    ((*EXPERIENCE, "memory", 0, "hidden"), kind(torch.int64)),
    ((*EXPERIENCE, "memory", 0, "cell"), one(float("nan"))),
    ((*EXPERIENCE, "memory"), just([])),
    ((*EXPERIENCE, "observations"), other((1, 48, 3), torch.uint8)),
    ((*EXPERIENCE, "observations"), kind(torch.float32)),
    ((*EXPERIENCE, "episode_starts"), other((3,), torch.bool)),
    ((*EXPERIENCE, "policy_generator"), other((4,), torch.uint8)),
    ((*EXPERIENCE, "shuffle_generator"), filled(255)),
    ((*EXPERIENCE, "worlds"), just([])),
    (WORLD, just({})),
    *(((*WORLD, "grid"), change) for change in (filled(123456), filled(0), one(-1), other(), kind(torch.int64))),
    *(((*WORLD, "cell"), change) for change in (filled(10**9), one(0), kind(torch.bfloat16))),
    ((*WORLD, "ruleset"), filled(77)),
    ((*WORLD, "orientation"), filled(99)),
    ((*WORLD, "color"), filled(10**6)),
    ((*WORLD, "group_row"), filled(50)),
    ((*WORLD, "episode"), one(-2)),
    ((*WORLD, "inventory"), kind(torch.int64)),
    ((*WORLD, "score"), one(float("nan"))),
    ((*WORLD, "converter_type"), filled(200)),
    *(((*WORLD, "converter_cell"), change) for change in (filled(10**9), filled(-1), filled(50))),
    ((*WORLD, "converter_phase"), filled(2)),
    ((*WORLD, "converter_due"), filled(0)),
    ((*WORLD, "converter_slots"), just(10**9)),
    ((*WORLD, "clock"), just("x")),
    ((*WORLD, "seed"), just(-5)),
    ((*WORLD, "format"), just(2)),
    ((*WORLD, "format"), just([[1], [1, 2]])),
    ((*WORLD, "invalid"), other((1, 4), torch.int64)),
    ((*WORLD, "task_shares"), filled(float("nan"))),
    ((*WORLD, "task_shares"), filled(0.5)),
]
"""Where, and what is put there: parts that are missing, of another type or shape, not finite, or lead nowhere."""


def changed(content: dict[str, Any], place: tuple[Any, ...], change: Callable[[Any], Any]) -> dict[str, Any]:
    holder = spoiled = copy.deepcopy(content)
    for part in place[:-1]:
        holder = holder[part]
    holder[place[-1]] = change(holder.get(place[-1]) if isinstance(holder, dict) else holder[place[-1]])
    return spoiled


def entries(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from entries(inner, (*place, key))


def at_random(content: dict[str, Any], count: int) -> Iterator[tuple[tuple[Any, ...], Callable[[Any], Any]]]:
    """Any value replaced by any other, or an array's last number."""
    generator = random.Random(3)
    places = [place for place in entries(content) if place[0] != "format" and "env_configs" not in place]
    values = [torch.zeros(3, 1), torch.zeros(0), "x", -1, 2**70, float("nan"), {}, [], None, True, b"x", (1, 2)]
    for _ in range(count):
        place = generator.choice(places)
        found: Any = content
        for part in place:
            found = found[part]
        if isinstance(found, torch.Tensor) and found.numel() and generator.random() < 0.6:
            span = 1 if found.dtype == torch.bool else 255 if found.dtype == torch.uint8 else 100
            yield place, one(generator.randint(0 if span != 100 else -100, span))
        else:
            yield place, just(generator.choice(values))


def answer(run: Path, file: Path) -> dict[str, str]:
    """What becomes of a run that is to resume from a state, for an epoch."""
    config = load_config(str(run / "config.toml"))
    try:
        restored = restore_run(config, TrainingState.load(file), run / "checkpoints")
    except CheckpointError as error:
        return {"refused": str(error)}
    try:
        train_epoch(restored)
    except MettaError as error:
        return {"stopped": str(error)}
    finally:
        restored.close()
    return {"trained": ""}


def main(run: Path) -> None:
    """Each case in turn; a line of JSON for each."""
    torch.set_num_threads(1)
    content = torch.load(run / "checkpoints" / f"trainer_state_{EPOCH:06d}.pt", weights_only=True)
    cases = [(place, change, True) for place, change in REFUSED]
    cases += [(place, change, False) for place, change in at_random(content, RANDOM_CASES)]
    for place, change, is_listed in cases:
        print(json.dumps({"place": ".".join(map(str, place)), "listed": is_listed}), flush=True)
        file = run / "spoiled.pt"
        torch.save(changed(content, place, change), file)
        print(json.dumps(answer(run, file)), flush=True)


def test_states_that_do_not_fit_are_refused_and_none_crashes(tmp_path: Path) -> None:
    shutil.copytree(KEPT, tmp_path / "run")
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, f"{lines[-1:]}\n{ran.stderr[-3000:]}"
    cases = list(zip(lines[::2], lines[1::2], strict=True))
    assert len(cases) == len(REFUSED) + RANDOM_CASES
    taken = [case["place"] for case, outcome in cases if case["listed"] and "refused" not in outcome]
    assert not taken, f"accepted: {taken}"


def test_a_state_that_is_refused_is_named_and_the_one_before_used(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_run(tiny_config(run), Recorder(1, interrupt))
    resume_run(run, Recorder(2, interrupt))
    checkpoints = run / "checkpoints"
    content = torch.load(checkpoints / "trainer_state_000002.pt", weights_only=True)
    spoiled = changed(content, (*ADAM, "exp_avg"), other())
    torch.save(spoiled, checkpoints / "trainer_state_000002.pt")
    result = CliRunner().invoke(app, ["resume", str(run)])
    assert result.exit_code == 0, result.output
    sentence = r"its optimizer_state_dict.state.0.exp_avg is float32 [3, 1], not float32 ["
    assert f"trainer_state_000002.pt cannot be resumed from: {sentence}" in result.stderr
    assert "resuming from trainer_state_000001.pt" in result.stderr


@pytest.mark.parametrize("part", ["seats", "places", "observations", "memories"])
def test_the_opponents_of_a_state_are_checked_too(tmp_path: Path, part: str) -> None:
    run = tmp_path / "run"
    play = ["self_play.share=0.5", "self_play.snapshot_interval=1", "normalization.rewards=true"]
    train_run(tiny_config(run, *play), Recorder(2, interrupt))
    file = run / "checkpoints" / "trainer_state_000002.pt"
    content = torch.load(file, weights_only=True)
    assert answer(run, file) == {"trained": ""}
    place = (*EXPERIENCE, "opponents", 0, part)
    change = just([{"hidden": torch.zeros(1), "cell": torch.zeros(1)}]) if part == "memories" else filled(99)
    if part == "observations":
        change = other((1, 48, 3), torch.uint8)
    torch.save(changed(content, place, change), tmp_path / "spoiled.pt")
    assert answer(run, tmp_path / "spoiled.pt")["refused"].startswith(f"its {'.'.join(map(str, place))}")
    scale = (*EXPERIENCE, "reward_scale", "squares")
    torch.save(changed(content, scale, just(float("inf"))), tmp_path / "spoiled.pt")
    assert answer(run, tmp_path / "spoiled.pt")["refused"] == f"its {'.'.join(map(str, scale))} is not a finite number"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
