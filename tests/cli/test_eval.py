"""`metta eval` over suites and against other policies: what it prints, what it refuses."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import TINY
from typer.testing import CliRunner, Result

from metta.api import Interval, load_config, presets
from metta_cli.main import app
from metta_cli.views import evaluation_table

CHECKPOINT = "run/checkpoints/checkpoint_000002.pt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `tiny.toml`, a policy trained in it, and worlds that it can play in and cannot."""
    folder = tmp_path_factory.mktemp("trained")
    tiny = TINY.replace("total_timesteps = 4096", "total_timesteps = 1024")
    (folder / "tiny.toml").write_text(tiny)
    (folder / "longer.toml").write_text(tiny.replace("max_steps = 20", "max_steps = 30"))
    (folder / "narrow.toml").write_text(tiny.replace("observation_width = 5", "observation_width = 3"))
    (folder / "strange.toml").write_text(tiny + '[[env.actions]]\ntype = "move"\nkey = "walk"\n')
    (folder / "suite.toml").write_text('worlds = ["tiny.toml", "longer.toml", "narrow.toml", "strange.toml"]\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        metta("train", "tiny.toml", "--run-dir", "run", "--quiet")
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def metta(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def lines(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metta("eval", *arguments, "--json").stdout.splitlines()]


def test_a_mean_comes_with_its_interval(here: Path) -> None:
    asked = ("scripted", "--env", "tiny.toml", "--episodes", "6")
    (values,) = lines(*asked)
    for player in ("scripted", "random"):
        low, high = values[player]["reward_interval"]
        assert low < values[player]["mean_reward"] < high
    text = metta("eval", *asked).stdout
    assert text.startswith("scripted in tiny.toml\n6 episodes; ± 95 % confidence interval\n")
    row = next(row for row in text.splitlines() if "reward per agent and episode" in row)
    estimates = [tuple(map(float, found)) for found in re.findall(r"(-?[0-9.]+) ± ([0-9.]+)", row)]
    for player, (mean, half_width) in zip(("scripted", "random"), estimates, strict=True):
        low, high = values[player]["reward_interval"]
        assert (mean, half_width) == (
            pytest.approx(values[player]["mean_reward"], abs=0.005),
            pytest.approx((high - low) / 2, abs=0.005),
        )


@pytest.mark.parametrize("world", [(), ("--suite", "tiny.toml,longer.toml")])
def test_one_episode_has_no_interval_and_no_spread(here: Path, world: tuple[str, ...]) -> None:
    single, *_ = lines(CHECKPOINT, "--episodes", "1", *world)
    assert single["policy"]["reward_interval"] == [None, None]
    text = metta("eval", CHECKPOINT, "--episodes", "1", *world).stdout
    assert "1 episode" in text
    assert "; no confidence interval\n" in text
    assert "±" not in text
    assert "nan" not in text
    assert all(row.split()[3:] == ["-", "-"] for row in text.splitlines() if "std over episodes" in row)


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [
        (4.7612, 1.2841, "4.76 ± 1.28"),
        (0.00321, 0.00112, "0.0032 ± 0.0011"),
        (19.2, 0.15, "19.200 ± 0.150"),
        (-1234.56, 98.7, "-1,234.6 ± 98.7"),
        (0.5, 0.0, "0.500 ± 0.000"),
        (0.1, 1e-17, "0.100 ± 0.000"),
        (0.32, math.nan, "0.320"),
        (2.5e12, 1.0, "2.5e+12 ± 1.000"),
        (math.inf, math.inf, "inf ± inf"),
    ],
)
def test_an_estimate_has_three_digits_of_its_half_width(mean: float, half_width: float, text: str) -> None:
    assert evaluation_table.estimate(Interval(mean, half_width)) == text


def test_a_stream_without_plus_minus_gets_ascii(here: Path) -> None:
    for asked in (("--suite", "tiny.toml,longer.toml"), ()):
        command = [sys.executable, "-m", "metta_cli", "eval", CHECKPOINT, "--episodes", "2", *asked]
        environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
        text = subprocess.run(command, env=environment, capture_output=True, check=True).stdout.decode("ascii")
        assert re.search(r"[0-9.]+ \+- [0-9.]+", text)
        assert "+- 95 % confidence interval" in text


@pytest.mark.parametrize("asked", [("--suite", "suite.toml"), ("--env", "longer.toml"), ("--against", "random")])
@pytest.mark.parametrize("columns", [120, 80, 40, 20])
def test_no_number_is_broken_in_a_narrow_terminal(
    here: Path, asked: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = metta("eval", CHECKPOINT, "--episodes", "3", *asked)
    rows = result.stdout.splitlines()[1:]  # below the name of the policy
    assert max(map(len, rows)) <= max(columns, 40)
    estimates = re.findall(r"[0-9.]+ ± [0-9.]+", "\n".join(rows))
    assert len(estimates) == (6 if "--suite" in asked else 3 if "--against" in asked else 2)


def test_a_run_stands_for_its_newest_policy(here: Path) -> None:
    assert lines("run", "--episodes", "2") == lines(CHECKPOINT, "--episodes", "2")
    older = "run/checkpoints/checkpoint_000000.pt"
    asked = ("--episodes", "2", "--against")
    assert lines(older, *asked, "run") == lines(older, *asked, CHECKPOINT)
    assert lines(older, *asked, older) != lines(older, *asked, CHECKPOINT)
    replay = json.loads(metta("replay", "run", "--max-steps", "2", "--out", "played", "--json").stdout)
    assert Path(replay["page"]).name.startswith("run_checkpoint_000002_seed_0")
    assert metta("export", "run").stdout.strip() == "run/checkpoints/checkpoint_000002.onnx"
    (here / "empty").mkdir()
    refusal = "error: empty is not a run directory, and has no policy checkpoint"
    assert metta("eval", "empty", code=2).stderr.strip() == refusal


def test_a_suite_is_a_row_for_each_world(here: Path) -> None:
    suite = ("--suite", "suite.toml", "--episodes", "3")
    rows = lines(CHECKPOINT, *suite)
    assert [row["env"] for row in rows] == ["tiny.toml", "longer.toml", "narrow.toml", "strange.toml"]
    assert [row["policy"]["mean_length"] for row in rows[:2]] == [20, 30]
    assert rows[2]["policy"]["mean_length"] == 20
    assert "none of the policy's actions" in rows[3]["refusal"]
    assert "policy" not in rows[3]
    # a row is what the world alone gives
    (alone,) = lines(CHECKPOINT, "--env", "longer.toml", "--episodes", "3")
    assert rows[1] == alone | {"suite": "suite.toml", "env": "longer.toml"}
    result = metta("eval", CHECKPOINT, *suite)
    sizes = "a window of 5 x 5 cells; here it sees 5 x 3"
    assert f"note: narrow.toml: the policy was trained with {sizes}\n" in result.stderr
    assert f"note: strange.toml: {CHECKPOINT} does not fit this agent: none of the policy's actions" in result.stderr
    row = next(row for row in result.stdout.splitlines() if row.strip().startswith("longer.toml"))
    low, high = rows[1]["policy"]["reward_interval"]
    assert evaluation_table.estimate(Interval(rows[1]["policy"]["mean_reward"], (high - low) / 2)) in row
    assert max(map(len, result.stdout.splitlines())) <= 80


EVERY_PRESET = ",".join(preset.name for preset in presets())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("home", "settings"),
    [
        ("navigation", ["agent.backbone=mlp"]),
        ("foraging", ["agent.backbone=cnn", "agent.egocentric=true"]),
        ("predator_prey", ["agent.backbone=attention"]),
        ("memory", ["agent.backbone=mlp", "agent.egocentric=true"]),
    ],
)
def test_a_policy_plays_in_every_preset(
    home: str, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their windows, actions, items and groups differ."""
    monkeypatch.chdir(tmp_path)
    small = ["agent.hidden_dim=16", "experience.batch_size=4096", "experience.minibatch_size=2048", *settings]
    overrides = [part for setting in small for part in ("--set", setting)]
    metta("train", home, "--run-dir", "run", "--total-timesteps", "8192", "--quiet", *overrides)
    short = ("--episodes", "1", "--no-baseline", "--set", "env.game.max_steps=8")
    policies = list(load_config(home).policies)
    policy = f"run:{policies[0]}" if policies else "run"  # a team plays only where all its groups are
    rows = lines(policy, "--suite", EVERY_PRESET, *short)
    assert [row["env"] for row in rows] == EVERY_PRESET.split(",")
    assert {row["env"]: row.get("refusal") for row in rows} == dict.fromkeys(EVERY_PRESET.split(","))
    assert all(row["policy"]["mean_length"] == 8 for row in rows)
    replay = metta("replay", policy, "--env", "quickstart", "--max-steps", "3", "--json")
    assert json.loads(replay.stdout)["steps"] == 3
    against = lines(policy, "--suite", "quickstart,cooperation", "--against", policy, *short)
    assert all("difference" in row for row in against)


def test_a_suite_in_which_the_policy_fits_no_world_is_an_error(here: Path) -> None:
    refusal = f"strange.toml: {CHECKPOINT} does not fit this agent: none of the policy's actions (noop, move,"
    result = metta("eval", CHECKPOINT, "--suite", "strange.toml,strange.toml", code=2)
    assert result.stderr.startswith(f"error: {refusal}")
    assert metta("eval", CHECKPOINT, "--env", "strange.toml", code=2).stderr.startswith(f"error: {refusal}")
    for policy in (("none.pt",), (CHECKPOINT, "--against", "none.pt")):
        assert metta("eval", *policy, "--suite", "curriculum", code=2).stderr == "error: none.pt does not exist\n"


def test_random_and_scripted_play_suites(here: Path) -> None:
    rows = lines("scripted", "--suite", "tiny.toml,longer.toml", "--episodes", "3")
    assert all(row["scripted"]["mean_reward"] > row["random"]["mean_reward"] for row in rows)


def test_a_match_has_both_sides_and_the_difference(here: Path) -> None:
    against = ("--env", "longer.toml", "--against", "random", "--episodes", "4")
    (values,) = lines("scripted", *against, "--share", "0.25")
    assert (values["policy"]["agents"], values["opponent"]["agents"], values["episodes"]) == (1, 3, 4)
    difference = values["policy"]["mean_reward"] - values["opponent"]["mean_reward"]
    assert values["difference"]["mean_reward"] == pytest.approx(difference)
    assert values["difference"]["mean_reward"] > 0
    assert lines("scripted", *against)[0]["policy"]["agents"] == 2
    text = metta("eval", "scripted", *against, "--share", "0.25").stdout
    assert text.startswith("scripted against random in longer.toml\n4 episodes; ± 95 % confidence interval\n")
    low, high = values["difference"]["reward_interval"]
    assert evaluation_table.estimate(Interval(difference, (high - low) / 2)) in text
    assert [word for word in text.split() if word in ("policy", "opponent", "difference")] == [
        "policy",
        "opponent",
        "difference",
    ]


def test_a_checkpoint_against_a_checkpoint_in_a_suite(here: Path) -> None:
    rows = lines(CHECKPOINT, "--suite", "suite.toml", "--against", CHECKPOINT, "--episodes", "12")
    for row in rows[:2]:
        low, high = row["difference"]["reward_interval"]
        assert low <= 0 <= high
    assert "refusal" in rows[3]
    own = lines(CHECKPOINT, "--against", "scripted", "--episodes", "2")[0]
    assert own["difference"]["mean_reward"] < 0


def test_a_match_in_groups(here: Path) -> None:
    (values,) = lines("scripted", "--env", "predator_prey", "--against", "random", "--group", "prey", "--episodes", "2")
    assert (values["policy"]["agents"], values["opponent"]["agents"]) == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--suite", "all", "--env", "tiny.toml"), "--suite names the worlds to play in; leave out --env"),
        (("--share", "0.5"), "--share and --group divide the agents between two policies; name the other with --a"),
        (("--group", "agent"), "--share and --group divide the agents between two policies; name the other with --a"),
        (("--against", "random", "--share", "0.5", "--group", "agent"), "--share and --group both select the agents"),
        (("--against", "random", "--share", "1"), "the policy's share must be more than 0 and less than 1, so that"),
        (("--against", "random", "--share", "0"), "the policy's share must be more than 0 and less than 1, so that"),
        (("--against", "random", "--share", "0.1"), "a share of 0.1 leaves the policy none of the 4 agents; choose"),
        (("--against", "none.pt"), "none.pt does not exist"),
        (("--suite", "navigaton"), 'no suite is called "navigaton"; did you mean "navigation"?'),
    ],
)
def test_options_that_exclude_each_other_are_an_error(here: Path, options: tuple[str, ...], message: str) -> None:
    result = metta("eval", CHECKPOINT, *options, code=2)
    assert result.stderr.startswith(f"error: {message}")
    assert result.stdout == ""


def test_presets_lists_the_suites() -> None:
    listed = metta("presets").stdout
    assert "\nnavigation  navigation, navigation_sequence, memory\n" in listed
