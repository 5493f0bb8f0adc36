"""Groups of runs that differ only in their seed: their statistics against computations by hand and with scipy."""

from __future__ import annotations

import csv
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from made_up_runs import EPOCHS, write_run
from scipy import stats
from tiny_runs import tiny_config
from typer.testing import CliRunner

from metta.errors import SkippedFileWarning
from metta.experiments.seeds import Experiment
from metta.report.numbers import csv_text
from metta.report.read_report import read_report
from metta.report.run_data import read_runs
from metta.report.run_groups import RunGroup, compare_groups, group_runs
from metta.report.run_report import RunReport
from metta.report.statistics import Average, average_over_runs, compare_scores, estimate_average
from metta_cli.main import app


@pytest.fixture(scope="module")
def two_groups(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two groups of five seeds, with learning rates 0.001 and 0.002."""
    root = tmp_path_factory.mktemp("runs")
    names = {"low": (0.001, 1.0), "high": (0.002, 1.01)}
    return [
        write_run(root / f"{name}-seed{seed}", f"run.seed={seed}", f"optimizer.learning_rate={rate}", level=level)
        for name, (rate, level) in names.items()
        for seed in range(5)
    ]


@pytest.fixture(scope="module", params=["mean", "iqm"])
def records(request: pytest.FixtureRequest, two_groups: list[Path]) -> tuple[Average, list[dict[str, Any]]]:
    return request.param, read_report(two_groups, request.param).records()


def rewards(path: Path) -> list[float]:
    return [json.loads(line)["reward"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def exact_interval(values: list[float], average: Average) -> list[float]:
    """The ends of the bootstrap interval of five values, from all 5^5 resamples."""
    resamples = np.array(list(product(values, repeat=5)))
    return list(np.quantile(by_scipy(resamples, average), [0.025, 0.975]))


def by_scipy(values: Any, average: Average) -> Any:
    """Averages over the last axis."""
    return np.mean(values, -1) if average == "mean" else stats.trim_mean(values, 0.25, axis=-1)


def test_final_scores_are_those_of_all_resamples(
    records: tuple[Average, list[dict[str, Any]]], two_groups: list[Path]
) -> None:
    average, found = records
    groups = {record["group"]: record for record in found if record["kind"] == "group"}
    assert list(groups) == ["low", "high"]
    for name, paths in zip(groups, (two_groups[:5], two_groups[5:]), strict=True):
        tenths = [float(np.mean(rewards(path)[-4:])) for path in paths]  # a tenth of 40 epochs
        assert [run["scores"]["reward_last_tenth"] for run in groups[name]["runs"]] == pytest.approx(tenths)
        assert [run["seed"] for run in groups[name]["runs"]] == [0, 1, 2, 3, 4]
        score = groups[name]["scores"]["reward_last_tenth"]
        assert score["value"] == pytest.approx(by_scipy(tenths, average))
        tolerance = 0.04 * (max(tenths) - min(tenths))
        exact = exact_interval(tenths, average)
        assert [score["low"], score["high"]] == pytest.approx(exact, abs=tolerance)
        assert score["num_runs"] == 5
        best = groups[name]["scores"]["reward_best_epoch"]["value"]
        assert best == pytest.approx(by_scipy([max(rewards(path)) for path in paths], average))


def test_curves_are_averages_of_each_epoch(
    records: tuple[Average, list[dict[str, Any]]], two_groups: list[Path]
) -> None:
    average, found = records
    curves = {
        (record["group"], record["metric"], record["x_axis"]): record for record in found if record["kind"] == "curve"
    }
    curve = curves["low", "reward", "agent_step"]
    assert curve["x"] == [100.0 * epoch for epoch in range(1, EPOCHS + 1)]
    assert curve["num_runs"] == [5] * EPOCHS
    values = np.array([rewards(path) for path in two_groups[:5]])
    assert curve["value"] == pytest.approx(by_scipy(values.T, average))
    tolerance = 0.07 * float(np.ptp(values[:, 20]))
    exact = exact_interval(values[:, 20].tolist(), average)
    assert [curve["low"][20], curve["high"][20]] == pytest.approx(exact, abs=tolerance)
    by_time = curves["low", "reward", "seconds"]
    assert len(by_time["x"]) == 5 * EPOCHS
    assert by_time["num_runs"][0] == by_time["num_runs"][-1] == 1  # only the fastest, only the slowest
    assert 5 in by_time["num_runs"]


def test_the_probability_of_improvement_is_that_of_the_paper(two_groups: list[Path]) -> None:
    groups = group_runs(read_runs(two_groups))
    compared = compare_groups(groups, "reward_last_tenth", "mean")["low", "high"]
    low, high = ([float(np.mean(rewards(path)[-4:])) for path in paths] for paths in (two_groups[:5], two_groups[5:]))
    test = stats.mannwhitneyu(low, high)
    assert compared.probability == pytest.approx(test.statistic / 25)
    assert compared.p_value == pytest.approx(test.pvalue)
    random = np.random.default_rng(3)
    draws = random.choice(low, (2000, 5)), random.choice(high, (2000, 5))
    resampled = stats.mannwhitneyu(*draws, axis=1, method="asymptotic").statistic / 25
    assert (compared.low, compared.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.085)


def test_equal_scores_count_half() -> None:
    assert compare_scores([1.0, 1.0], [1.0, 1.0])[:3] == (0.5, 0.5, 0.5)
    assert compare_scores([1.0, 2.0], [1.0, 1.0]).probability == 0.75


@pytest.mark.parametrize("average", ["mean", "iqm"])
def test_intervals_of_few_runs(average: Average) -> None:
    one, two, three = (
        estimate_average(np.array(values)[:, None], average) for values in ([3.0], [3.0, 5.0], [9.0, 3.0, 6.0])
    )
    assert one.average[0] == 3
    assert math.isnan(one.low[0])
    assert math.isnan(one.high[0])
    assert [float(part[0]) for part in two] == [4, 3, 5]
    assert [float(part[0]) for part in three] == [6, 3, 9]
    assert average_over_runs([100.0, 2, 1, -100], "iqm") == 1.5


@pytest.mark.usefixtures("quick_contents")
def test_runs_of_different_lengths_and_states(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "exp" / f"seed_{seed}", f"run.seed={seed}") for seed in (0, 1)]
    paths += [
        write_run(tmp_path / "exp" / f"seed_{seed}", f"run.seed={seed}", epochs=epochs)
        for seed, epochs in ((2, 10), (3, 20))
    ]
    (paths[3] / ".lock_holder").write_text("process 1 on elsewhere")
    with FileLock(paths[3] / ".lock"):
        (group,) = group_runs(read_runs(paths))
    assert group.name == "exp"
    assert [run.state for run in group.runs] == ["finished", "finished", "stopped", "training"]
    assert [run.progress for run in group.runs] == [1, 1, 0.25, 0.5]
    score = group.scores("mean")["reward_last_tenth"]
    assert score.values == pytest.approx([np.mean(rewards(path)[-4:]) for path in paths[:2]])  # the finished ones
    curve = group.curve("reward", "mean")
    assert curve.num_runs.tolist() == [4] * 10 + [3] * 10 + [2] * 20
    assert curve.estimate.average[30] == pytest.approx(np.mean([rewards(path)[30] for path in paths[:2]]))
    page = RunReport([group], "mean").html()
    assert "4: 2 finished, 1 in training, 1 stopped" in page
    assert "in training at 50%" in page
    assert "stopped at 25%" in page
    unfinished = RunGroup("exp", group.runs[2:])
    assert len(unfinished.scores("mean")["reward_last_tenth"].values) == 2  # those so far


def test_groups_are_runs_with_equal_settings_apart_from_seeds_names_and_directories(tmp_path: Path) -> None:
    root = tmp_path
    runs = {
        "a/0": ["run.seed=0", 'run.name="x"', f"checkpoint.checkpoint_dir={json.dumps(str(root / 'elsewhere'))}"],
        "a/1": ["run.seed=1", 'run.name="y"', 'simulation.replay_dir="/somewhere"'],
        "b1": ["run.seed=0", "ppo.gamma=0.9"],
        "b2": ["run.seed=1", "ppo.gamma=0.9"],
        "mixed-1": ["run.seed=0", "ppo.gamma=0.8"],
        "mixed-2": ["run.seed=1", "ppo.gamma=0.8"],
        "mixed-3": ["run.seed=2", "ppo.gamma=0.7"],
        "mixed-4": ["run.seed=3", "ppo.gamma=0.7"],
        "alone": ["run.seed=1", "ppo.gamma=0.6"],
    }
    groups = group_runs(read_runs([write_run(root / name, *settings, epochs=2) for name, settings in runs.items()]))
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("a", 2),
        ("b", 2),
        ("tiny (gamma 0.8)", 2),
        ("tiny (gamma 0.7)", 2),
        ("alone", 1),
    ]


def test_success_rates(two_groups: list[Path]) -> None:
    run = read_runs(two_groups[:1])[0]
    steps, rates = run.series("success_rate.move")
    assert steps.tolist() == [100.0 * epoch for epoch in range(1, EPOCHS + 1)]
    assert rates == pytest.approx([(10 + epoch) / (20 + epoch) for epoch in range(1, EPOCHS + 1)])
    assert run.series("attempts.move")[1] == pytest.approx([20 + epoch for epoch in range(1, EPOCHS + 1)])
    assert run.series("success_rate.noop")[1].tolist() == [1.0] * EPOCHS


@pytest.mark.usefixtures("quick_contents")
def test_the_command_writes_the_numbers(two_groups: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "new" / "numbers.csv"
    arguments = ["report", *map(str, two_groups), "--out", str(tmp_path / "r.html"), "--csv", str(table), "--json"]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert lines[0] == {"kind": "page", "path": str(tmp_path / "r.html")}
    assert {line["kind"] for line in lines[1:]} == {"group", "probability_of_improvement", "curve"}
    assert (tmp_path / "r.html").read_text().count("95 % confidence interval") >= 2
    with table.open() as file:
        rows = list(csv.DictReader(file))
    scores = [row for row in rows if row["kind"] == "score" and row["metric"] == "reward_last_tenth"]
    groups = [line for line in lines if line["kind"] == "group"]
    assert [float(row["value"]) for row in scores] == [
        group["scores"]["reward_last_tenth"]["value"] for group in groups
    ]
    assert len([row for row in rows if row["kind"] == "run"]) == 30  # three scores of ten runs
    assert len([row for row in rows if row["kind"] == "probability_of_improvement"]) == 2
    points = [
        row for row in rows if row["kind"] == "curve" and row["metric"] == "reward" and row["x_axis"] == "agent_step"
    ]
    assert len(points) == 2 * EPOCHS


def test_missing_numbers_are_empty_in_the_table(tmp_path: Path) -> None:
    report = read_report([write_run(tmp_path / "run", epochs=2)])
    rows = list(csv.DictReader(csv_text(report.records()).splitlines()))
    assert {(row["low"], row["high"]) for row in rows if row["kind"] == "score"} == {("", "")}


def test_an_experiment_stands_for_its_runs(tmp_path: Path) -> None:
    for seed in (3, 1):
        write_run(tmp_path / "trials" / f"seed_{seed}", f"run.seed={seed}", epochs=2)
    Experiment(tmp_path / "trials", tiny_config(), (3, 1, 2), jobs=1, threads=1).write()  # seed 2 has not begun
    (group,) = group_runs(read_runs([tmp_path / "trials", tmp_path / "trials" / "seed_1"]))
    assert (group.name, [run.seed for run in group.runs]) == ("trials", [1, 3])
    (tmp_path / "new").mkdir()
    Experiment(tmp_path / "new", tiny_config(), (1,), jobs=1, threads=1).write()
    with pytest.warns(SkippedFileWarning, match="new is an experiment of which no run has begun"):
        assert len(read_runs([tmp_path / "new", tmp_path / "trials"])) == 2
