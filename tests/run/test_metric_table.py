"""The table of metrics lists exactly the metrics that runs write."""

from __future__ import annotations

import json

import pytest
from tiny_runs import TEAM, TINY, ignore, tiny_config

from metta.api import load_config, train_run
from metta.run.loggers import numbers
from metta.run.metric_table import METRICS, Metric
from metta.world.env import MettaGridEnv

EVERYTHING = (
    "vtrace.enabled=true",
    "prioritized_sampling.enabled=true",
    "normalization.values=true",
    "normalization.rewards=true",
    "agent.analyze_weights_interval=1",
    "simulation.evaluate_interval=1",
    "self_play.share=0.5",
    "self_play.snapshot_interval=1",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every metric that a run with all features enabled, or with several policies, writes."""
    folder = tmp_path_factory.mktemp("everything")
    first = tiny_config(folder / "teacher", "run.total_timesteps=512")
    train_run(first, ignore)
    for name in ("short", "long"):
        (folder / f"{name}.toml").write_text(TINY)
    scenes = json.dumps([str(folder / "short.toml"), str(folder / "long.toml")])
    teacher = json.dumps(str(folder / "teacher" / "checkpoints" / "checkpoint_000001.pt"))
    advice = (f"curriculum.scenes={scenes}", 'curriculum.type="low_reward"', f"kickstarting.teacher={teacher}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: timer.interval_seconds == 1)
        train_run(tiny_config(folder / "run", "run.total_timesteps=2048", *EVERYTHING, *advice), ignore)
        own = "policies.deer.self_play={share=0.5, snapshot_interval=1}"
        others = ("agent.analyze_weights_interval=1", "simulation.evaluate_interval=1")
        others += ('env.rewards=[{type="exploration"}]',)
        train_run(tiny_config(folder / "team", "run.total_timesteps=1024", *TEAM, own, *others), ignore)
    lines = [line for run in ("run", "team") for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
    return {name for line in lines for name in numbers(json.loads(line))}


@pytest.fixture(scope="module")
def countable() -> set[str]:
    """Every counter that a world with several groups and all objects can report."""
    env = MettaGridEnv(load_config("arena").env, seed=0)
    env.reset()
    names = {f"stats/{name}" for column in env._worlds.agent_columns.names(0).values() for name in column}
    invalid = {f"stats/action.{what}.9.9" for what in ("invalid_type", "invalid_arg")}
    return names | invalid


def test_every_metric_that_is_written_is_in_the_table(written: set[str], countable: set[str]) -> None:
    assert [name for name in sorted(written | countable) if not any(row.is_name_of(name) for row in METRICS)] == []


def test_every_metric_in_the_table_is_written(written: set[str], countable: set[str]) -> None:
    names = written | countable
    assert [row.name for row in METRICS if not any(row.is_name_of(name) for name in names)] == []


def test_metrics_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(metric.unit and metric.meaning and "|" not in metric.meaning for metric in METRICS)


def test_a_pattern_stands_for_any_name() -> None:
    metric = Metric("stats/ITEM.gained", "units", "")
    assert metric.is_name_of("stats/ore_red.gained")
    assert not metric.is_name_of("stats/ore_red.lost")
    assert not metric.is_name_of("stats.ore_red.gained")
    assert not Metric("losses/loss", "1", "").is_name_of("losses/lossy")
