"""`metta report`: series and config differences of runs, the page, and refused directories."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tiny_runs import ignore, metrics_of, tiny_config
from typer.testing import CliRunner

from metta.config.run import RunConfig
from metta.errors import UsageError
from metta.report import plots, run_report
from metta.report.read_report import read_report, write_report
from metta.report.run_data import config_differences, read_runs
from metta.report.run_groups import group_runs, smooth
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


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    """The report of the two runs."""
    return write_report(runs, runs[0].parent / "deep" / "report.html")


def test_the_page_has_a_curve_for_each_run_and_what_differs(page: Path) -> None:
    text = page.read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings[:2] == ["Final scores", "Learning"]
    assert headings[-3:-1] == ["Config differences", "Runs"]
    assert headings[-1].startswith("slow: replay_0000")  # the other run recorded none
    row = re.search(r'<th scope="row">optimizer.learning_rate</th>(.*)</tr>', text)
    assert row
    assert re.findall(r'<td data-heading="(.*?)">(.*?)</td>', row[1]) == [("slow", "0.000457"), ("fast", "0.01")]
    assert text.count("<iframe") == 1
    charts = re.findall(r"<svg (?!width).*?</svg>", text, re.DOTALL)
    for chart in charts:
        ElementTree.fromstring(chart)  # whole
    by_steps = ["agent steps" in chart for chart in charts]
    assert ["minutes of training" in chart for chart in charts] == [not is_by_steps for is_by_steps in by_steps]
    assert by_steps.count(True) == by_steps.count(False) > 10
    legends = re.findall(r'<ul class="legend">(.*?)</ul>', text, re.DOTALL)
    assert [re.findall(r"</svg>(.*?)</li>", legend) for legend in legends] == [["slow", "fast"]] * (len(headings) - 4)
    assert "heart.gained" in text or "ore_red.gained" in text
    assert not re.search(r"#0000[0-9a-f]{2}", text), "a chart has a color that does not follow the page"
    assert "http://" not in re.sub(r'(xmlns|xmlns:\w+|rdf:resource)="[^"]*"', "", re.sub(r"<!DOCTYPE.*?>", "", text))


def test_a_large_replay_is_named(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_runs(read_runs(runs[:1]))[0]
    small = run_report.embedded_replay(group)
    monkeypatch.setattr(run_report, "MAX_REPLAY_BYTES", 0)
    large = run_report.embedded_replay(group)
    assert small
    assert large
    assert small.html
    assert large == small._replace(html=None)
    assert large.path == group.runs[0].newest_replay


def test_the_same_runs_give_the_same_page(runs: list[Path], page: Path, tmp_path: Path) -> None:
    assert write_report(runs, tmp_path / "report.html").read_bytes() == page.read_bytes()


@pytest.mark.usefixtures("quick_contents")
def test_names_cannot_bring_markup_and_metrics_of_unknown_types_are_left_out(runs: list[Path], tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)<" / "script>$x_1$"
    evil.parent.mkdir()
    shutil.copytree(runs[1], evil)
    line = json.loads((evil / "metrics.jsonl").read_text().splitlines()[-1])
    line["stats"]["<b>.gained"] = 2.0
    lines = [
        '{"epoch": 1, "agent_step": 512, "reward": "high", "losses": 3, "stats": [1, [2]], "episodes": {}}',
        '{"epoch": 2, "agent_step": true, "reward": 1}',
        '{"epoch": 3, "agent_step": 1e300, "reward": 1}',
        '{"epoch": 4, "agent_step": 1024, "reward": {"a": {"b": 1}}, "losses": {"loss": "x"}, "task_rewards": "t"}',
        '{"epoch": 5, "agent_step": 2048, "reward": 1.5, "seconds": "long", "evaluation": [], "weights": null}',
        '{"epoch": 6, "agent_step": 2560, "episodes": 1, "stats": {"action.move.success": "often"}}',
    ]
    (evil / "metrics.jsonl").write_text("\n".join([json.dumps(line), *lines]))
    run = read_runs([evil])[0]
    assert [len(run.series(key)[0]) for key in ("reward", "losses.loss", "stats.<b>.gained")] == [2, 1, 2]
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


def test_directories_that_are_not_runs_are_refused(runs: list[Path], tmp_path: Path) -> None:
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


@pytest.mark.parametrize("package", ["matplotlib", "scipy"])
def test_a_missing_package_is_named_before_anything_is_read(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs {package}: pip install 'metta-gridworlds\[report\]'"):
        read_report(["missing"])


def test_running_means_and_downsampled_curves() -> None:
    values = np.array([2.0, 4.0, 6.0, 8.0])
    assert smooth(np.repeat(values, 10)).tolist()[9:14] == [2.0, 3.0, 4.0, 4.0, 4.0]  # over 2 of 40
    many = np.arange(2.0 * plots.MAX_POINTS + 1)
    steps, means = plots.downsample(many, many)
    assert len(steps) == len(means) <= plots.MAX_POINTS
    assert means[0] == 1.0  # of 0, 1 and 2
    assert plots.downsample(values, values) == (pytest.approx(values), pytest.approx(values))
