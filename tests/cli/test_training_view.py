"""The live view of a run: what it shows at each size of the terminal, and its estimates within an epoch."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from tiny_runs import Recorder, tiny_config

from metta.api import (
    CheckpointSaved,
    EpochEnded,
    Event,
    PhaseBegan,
    PhaseProgressed,
    RunBegan,
    RunEnded,
    StopRequested,
    train_run,
)
from metta_cli.views.training_lines import PlainView, RunProgress, end_summary
from metta_cli.views.training_view import LiveView

SIZES = [(200, 50), (120, 40), (80, 24), (60, 24), (40, 24)]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("metta_cli.views.training_lines.time", clock)
    monkeypatch.setattr("metta_cli.views.training_view.time", clock)
    return clock


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Event]:
    """Those of a run of two epochs, with large numbers."""
    recorder = Recorder()
    train_run(tiny_config(tmp_path_factory.mktemp("view") / "run", "run.total_timesteps=1024"), recorder)
    return recorder.events


def of_kind(events: Sequence[Event], kind: type) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def began(events: Sequence[Event], **changes: object) -> RunBegan:
    (event,) = of_kind(events, RunBegan)
    assert isinstance(event, RunBegan)
    return dataclasses.replace(event, **changes)  # type: ignore[arg-type]


def ended_epoch(events: Sequence[Event], **changes: object) -> EpochEnded:
    event = of_kind(events, EpochEnded)[-1]
    assert isinstance(event, EpochEnded)
    times = {"seconds_simulate": 10.0, "seconds_infer": 20.0, "seconds_learn": 70.0}
    return EpochEnded(dataclasses.replace(event.metrics, **{**times, **changes}))  # type: ignore[arg-type]


def view_of(width: int, height: int, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> LiveView:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, "backslashreplace")
    stream.fileno = lambda: 1  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", stream)
    console = Console(file=stream, width=width, height=height, force_terminal=True, markup=False, emoji=False)
    return LiveView(console)


def drawn(view: LiveView) -> list[str]:
    assert view.run
    with view.console.capture() as capture:
        view.console.print(view._panel(view.run))
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()


def feed(view: LiveView, *events: Event) -> None:
    for event in events:
        view(event)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_numbers_stay_and_columns_go(
    events: Sequence[Event], clock: Clock, monkeypatch: pytest.MonkeyPatch, width: int, height: int, encoding: str
) -> None:
    view = view_of(width, height, monkeypatch, encoding)
    feed(view, began(events), CheckpointSaved(Path("checkpoint_000000.pt"), 0, 0))
    for epoch, reward in enumerate((-1234.5, 0.25, 4321.5, 3.125), 1):
        clock.now += 2
        feed(view, ended_epoch(events, epoch=epoch, agent_step=512, reward=reward, evaluation={"mean_reward": 2.5}))
    feed(view, PhaseBegan("collect"), PhaseProgressed("collect", 128, 512), StopRequested("SIGINT"))
    lines = drawn(view)
    assert len(lines) < height
    assert {cell_len(line) for line in lines} == {width}
    text = " ".join(line.strip("│|").strip() for line in lines)
    for part in (
        "62%",
        "steps 640/1,024",
        "5 steps/s",
        "left 1:32",
        "collecting experience",
        " 25%",
        "reward per agent and episode 3.125",
        "first -1,234.5",
        "best 4,321.5",
        "episode length 20.000",
        "time spent in the last epoch",
        "simulate",
        " 10%",
        " 20%",
        " 70%",
        "last checkpoint: epoch 0, 0:08 ago",
        "Saving, then stopping. Press Ctrl-C again to quit without saving.",
    ):
        assert part in re.sub(" +", " ", text), f"{part}\n" + "\n".join(lines)
    if encoding == "ascii":
        assert all(line.isascii() for line in lines)
    elif width >= 40:
        assert re.search(r"first \S+ [▁▂▃▄▅▆▇█]{4} best", text)
    if height > 24:
        assert "policy loss" in text
        assert "gradient norm" in text


@pytest.mark.parametrize("name", ["short", "a" * 100, "東京" * 50])
def test_the_end_of_a_long_directory_is_shown(
    events: Sequence[Event], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    view = view_of(40, 24, monkeypatch)
    feed(view, began(events, directory=Path(f"{name}z")))
    lines = drawn(view)
    assert {cell_len(line) for line in lines} == {40}
    assert any(line.rstrip(" │").endswith(f"{name[-5:]}z") for line in lines)


def test_a_checkpoint_is_announced_for_the_end_of_an_epoch(
    events: Sequence[Event], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of(120, 40, monkeypatch)
    feed(view, began(events), CheckpointSaved(Path("checkpoint_000000.pt"), 0, 0), PhaseBegan("collect"))
    clock.now += 30
    assert any("next checkpoint in 0:30" in line for line in drawn(view))  # checkpoint_interval is 60 seconds
    feed(view, PhaseProgressed("collect", 256, 512))
    clock.now += 40
    assert any("next checkpoint after this epoch" in line for line in drawn(view))
    feed(view, ended_epoch(events, epoch=1, agent_step=512), PhaseBegan("collect"))  # an epoch takes 100 seconds
    feed(view, CheckpointSaved(Path("checkpoint_000001.pt"), 1, 512))
    assert any("next checkpoint in 1:40" in line for line in drawn(view))


def test_progress_is_estimated_from_the_first_seconds(events: Sequence[Event], clock: Clock) -> None:
    progress = RunProgress()
    progress.update(began(events))
    progress.update(PhaseBegan("collect"))
    assert (progress.agent_step, progress.steps_per_second, progress.seconds_left) == (0, None, None)
    clock.now += 2
    progress.update(PhaseProgressed("collect", 128, 512))  # 8 seconds of an epoch, the update not known
    assert (progress.agent_step, progress.share, progress.steps_per_second) == (128, 0.25, 64)
    assert (progress.seconds_left, progress.is_lower_bound) == (2 * 8 - 2, True)
    clock.now += 6
    progress.update(PhaseBegan("update"))
    clock.now += 1
    progress.update(PhaseProgressed("update", 128, 512))  # 4 seconds
    assert (progress.agent_step, progress.share) == (512, 0.25)
    assert progress.steps_per_second == pytest.approx(512 / 12)
    assert (progress.seconds_left, progress.is_lower_bound) == (2 * 12 - 9, False)
    progress.update(ended_epoch(events, epoch=1, agent_step=512))  # 100 seconds
    assert (progress.agent_step, progress.seconds_left) == (512, 100)
    progress.update(PhaseBegan("collect"))
    progress.update(PhaseProgressed("collect", 256, 512))  # half of 30 seconds
    assert (progress.agent_step, progress.seconds_left) == (768, 85)
    progress.update(PhaseBegan("update"))
    progress.update(PhaseBegan("evaluate"))
    assert (progress.agent_step, progress.seconds_left) == (1024, 0)
    (ended,) = of_kind(events, RunEnded)
    assert isinstance(ended, RunEnded)
    progress.update(dataclasses.replace(ended, epoch=1, agent_step=512, reason="interrupted"))  # the epoch is not saved
    assert progress.agent_step == 512


def test_a_run_tells_its_progress_within_an_epoch(events: Sequence[Event], tmp_path: Path) -> None:
    recorder = Recorder()
    slow = tiny_config(tmp_path / "run", "run.total_timesteps=4096", "experience.batch_size=4096")
    train_run(slow, recorder)
    told = [event for event in recorder.events if isinstance(event, PhaseProgressed)]
    assert {event.phase for event in told} <= {"collect", "update"}
    assert all(0 < event.done <= event.total == 4096 for event in told)
    (epoch,) = [event.metrics for event in recorder.events if isinstance(event, EpochEnded)]
    assert len(told) <= epoch.seconds / 0.25 + 1
    assert told or epoch.seconds < 1


def test_plain_lines_tell_the_progress_of_slow_epochs(
    events: Sequence[Event], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    view = PlainView()
    view(began(events))
    view(PhaseBegan("collect"))
    for done in range(32, 256, 32):
        clock.now += 10
        view(PhaseProgressed("collect", done, 512))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("epoch")] == [
        "epoch 1  collecting experience 25%  steps 128/1,024  3 steps/s  left > 4:40",
    ]


def test_the_last_lines_name_whole_epochs_and_the_next_commands(events: Sequence[Event]) -> None:
    (ended,) = of_kind(events, RunEnded)
    assert isinstance(ended, RunEnded)
    run = began(events)
    shorter = dataclasses.replace(run, config=tiny_config("", "run.total_timesteps=1000"))
    longer = dataclasses.replace(run, config=tiny_config("", "run.total_timesteps=5000"))
    assert end_summary(ended, run)[0].startswith("finished: 1,024 agent steps, 2 epochs in ")
    assert end_summary(ended, shorter)[0].startswith(
        "finished: 1,024 of 1,000 agent steps (whole epochs), 2 epochs in "
    )
    stopped = dataclasses.replace(ended, reason="interrupted")
    assert end_summary(stopped, longer)[0].startswith("interrupted: 1,024 of 5,000 agent steps, 2 epochs in ")
    commands = [line.split("metta ")[1].split()[0] for line in end_summary(ended, run) if "  metta " in line]
    assert commands == ["eval", "watch", "replay", "resume"]
