"""Scores of trained presets: every preset has some, goals are compared with them, curves are compared in time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import learning_scores
import pytest
from learning_scores import (
    ALONE,
    GOALS,
    NOT_TRAINED,
    TEACHER,
    missed_goals,
    places,
    read_scores,
    score_table,
    short_score_table,
    training_minutes,
)

from metta.config.loading.presets import find_preset, presets

TRAINED = {preset.name for preset in presets()} - set(NOT_TRAINED)
BENCHMARKS = Path(__file__).parent / "benchmarks"


def column(reward: float, seconds: float = 60.0, minutes: float | None = None) -> dict[str, Any]:
    run = {"rewards": {"hearts": [reward, 0.3]}, "agent_steps": 10, "seconds": seconds}
    points = [{"agent_step": 10 * step, "seconds": 10.0 * step, "reward": reward * step} for step in range(4)]
    return {
        "set": [],
        "settings_sha256": "",
        "minutes": minutes,
        "episodes": 40,
        "machine": "",
        "worlds": {"hearts": {"scripted": [10.0, 0.1], "random": [0.5, None]}},
        "seeds": {"0": run | {"curve": points}, "1": run | {"curve": points}},
    }


def test_every_trained_preset_has_a_goal_and_scores() -> None:
    assert set(GOALS) == TRAINED
    layout = column(1.0)
    for name in TRAINED:
        assert read_scores(name)["columns"], f"measure it: python tests/benchmarks/learning.py {name}"
        for stored in read_scores(name)["columns"].values():
            assert stored.keys() == layout.keys()
            # a column that is older than the policies of a preset has rewards of its worlds only
            worlds = {place for place in places(name) if ":" not in place}
            assert worlds <= stored["worlds"].keys() <= places(name).keys()
            for run in stored["seeds"].values():
                assert run.keys() == layout["seeds"]["0"].keys()
                assert run["rewards"].keys() == stored["worlds"].keys()


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_presets_say_how_long_they_train(name: str) -> None:
    """The minutes in the head of a file, which `metta presets` prints, are those of its scores."""
    columns = read_scores(name)["columns"]
    minutes = training_minutes(columns.get(TEACHER) or columns[ALONE])
    assert f"\n# Minutes of training on two CPU cores: {minutes:.0f}\n" in find_preset(name).text


def test_goals_are_shares_of_the_scripted_policy() -> None:
    assert missed_goals("hearts", ALONE, column(11.0), ["0", "1"]) == []
    (missed,) = missed_goals("hearts", ALONE, column(10.9), ["0", "1"])
    assert missed == "hearts: 109% of the scripted policy; the goal is 110%"
    (missed,) = missed_goals("hearts", TEACHER, column(11.0, seconds=1860.0), ["0"])
    assert missed == "training took 31.0 minutes; the goal is 30"
    assert missed_goals("simple", ALONE, column(8.0), ["0"]) == []
    assert len(missed_goals("simple", TEACHER, column(9.9), ["0"])) == 1
    assert missed_goals("quickstart", "early", column(10.0, 70.0, minutes=1.0), ["0"]) == []
    assert len(missed_goals("quickstart", ALONE, column(10.0, 70.0), ["0"])) == 1
    assert missed_goals("mine", ALONE, column(0.0), ["0"]) == []
    assert missed_goals("signals", ALONE, column(0.8), ["0"]) == []
    assert missed_goals("signals", ALONE, column(0.7), ["0"]) == ["hearts: 0.70; the goal is 0.8"]


def test_tables_have_both_ways_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_scores, "FOLDER", tmp_path)
    scores = {"preset": "hearts", "columns": {ALONE: column(8.0), "trial": column(99.0)}}
    (tmp_path / "learning_hearts.json").write_text(json.dumps(scores))
    alone = "8.00 ± 0.21 (80 %), 2 seeds, 1 min"
    assert f"| `hearts` | 0.50 | 10.00 ± 0.10 | {alone} |  |" in score_table()
    assert "| `memory` |  |  | not measured |  |" in score_table()
    scores["columns"] |= {TEACHER: column(12.0, seconds=600.0)}  # type: ignore[operator]
    (tmp_path / "learning_hearts.json").write_text(json.dumps(scores))
    taught = "12.00 ± 0.21 (120 %), 2 seeds, 10 min"
    assert f"| {alone} | {taught} |" in score_table()
    (row,) = [row for row in short_score_table().splitlines() if "`hearts`" in row]
    assert row.endswith(f"| 0.50 | 10.00 ± 0.10 | {taught} |")


def test_a_world_that_the_scripted_policy_cannot_play_has_no_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_scores, "FOLDER", tmp_path)
    text = json.dumps({"preset": "signals", "columns": {ALONE: column(0.9)}}).replace("hearts", "signals")
    (tmp_path / "learning_signals.json").write_text(text)
    assert "| `signals` | 0.50 | none | 0.90 ± 0.21, 2 seeds, 1 min |  |" in score_table()


def test_each_of_several_policies_has_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_scores, "FOLDER", tmp_path)
    two = column(12.0)
    two["worlds"]["hearts:red"] = {"scripted": [4.0, 0.1], "random": [0.1, 0.1]}
    for run in two["seeds"].values():
        run["rewards"] = run["rewards"] | {"hearts:red": [3.0, 0.3]}
    scores = {"preset": "hearts", "columns": {ALONE: column(8.0), TEACHER: two}}  # one policy for all played before
    (tmp_path / "learning_hearts.json").write_text(json.dumps(scores))
    alone, taught = "8.00 ± 0.21 (80 %), 2 seeds, 1 min", "12.00 ± 0.21 (120 %), 2 seeds, 1 min"
    own = "| `hearts`, policy `red` | 0.10 ± 0.10 | 4.00 ± 0.10 |  | 3.00 ± 0.21 (75 %), 2 seeds, 1 min |"
    rows = score_table().splitlines()
    assert rows[rows.index(own) - 1] == f"| `hearts` | 0.50 | 10.00 ± 0.10 | {alone} | {taught} |"
    assert "policy `red`" not in short_score_table()
    assert missed_goals("hearts", TEACHER, two, ["0"]) == ["hearts:red: 75% of the scripted policy; the goal is 110%"]
    team = tmp_path / "team.toml"
    team.write_text(
        "[env.game.groups]\none = { id = 1 }\ntwo = { id = 2 }\n"
        '[policies]\nred = { groups = ["one"] }\nblue = { groups = ["two"] }\n'
    )
    assert places(str(team)) == {str(team): (), f"{team}:red": ("one",), f"{team}:blue": ("two",)}
    assert places("curriculum") == {"navigation": (), "object_use": (), "navigation_sequence": ()}


def learning(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "learning.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_two_columns_are_compared_by_the_clock() -> None:
    printed = learning("quickstart", "--compare", ALONE, ALONE)
    assert printed.returncode == 0, printed.stderr
    header, *rows = printed.stdout.splitlines()
    assert header.endswith("difference over 3 seeds")
    assert len(rows) == 12
    assert all(row.endswith("+0.00 ± 0.00") for row in rows)
    assert "quickstart.json has the columns reward alone" in learning("quickstart", "--compare", ALONE, "none").stderr


@pytest.mark.slow
def test_a_preset_is_measured(tmp_path: Path) -> None:
    """Three seconds of training in a copy of the program, which stores a column and says which goals are missed."""
    for folder in ("benchmarks", "support"):
        (tmp_path / folder).mkdir()
    (tmp_path / "benchmarks" / "learning.py").write_text((BENCHMARKS / "learning.py").read_text())
    scores = BENCHMARKS.parent / "support" / "learning_scores.py"
    (tmp_path / "support" / "learning_scores.py").write_text(scores.read_text())
    options = ["--set", "run.total_timesteps=1k", "--set", "experience.batch_size=2048"]
    command = [
        sys.executable,
        str(tmp_path / "benchmarks" / "learning.py"),
        "memory",
        "5",
        *options,
        "--label",
        "trial",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    assert "% of the scripted policy; the goal is 105%" in ran.stdout
    stored = json.loads((tmp_path / "benchmarks" / "learning_memory.json").read_text())
    ((label, measured),) = stored["columns"].items()
    assert (label, measured["set"], list(measured["seeds"])) == ("trial", options[1::2], ["5"])
    assert measured["seeds"]["5"]["agent_steps"] >= 1000
    assert measured["worlds"]["memory"]["scripted"][0] > 0.3
