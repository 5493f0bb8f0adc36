"""Metric loggers in addition to `metrics.jsonl`: TensorBoard, Weights & Biases, and loggers of extensions.

An extension registers a subclass of RunLogger under a name, or offers it as an entry point in the group
`metta.loggers`; `logging.extra = ["lines"]` enables it:

    @LOGGERS.register("lines")
    class Lines(RunLogger):
        ...
"""

from __future__ import annotations

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
from metta.files import write_atomically
from metta.run.epoch_metrics import EpochMetrics
from metta.run.interval_timer import IntervalTimer

TENSORBOARD = "torch.utils.tensorboard"
WANDB = "wandb"
EXTRAS = {TENSORBOARD: "tensorboard", WANDB: "wandb"}
OFFLINE = 'logging.wandb_mode = "offline" logs to disk instead'


class RunLogger:
    """Base class of custom loggers: created when a run starts or resumes, called each epoch, closed when it ends."""

    def __init__(self, config: RunConfig, directory: Path, epochs_done: int):
        """Log a run that has finished `epochs_done` epochs; discard values of later epochs, which are trained again."""

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch by name, such as `losses/entropy`: see `metta.run.metric_table`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write everything that was logged to the disk; called before each checkpoint."""

    def close(self) -> None:
        """Close the logger; called when the run ends, also after an error."""


class Loggers:
    """The enabled loggers of a run, none by default: a context manager that closes them."""

    def __init__(self, config: RunConfig, root: Path, epochs_done: int, past: Iterable[Mapping[str, Any]] = ()):
        """Log to the directory `root` after `epochs_done` epochs; TensorBoard discards its values of later epochs.

        `past` are the metrics of those epochs, from which W&B receives the ones that a killed process did not send.
        """
        self._writer: Any = None
        self._wandb_run: Any = None
        self._upload = IntervalTimer(config.checkpoint.wandb_checkpoint_interval)
        self._uploaded: Path | None = None
        self._registered: list[RunLogger] = []
        with ExitStack() as stack:
            if config.logging.tensorboard:
                folder = str(root / "tensorboard")
                self._writer = _optional(TENSORBOARD).SummaryWriter(folder, purge_step=epochs_done + 1)
                stack.callback(self._writer.close)
            if config.logging.wandb:
                self._wandb_run = _wandb_run(config, root)
                stack.callback(self._wandb_run.finish)
                for values in past:  # a new offline log starts at step 0 and receives all of them
                    if values["epoch"] >= self._wandb_run.step:
                        self._wandb_run.log(numbers(values), step=values["epoch"])
            for name in config.logging.extra:
                logger: RunLogger = LOGGERS.find(name)(config, root, epochs_done)
                stack.callback(logger.close)
                self._registered.append(logger)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def log(self, metrics: EpochMetrics) -> None:
        """Log the metrics of an epoch, `losses.entropy` as `losses/entropy`, with the epoch as the step."""
        named = numbers(metrics.line())
        if self._writer is not None:
            for name, number in named.items():
                self._writer.add_scalar(name, number, metrics.epoch)
        if self._wandb_run is not None:
            self._wandb_run.log(named, step=metrics.epoch)
        for logger in self._registered:
            logger.log(metrics.epoch, dict(named))

    def flush(self) -> None:
        """Write everything that was logged to the disk."""
        if self._writer is not None:
            self._writer.flush()
        for logger in self._registered:
            logger.flush()

    def upload(self, checkpoint: Path, is_last: bool = False) -> None:
        """Upload a checkpoint to W&B if `checkpoint.wandb_checkpoint_interval` has passed, or it is the last one."""
        is_due = self._upload.is_due() or (is_last and self._upload.interval_seconds > 0)
        if self._wandb_run is not None and is_due and checkpoint != self._uploaded:
            self._uploaded = checkpoint
            artifact = _optional(WANDB).Artifact(f"{self._wandb_run.id}-policy", "model")
            artifact.add_file(str(checkpoint))
            self._wandb_run.log_artifact(artifact)


def check_loggers(config: LoggingConfig) -> None:
    """Raise UsageError, with instructions, if a configured logger is not installed or has no login to W&B."""
    for name in config.extra:
        if not isinstance(logger := LOGGERS.find(name), type) or not issubclass(logger, RunLogger):
            raise UsageError(f'the logger "{name}" must be a class derived from metta.api.RunLogger')
    for name, is_on in ((TENSORBOARD, config.tensorboard), (WANDB, config.wandb)):
        if is_on:
            _optional(name)
    if config.wandb and config.wandb_mode == "online":
        wandb = _optional(WANDB)
        try:
            wandb.login()  # asks for the key on a terminal
        except wandb.errors.Error as error:
            raise UsageError(f"logging.wandb: {error}; {OFFLINE}") from None


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten nested values to numbers by path, such as `losses/entropy`; omits None."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/")
        elif value is not None:
            found[f"{prefix}{key}"] = value
    return found


def _wandb_run(config: RunConfig, root: Path) -> Any:
    """The W&B run of a run directory: the same one when the run resumes."""
    wandb = _optional(WANDB)
    id_file = root / "wandb_run_id"
    if not id_file.exists():
        write_atomically(id_file, secrets.token_hex(4).encode())
    try:
        return wandb.init(
            project=config.logging.wandb_project,
            mode=config.logging.wandb_mode,
            name=root.name,
            id=id_file.read_text(),
            resume="allow",
            dir=str(root),
            config=config.model_dump(),
            settings=wandb.Settings(silent=True, console="off"),  # metta prints its own progress
        )
    except wandb.errors.Error as error:
        raise UsageError(
            f"logging.wandb: {error}; {OFFLINE}. To resume the run in {root}: "
            f"metta resume {root} --set logging.wandb_mode=offline"
        ) from None


def _optional(name: str) -> ModuleType:
    """Import an optional package. Raises UsageError, with the pip command, if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        extra = EXTRAS[name]
        raise UsageError(
            f"logging.{extra} = true needs the package {name}: pip install 'metta-gridworlds[{extra}]'"
        ) from None
