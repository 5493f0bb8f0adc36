"""TensorBoard and Weights & Biases get the metrics of `metrics.jsonl`, also of resumed runs."""

from __future__ import annotations

import importlib
import json
import os
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_runs import TINY, Killed, Recorder, ignore, interrupt, kill, metrics_of, tiny_config

from metta.api import resume_run, train_run
from metta.errors import UsageError
from metta.run.loggers import numbers


def needs(package: str) -> pytest.MarkDecorator:
    """Skips a test where an extra is not installed; in CI it fails there."""
    is_absent = find_spec(package) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(is_absent, reason=f'pip install -e ".[{package}]" to test this logger')


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard itself
def test_tensorboard_has_the_same_metrics_each_epoch_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415  # an extra

    run_dir = tmp_path / "run"
    train_run(tiny_config(run_dir, "logging.tensorboard=true"), Recorder(3, interrupt))
    with pytest.raises(Killed):
        resume_run(run_dir, Recorder(6, kill))
    resume_run(run_dir, ignore)
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("losses/entropy")]
    assert logged == [(line["epoch"], pytest.approx(line["losses"]["entropy"])) for line in metrics_of(run_dir)]
    rewards = [event.step for event in events.Scalars("reward")]
    assert rewards == [line["epoch"] for line in metrics_of(run_dir) if line["episodes"]]


@needs("wandb")
def test_wandb_has_metrics_and_policy_of_the_run_and_every_epoch_once_after_a_kill(tmp_path: Path) -> None:
    """What its own process still held when the run was killed comes again: the newest log has the whole run."""
    text = TINY.replace("total_timesteps = 4096", f"total_timesteps = {512 * 40}")
    (tmp_path / "run.toml").write_text(text + '[logging]\nwandb = true\nwandb_mode = "offline"\n')
    metta, metrics = [sys.executable, "-m", "metta_cli"], tmp_path / "run" / "metrics.jsonl"
    options = ("--run-dir", "run", "--quiet", "--set", "checkpoint.checkpoint_interval=1")
    with subprocess.Popen([*metta, "train", "run.toml", *options], cwd=tmp_path) as process:
        while not metrics.exists() or metrics.read_text().count("\n") < 20:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    resumed = subprocess.run(
        [*metta, "resume", "run", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert all(json.loads(line) for line in resumed.stdout.splitlines())
    run_id = (tmp_path / "run" / "wandb_run_id").read_text()  # the resumed run is the same one
    first, second = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert wandb_steps(first)
    assert wandb_steps(second) == list(range(1, 41))
    content = second.read_bytes()
    for part in (b"losses/entropy", f"{run_id}-policy".encode(), b"checkpoint_000040.pt"):
        assert part in content


def wandb_steps(log: Path) -> list[int]:
    """The steps in a log of W&B: records in blocks of 32 KiB, each with its checksum, length and kind before it."""
    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    content, position, record, steps = log.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole one, or the last part of one
            message = messages.Record.FromString(record)
            if message.WhichOneof("record_type") == "history":
                steps.append(message.history.step.num)
            record = b""
    return steps


EVERY_OTHER_EPOCH = """
import sys
import time
from types import SimpleNamespace
from metta.api import PhaseBegan, train_run
from metta.run import interval_timer
from tiny_runs import tiny_config

seconds = 0

def listen(event):
    global seconds
    seconds += 10 * (isinstance(event, PhaseBegan) and event.phase == "collect")

interval_timer.time = SimpleNamespace(monotonic=lambda: seconds)
settings = ["logging.wandb=true", 'logging.wandb_mode="offline"', "simulation.replay_interval=0"]
settings += ["run.total_timesteps=2560", "checkpoint.checkpoint_interval=10"]
train_run(tiny_config("run", *settings, f"checkpoint.wandb_checkpoint_interval={sys.argv[1]}"), listen)
"""
"""Five epochs of ten seconds, each with a checkpoint."""


@needs("wandb")
@pytest.mark.parametrize(("seconds", "uploaded"), [(20, {2, 4, 5}), (0, set())])
def test_wandb_checkpoint_interval(tmp_path: Path, seconds: int, uploaded: set[int]) -> None:
    """A checkpoint goes up every so many seconds, and the last one; 0: none."""
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", EVERY_OTHER_EPOCH, str(seconds)]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, check=True)
    content = b"".join(log.read_bytes() for log in (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert b"losses/entropy" in content
    assert {epoch for epoch in range(6) if f"checkpoint_{epoch:06d}.pt".encode() in content} == uploaded


@pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_an_error_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    module = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[logger]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'metta-gridworlds\[{logger}\]'"):
        train_run(tiny_config(tmp_path / "run", f"logging.{logger}=true"), ignore)
    assert not list(tmp_path.iterdir())


def test_numbers_are_named_by_their_path() -> None:
    values = {"epoch": 3, "reward": None, "losses": {"loss": 0.5}, "stats": {"heart.gained": 1.0}}
    assert numbers(values) == {"epoch": 3, "losses/loss": 0.5, "stats/heart.gained": 1.0}
