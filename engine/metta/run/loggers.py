"""Loggers beside `metrics.jsonl`: TensorBoard event files, Weights & Biases with uploads of checkpoints, one's own.

One of your own is a class made with (config, directory, epochs_done), under a name:

    @LOGGERS.register("lines")
    class Lines(RunLogger):
        ...

Or an entry point in the group `metta.loggers`; then `logging.extra = ["lines"]` asks for it.
"""

from __future__ import annotations

import dataclasses
import importlib
import secrets
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from metta.config.run import RunConfig
from metta.config.training import LOGGERS, LoggingConfig
from metta.errors import UsageError
from metta.files import write_whole
from metta.run.epoch_metrics import EpochMetrics
from metta.run.interval_timer import IntervalTimer

TENSORBOARD = "torch.utils.tensorboard"
WANDB = "wandb"
EXTRAS = {TENSORBOARD: "tensorboard", WANDB: "wandb"}
OFFLINE = 'logging.wandb_mode = "offline" logs to the disk'


class RunLogger:
    """A logger of one's own: made when the run begins or goes on, told of each epoch, closed when it ends."""

    def __init__(self, config: RunConfig, directory: Path, epochs_done: int):
        """Log the run in `directory` from the epoch after `epochs_done`; what was logged of later ones gives way."""

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch's numbers, by the names in the README's table: `losses/entropy`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Bring to the disk what was logged; a checkpoint counts on the epochs before it."""

    def close(self) -> None:
        """The run ends, one way or another."""


class Loggers:
    """The loggers a run asks for, none by default; a context manager that closes them."""

    def __init__(self, config: RunConfig, root: Path, epochs_done: int, past: Iterable[Mapping[str, Any]] = ()):
        """Go on after `epochs_done` epochs in the directory `root`: what TensorBoard has of later ones gives way.

        `past` are the metrics of those epochs, by which W&B gets what a process that was killed did not hand over.
        """
        self._stack = ExitStack()
        self._writer: Any = None
        self._wandb_run: Any = None
        self._upload = IntervalTimer(config.checkpoint.wandb_checkpoint_interval)
        self._uploaded: Path | None = None
        if config.logging.tensorboard:
            folder = str(root / "tensorboard")
            self._writer = _optional(TENSORBOARD).SummaryWriter(folder, purge_step=epochs_done + 1)
            self._stack.callback(self._writer.close)
        if config.logging.wandb:
            self._wandb_run = _wandb_run(config, root)
            self._stack.callback(self._wandb_run.finish)
            for values in past:  # a log on the disk is one of the process, and begins at 0
                if values["epoch"] >= self._wandb_run.step:
                    self._wandb_run.log(numbers(values), step=values["epoch"])
        self._own: list[RunLogger] = []
        for name in config.logging.extra:
            logger: RunLogger = LOGGERS.find(name)(config, root, epochs_done)
            self._stack.callback(logger.close)
            self._own.append(logger)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def log(self, metrics: EpochMetrics) -> None:
        """Log an epoch's numbers, `losses.entropy` as `losses/entropy` and so on, with the epoch as the step."""
        named = numbers(dataclasses.asdict(metrics))
        if self._writer is not None:
            for name, number in named.items():
                self._writer.add_scalar(name, number, metrics.epoch)
        if self._wandb_run is not None:
            self._wandb_run.log(named, step=metrics.epoch)
        for logger in self._own:
            logger.log(metrics.epoch, dict(named))

    def flush(self) -> None:
        """Bring to the disk what was logged; a checkpoint counts on the epochs before it."""
        if self._writer is not None:
            self._writer.flush()
        for logger in self._own:
            logger.flush()

    def upload(self, checkpoint: Path, is_last: bool = False) -> None:
        """Upload a checkpoint where it is time, by `checkpoint.wandb_checkpoint_interval`, or the run is over."""
        is_due = self._upload.is_due() or (is_last and self._upload.interval_seconds > 0)
        if self._wandb_run is not None and is_due and checkpoint != self._uploaded:
            self._uploaded = checkpoint
            artifact = _optional(WANDB).Artifact(f"{self._wandb_run.id}-policy", "model")
            artifact.add_file(str(checkpoint))
            self._wandb_run.log_artifact(artifact)


def check_loggers(config: LoggingConfig) -> None:
    """Raise UsageError, with what to do, if a logger that is asked for is not installed or nobody is logged in."""
    for name in config.extra:
        if not isinstance(made_by := LOGGERS.find(name), type) or not issubclass(made_by, RunLogger):
            raise UsageError(f'the logger "{name}" must be a class derived from metta.api.RunLogger')
    for name, is_asked_for in ((TENSORBOARD, config.tensorboard), (WANDB, config.wandb)):
        if is_asked_for:
            _optional(name)
    if config.wandb and config.wandb_mode == "online":
        wandb = _optional(WANDB)
        try:
            wandb.login()  # asks for the key on a terminal
        except wandb.errors.Error as error:
            raise UsageError(f"logging.wandb: {error}; {OFFLINE}") from None


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number in nested values by its path, `losses/entropy`; what is missing is left out."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/")
        elif value is not None:
            found[f"{prefix}{key}"] = value
    return found


def _wandb_run(config: RunConfig, root: Path) -> Any:
    """The W&B run of a run directory: the same one again when the run goes on."""
    wandb = _optional(WANDB)
    id_file = root / "wandb_run_id"
    if not id_file.exists():
        write_whole(id_file, secrets.token_hex(4).encode())
    try:
        return wandb.init(
            project=config.logging.wandb_project,
            mode=config.logging.wandb_mode,
            name=root.name,
            id=id_file.read_text(),
            resume="allow",
            dir=str(root),
            config=config.model_dump(),
            settings=wandb.Settings(silent=True, console="off"),  # the screen is the view's
        )
    except wandb.errors.Error as error:
        raise UsageError(
            f"logging.wandb: {error}; {OFFLINE}. The run is kept in {root}: "
            f"metta resume {root} --set logging.wandb_mode=offline"
        ) from None


def _optional(name: str) -> ModuleType:
    """A package that only those install who want it, imported when it is first asked for."""
    try:
        return importlib.import_module(name)
    except ImportError:
        extra = EXTRAS[name]
        raise UsageError(
            f"logging.{extra} = true needs the package {name}: pip install 'metta-gridworlds[{extra}]'"
        ) from None
