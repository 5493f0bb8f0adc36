"""Run directories with made-up metrics, which take no training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tiny_runs import tiny_config

from metta.config.loading.load import dump_config

EPOCHS = 40
"""Epochs of a whole run, each of 100 agent steps."""


def write_run(path: Path, *overrides: str, epochs: int = EPOCHS, level: float = 1.0) -> Path:
    """A run directory with made-up metrics: `EPOCHS` epochs are the whole run; `level` scales its reward."""
    path.mkdir(parents=True)
    config = tiny_config("", f"run.total_timesteps={EPOCHS * 100}", *overrides)
    (path / "config.toml").write_text(dump_config(config))
    random = np.random.default_rng(config.run.seed + round(1000 * level))
    pace = 1 + random.random()
    lines = []
    for epoch in range(1, epochs + 1):
        tried = {"action.move.success": 10.0 + epoch, "action.move.failed": 10.0, "action.noop.success": 1.0}
        line = {"epoch": epoch, "agent_step": 100 * epoch, "episodes": 2, "seconds": pace * epoch, "stats": tried}
        lines.append({**line, "reward": level * epoch + random.normal()})
        if epoch % 10 == 0:
            lines[-1]["evaluation"] = {"mean_reward": level * epoch + random.normal()}
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
