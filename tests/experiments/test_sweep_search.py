"""Whether a search finds better settings than random ones: sweeps with functions in place of training."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from tiny_runs import TINY

from metta.api import load_sweep
from metta.config.loading.sweep_file import SweepFile
from metta.experiments.sweep.study import ENOUGH_TRIALS, PARTS, SweepStudy

SWEEP = """
[sweep]
base = "tiny.toml"
trials = 24

[sweep.parameters]
"ppo.gamma" = { low = 0.9, high = 0.99 }
"ppo.ent_coef" = { low = 0, high = 1 }
"ppo.clip_coef" = { low = 0.1, high = 1 }
"""
REPORTED = (3, 9, 18, PARTS)
"""Parts of a training after which a trial reports a reward."""
REPETITIONS = 12

Rewards = Callable[[float, np.random.Generator], list[float]]
"""Rewards of a trial at `REPORTED`, from its score."""


def predictive(score: float, rng: np.random.Generator) -> list[float]:
    """Rewards that grow to the score in a straight line."""
    return [score * part / PARTS for part in REPORTED]


def misleading(score: float, rng: np.random.Generator) -> list[float]:
    """Rewards that have nothing to do with the score until the end."""
    return [*rng.random(len(REPORTED) - 1), score]


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFile:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "s.toml").write_text(SWEEP)
    return load_sweep(tmp_path / "s.toml")


def search(sweep: SweepFile, root: Path, sampler: str, seed: int, rewards: Rewards) -> tuple[float, list[int]]:
    """Best score of a sweep, and the numbers of its trials that were pruned. The best possible score is about 10."""
    config = sweep.config.model_copy(update={"sampler": sampler, "seed": seed})
    root = root / f"{rewards.__name__}-{sampler}-{seed}"
    root.mkdir()
    storage = optuna.storages.InMemoryStorage()
    created = optuna.create_study(storage=storage, study_name=root.name, direction=config.direction)
    study = SweepStudy(root, replace(sweep, config=config), created)
    rng = np.random.default_rng(seed)
    optimum = rng.uniform(0.2, 0.8, len(sweep.parameters))
    low, high = np.array([(parameter.low, parameter.high) for parameter in sweep.parameters]).T
    while (claimed := study.claim()) is not None:
        position = (np.array(list(claimed.values.values())) - low) / (high - low)
        score = float(10 - 10 * np.square(position - optimum).sum() + 0.2 * rng.standard_normal())
        reported = zip(REPORTED, rewards(score, rng), strict=True)
        if any(study.report(claimed, part, reward) for part, reward in reported):
            study.prune(claimed, "behind other trials")
        else:
            study.complete(claimed, [score])
    complete = [trial.value for trial in study.trials if trial.value is not None and trial.state.name == "COMPLETE"]
    return max(complete), [trial.number for trial in study.trials if trial.state.name == "PRUNED"]


@pytest.mark.parametrize(("rewards", "fewest", "most"), [(predictive, 6, 18), (misleading, 0, 3)])
def test_tpe_finds_better_settings_than_random_ones(
    sweep: SweepFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewards: Rewards, fewest: int, most: int
) -> None:
    """Trials are pruned where first rewards predict scores, and only there."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # most of the time of a trial here
    best = {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for sampler in ("tpe", "random"):
        found = [search(sweep, tmp_path, sampler, seed, rewards) for seed in range(REPETITIONS)]
        best[sampler] = np.mean([score for score, _ in found])
        pruned = [numbers for _, numbers in found]
        assert fewest <= np.mean([len(numbers) for numbers in pruned]) <= most
        assert min(min(numbers, default=ENOUGH_TRIALS) for numbers in pruned) >= ENOUGH_TRIALS
    assert best["tpe"] > best["random"] + 0.2
    assert best["tpe"] > 9.7
