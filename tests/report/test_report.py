"""`metta report`: series and config differences of runs, the page, and refused directories."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tiny_runs import ignore, metrics_of, tiny_config
from typer.testing import CliRunner

from metta.config.run import RunConfig
from metta.errors import UsageError
from metta.report import html_page, plots
from metta.report.html_page import write_report
from metta.report.run_data import config_differences, read_runs
from metta.run.train import train_run
from metta_cli.main import app


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in two settings; the first has recorded episodes."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:  # intervals are at least a second, longer than the run may be
        patch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: bool(timer.interval_seconds))
        train_run(tiny_config(root / "slow", "simulation.replay_interval=1"), ignore)
    train_run(tiny_config(root / "fast", "optimizer.learning_rate=0.01", "env.game.ore_red_reward=0.5"), ignore)
    return [root / "slow", root / "fast"]


def test_a_series_is_what_the_metrics_file_says(runs: list[Path]) -> None:
    run = read_runs(runs[:1])[0]
    lines = metrics_of(runs[0])
    steps, entropy = run.series("losses.entropy")
    assert steps.tolist() == [line["agent_step"] for line in lines]
    assert entropy.tolist() == [line["losses"]["entropy"] for line in lines]
    with_episodes = [line for line in lines if line["episodes"]]
    steps, rewards = run.series("reward")
    assert steps.tolist() == [line["agent_step"] for line in with_episodes]
    assert rewards.tolist() == [line["reward"] for line in with_episodes]
    _, ore = run.series("stats.ore_red.gained")
    assert ore.tolist() == [line["stats"].get("ore_red.gained", 0.0) for line in with_episodes]


def test_a_series_can_be_over_seconds(runs: list[Path]) -> None:
    run = read_runs(runs[:1])[0]
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    seconds, entropy = run.series("losses.entropy", "seconds")
    assert seconds.tolist() == [line["seconds"] for line in lines]
    assert entropy.tolist() == [line["losses"]["entropy"] for line in lines]


def test_config_differences_between_runs_and_from_the_defaults(runs: list[Path]) -> None:
    both = read_runs(runs)
    different = dict(config_differences(both))
    assert different.pop("simulation.replay_interval") == ["1", "300"]
    assert different == {"optimizer.learning_rate": ["0.000457", "0.01"], "env.game.ore_red_reward": ["0.01", "0.5"]}
    alone = dict(config_differences(both[:1]))
    assert alone["agent.hidden_dim"] == ["16", str(RunConfig().agent.hidden_dim)]
    assert "ppo.gamma" not in alone


def test_the_page_has_a_curve_for_each_run_and_what_differs(runs: list[Path], tmp_path: Path) -> None:
    text = write_report(runs, tmp_path / "deep" / "report.html").read_text()
    assert (tmp_path / "deep" / "report.html").exists()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings[:2] == ["Runs", "Learning"]
    assert headings[-2] == "Config differences"
    assert headings[-1].startswith("slow: replay_0000")  # the other run recorded none
    assert "<td>optimizer.learning_rate</td><td>0.000457</td><td>0.01</td>" in text
    assert text.count("<iframe") == 1
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 10  # five, over agent steps and over minutes
    assert ["agent steps" in chart for chart in charts] == [True, False] * 5
    assert ["minutes of training" in chart for chart in charts] == [False, True] * 5
    for chart in charts:
        ElementTree.fromstring(chart)  # whole
        assert {"slow", "fast"} <= {part.strip() for part in re.findall(r">([^<>]+)</text>", chart)}
    assert "heart.gained" in text or "ore_red.gained" in text
    assert "http://" not in re.sub(r'(xmlns|xmlns:\w+|rdf:resource)="[^"]*"', "", re.sub(r"<!DOCTYPE.*?>", "", text))


def test_equal_configs_have_no_differences_and_a_large_replay_is_named(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_page, "MAX_REPLAY_BYTES", 0)
    shutil.copytree(runs[0], tmp_path / "copy")
    found = read_runs([runs[0], tmp_path / "copy"])
    text = html_page.report_html(found)
    assert re.search(r"<h2>Config differences</h2>\s*<p>None\.</p>", text)
    assert "<iframe" not in text
    assert [f"<p>{run.newest_replay}</p>" in text for run in found] == [True, True]


def test_the_same_runs_give_the_same_page(runs: list[Path], tmp_path: Path) -> None:
    first, second = (write_report(runs, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_names_cannot_bring_markup(runs: list[Path], tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)<" / "script>$x_1$"
    evil.parent.mkdir()
    evil.mkdir()
    for name in ("config.toml", "metrics.jsonl"):
        (evil / name).write_bytes((runs[1] / name).read_bytes())
    line = json.loads((evil / "metrics.jsonl").read_text().splitlines()[-1])
    line["stats"]["<b>.gained"] = 2.0
    with (evil / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    text = write_report([evil, runs[1]], tmp_path / "report.html").read_text()
    assert "<script>" not in text
    assert "<b>" not in text
    assert "script>$x_1$" in unescape(text)


def test_runs_of_one_name_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent / "run").mkdir(parents=True)
        for name in ("config.toml", "metrics.jsonl"):
            (tmp_path / parent / "run" / name).write_bytes((runs[0] / name).read_bytes())
    found = read_runs([tmp_path / "one" / "run", tmp_path / "two" / "run"])
    assert [run.name for run in found] == ["one/run", "two/run"]


def test_directories_that_are_not_runs_are_refused(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.toml").write_bytes((runs[0] / "config.toml").read_bytes())
    ran = CliRunner().invoke(app, ["report", str(tmp_path), str(tmp_path / "new"), "--out", str(tmp_path / "r.html")])
    assert ran.exit_code == 2
    assert f"{tmp_path} is not a run directory: it has no config.toml" in ran.stderr
    assert f"{tmp_path / 'new'} has no completed epoch yet" in ran.stderr
    (tmp_path / "new" / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match="new has no completed epoch yet"):
        read_runs([tmp_path / "new"])
    assert not (tmp_path / "r.html").exists()
    monkeypatch.setattr(plots, "MATPLOTLIB", "no_such_package")
    with pytest.raises(UsageError, match=r"pip install 'metta-gridworlds\[report\]'"):
        write_report(runs, tmp_path / "r.html")


def test_running_means_and_downsampled_curves() -> None:
    values = np.array([2.0, 4.0, 6.0, 8.0])
    assert plots.running_mean(values, 2).tolist() == [2.0, 3.0, 5.0, 7.0]
    many = np.arange(2.0 * plots.MAX_POINTS + 1)
    steps, means = plots.downsample(many, many)
    assert len(steps) == len(means) <= plots.MAX_POINTS
    assert means[0] == 1.0  # of 0, 1 and 2
    assert plots.downsample(values, values) == (pytest.approx(values), pytest.approx(values))


def test_metrics_of_unknown_types_are_left_out(runs: list[Path], tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(runs[0], strange)
    lines = [
        '{"epoch": 1, "agent_step": 512, "reward": "high", "losses": 3, "stats": [1, [2]], "episodes": {}}',
        '{"epoch": 2, "agent_step": true, "reward": 1}',
        '{"epoch": 3, "agent_step": 1e300, "reward": 1}',
        '{"epoch": 4, "agent_step": 1024, "reward": {"a": {"b": 1}}, "losses": {"loss": "x"}, "task_rewards": "t"}',
        '{"epoch": 5, "agent_step": 2048, "reward": 1.5, "seconds": "long", "evaluation": [], "weights": null}',
    ]
    (strange / "metrics.jsonl").write_text("\n".join(lines))
    page = write_report([strange, runs[0]], tmp_path / "page.html").read_text()
    assert "strange" in page
    for key in ("reward", "losses.loss", "stats.x"):
        for run in read_runs([strange]):
            assert len(run.series(key)[0]) == (key == "reward")
