"""Trace of an epoch: operations of torch with the spans of training, as JSON for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from metta.config.loading.load import load_tasks
from metta.config.run import RunConfig
from metta.config.validation.file_paths import check_writable, user_path
from metta.files import write_atomically
from metta.rl.curricula.curriculum import Curriculum
from metta.run.memory_check import wrap_memory_errors
from metta.run.training_run import TrainingRun
from metta.spans import Span, record_spans

_MARK = "metta clock"
"""Name of an event of the trace whose time is known by `time.perf_counter` too."""


def write_trace(config: RunConfig, path: str | Path) -> Path:
    """Train an epoch without saving it, and write its trace to `path`; returns the path.

    The trace has the operations of torch, on a GPU its kernels and copies, and the spans `simulate`, `wait`, `infer`
    and `learn` of each thread and worker process. With `[compile]`, the epoch after the one that compiles is traced.
    Raises UsageError if no file can be written there.
    """
    check_writable(path)
    path = user_path(path)
    with (
        wrap_memory_errors(config, load_tasks(config).env_configs),
        closing(TrainingRun(config, Curriculum.from_config(config))) as run,
    ):
        if config.compile.enabled:
            _train_epoch(run)
        with record_spans() as spans, torch.profiler.profile() as profile:
            marked_at = time.perf_counter()
            with torch.profiler.record_function(_MARK):
                pass
            _train_epoch(run)
    with tempfile.TemporaryDirectory() as folder:
        raw = os.path.join(folder, "trace.json")
        profile.export_chrome_trace(raw)
        trace = json.loads(Path(raw).read_text(encoding="utf-8"))
    events = trace["traceEvents"]
    (mark,) = [event for event in events if event.get("name") == _MARK and event.get("ph") == "X"]
    events += _span_events(spans, mark["ts"] / 1e6 - marked_at)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(trace).encode())
    return path


def _train_epoch(run: TrainingRun) -> None:
    batch = run.collect()
    run.update()
    run.finish_epoch(batch)


def _span_events(spans: Sequence[Span], offset: float) -> list[dict[str, Any]]:
    """The spans as events of a process of the trace, each thread on a line; `offset` is added to their times."""
    threads = list(dict.fromkeys(span.thread for span in spans))
    process = {"ph": "M", "pid": "metta", "tid": 0}
    events: list[dict[str, Any]] = [process | {"name": "process_name", "args": {"name": "metta"}}]
    for index, thread in enumerate(threads):
        events.append(process | {"name": "thread_name", "tid": index, "args": {"name": thread}})
    for span in spans:
        times = {"ts": (span.begin + offset) * 1e6, "dur": (span.end - span.begin) * 1e6}
        events.append(
            {"ph": "X", "cat": "metta", "name": span.name, "pid": "metta", "tid": threads.index(span.thread)} | times
        )
    return events
