"""The trainer's optional tables in whole runs: each field acts, off is off, and a resumed run is the run in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Recorder, assert_same_weights, ignore, interrupt, metrics_of, tiny_config, weights_of

from metta.api import RunConfig, TrainingState, resume_run, train_run
from metta.config.training import NormalizationConfig, PrioritizedSamplingConfig, VTraceConfig

SHORT = ("run.total_timesteps=2048", "experience.update_epochs=2", "agent.analyze_weights_interval=0")
EPOCHS = 4

FIELDS = {
    "vtrace.enabled": (["vtrace.rho_clip=0.9", "vtrace.c_clip=0.9"], "true"),
    "vtrace.rho_clip": (["vtrace.enabled=true"], "0.5"),
    "vtrace.c_clip": (["vtrace.enabled=true"], "0.5"),
    "prioritized_sampling.enabled": ([], "true"),
    "prioritized_sampling.alpha": (["prioritized_sampling.enabled=true"], "3.0"),
    "prioritized_sampling.beta": (["prioritized_sampling.enabled=true"], "0.9"),
    "normalization.values": ([], "true"),
    "normalization.value_decay": (["normalization.values=true"], "0.0"),
    "normalization.rewards": (["ppo.norm_adv=false"], "true"),
    "normalization.reward_clip": (["normalization.rewards=true"], "0.01"),
}
"""field -> what it needs beside it, and a value that is not its default"""

TABLES = {
    "vtrace": VTraceConfig,
    "prioritized_sampling": PrioritizedSamplingConfig,
    "normalization": NormalizationConfig,
}

ENABLED = {"vtrace.enabled", "prioritized_sampling.enabled", "normalization.values", "normalization.rewards"}
EVERYTHING = tuple(f"{field}=true" for field in sorted(ENABLED))


def trained(run_dir: Path, *overrides: str) -> list[dict[str, Any]]:
    train_run(tiny_config(run_dir, *SHORT, *overrides), ignore)
    return metrics_of(run_dir)


def test_each_field_has_its_row() -> None:
    assert set(FIELDS) == {f"{table}.{field}" for table, model in TABLES.items() for field in model.model_fields}
    assert all(RunConfig.model_fields[table].annotation is model for table, model in TABLES.items())


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_acts_in_a_run(tmp_path: Path, field: str) -> None:
    beside, value = FIELDS[field]
    usual = trained(tmp_path / "usual", *beside)
    changed = trained(tmp_path / "changed", *beside, f"{field}={value}")
    assert [line["losses"]["policy_loss"] for line in usual] != [line["losses"]["policy_loss"] for line in changed]


def test_tables_that_are_off_change_nothing(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain")
    values = [f"{field}={value}" for field, (_, value) in FIELDS.items() if field not in ENABLED]
    assert trained(tmp_path / "off", *values) == plain


def test_interrupted_and_resumed_is_the_run_in_one_go(tmp_path: Path) -> None:
    straight, interrupted = tmp_path / "straight", tmp_path / "interrupted"
    trained(straight, *EVERYTHING)
    train_run(tiny_config(interrupted, *SHORT, *EVERYTHING), Recorder(2, interrupt))
    assert resume_run(interrupted, ignore).epoch == EPOCHS
    assert metrics_of(straight) == metrics_of(interrupted)
    assert_same_weights(weights_of(straight, EPOCHS), weights_of(interrupted, EPOCHS))
    states = [TrainingState.load(run / "checkpoints" / "trainer_state_000004.pt") for run in (straight, interrupted)]
    streams = [state.extra_args["experience"]["shuffle_generator"] for state in states]
    assert streams[0].tolist() == streams[1].tolist()
