"""The commands, in this process: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from tiny_runs import TINY, metrics_of, tiny_config
from typer.testing import CliRunner, Result

from metta.config.loading.load import load_config
from metta_cli.main import app

SMALL = TINY.replace("total_timesteps = 4096", "total_timesteps = 1024")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory but for `tiny.toml`, two epochs long."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SMALL)
    return tmp_path


def metta(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_map_prints_the_world_of_a_seed() -> None:
    options = ("--set", "env.map_builder.type=Maze", "--set", "env.map_builder.objects={ altar = 3 }")
    texts = [metta("map", "quickstart", "--seed", str(seed), *options).stdout for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    game = load_config("quickstart").env.game
    drawing, legend = texts[0].split("\n\n")
    rows = drawing.splitlines()
    assert (len(rows), len(rows[0])) == (game.height, game.width)
    assert drawing.count("@") == game.num_agents
    assert drawing.count("_") == 3
    assert legend == ". empty\n@ agent\n# wall\n_ altar\n"


def test_train_prints_a_line_per_epoch_and_the_next_commands(here: Path) -> None:
    result = metta("train", "tiny.toml")
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny: 1,024 agent steps on cpu"
    assert lines[1].startswith("8 worlds of 4 agents, 512 agent steps per epoch, ")
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1", "2"]
    assert "\x1b" not in result.output
    assert "\r" not in result.output
    assert result.stderr == ""
    (run_dir,) = (here / "runs").iterdir()
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", run_dir.name)
    assert sorted(entry.name for entry in run_dir.iterdir()) == [".lock", "checkpoints", "config.toml", "metrics.jsonl"]
    commands = lines[lines.index("next:") + 1 :]
    checkpoint = f"runs/{run_dir.name}/checkpoints/checkpoint_000002.pt"
    assert commands == [
        f"  evaluate  metta eval {checkpoint}",
        f"  watch     metta watch runs/{run_dir.name}",
        f"  replay    metta replay {checkpoint}",
        f"  resume    metta resume runs/{run_dir.name} --total-timesteps 2048",
    ]
    for command in (command for command in commands if "watch" not in command):  # which needs a terminal
        metta(*command.partition("metta ")[2].split())
    assert len(metrics_of(run_dir)) == 4


def test_the_resolved_config_is_a_valid_input_and_says_the_same(here: Path) -> None:
    metta("train", "tiny.toml", "--run-dir", "first", "--seed", "3", "--quiet")
    values = tomllib.loads((here / "first" / "config.toml").read_text())
    assert values["run"]["seed"] == 3
    assert values["ppo"]["clip_coef"] == 0.1  # a default, written out
    assert load_config("first/config.toml") == tiny_config("", "run.seed=3", "run.total_timesteps=1024")
    metta("train", "first/config.toml", "--run-dir", "second", "--quiet")
    assert metrics_of(here / "first") == metrics_of(here / "second")


def test_json_is_one_object_a_line_and_nothing_else(here: Path) -> None:
    result = metta("train", "tiny.toml", "--json", "--run-dir", "run")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["begin", "checkpoint", "epoch", "epoch", "checkpoint", "end"]
    assert events[0]["batch_size"] == 512
    assert events[2]["losses"]["entropy"] > 0
    assert events[-1]["reason"] == "finished"
    assert result.stderr == ""
    result = metta("eval", events[-1]["checkpoint"], "--json", "--episodes", "2")
    values = json.loads(result.stdout)
    assert set(values["policy"]) == {
        "mean_reward",
        "std_reward",
        "mean_length",
        "std_length",
        "reward_interval",
        "episodes",
        "stats",
    }
    assert values["policy"]["mean_length"] == 20
    result = metta("resume", "run", "--json", "--total-timesteps", "1536")
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()] == [
        "notice",  # the learning rate goes up
        "begin",
        "checkpoint",
        "epoch",
        "checkpoint",
        "end",
    ]


def test_quiet_prints_nothing(here: Path) -> None:
    assert metta("train", "tiny.toml", "--quiet").output == ""


def test_options_replace_values_of_the_file(here: Path) -> None:
    options = ("--total-timesteps", "512", "--device", "cpu", "--set", "ppo.gamma=0.5", "--set", "run.name=other")
    metta("train", "tiny.toml", "--quiet", *options)
    (run_dir,) = (here / "runs").iterdir()
    assert run_dir.name.startswith("other-")
    values = tomllib.loads((run_dir / "config.toml").read_text())
    assert (values["run"]["total_timesteps"], values["ppo"]["gamma"]) == (512, 0.5)


def test_eval_gives_the_same_numbers_twice_and_others_for_another_seed(here: Path) -> None:
    metta("train", "tiny.toml", "--run-dir", "run", "--quiet")
    checkpoint = "run/checkpoints/checkpoint_000002.pt"
    first, second, other = (metta("eval", checkpoint, "--seed", seed).output for seed in ("5", "5", "6"))
    assert first == second != other
    assert "reward per agent" in first
    assert "action.move.success" in first
    assert [name for name in ("policy", "random") if name in first.splitlines()[3]] == ["policy", "random"]
    assert "random" not in metta("eval", checkpoint, "--no-baseline", "--episodes", "2").stdout
    assert "\x1b" not in first


def test_eval_plays_in_other_worlds_and_random_without_a_policy(here: Path) -> None:
    metta("train", "tiny.toml", "--run-dir", "run", "--quiet")
    checkpoint = "run/checkpoints/checkpoint_000002.pt"
    longer = ("--env", "tiny.toml", "--set", "env.game.max_steps=30", "--json", "--episodes", "2")
    assert json.loads(metta("eval", checkpoint, *longer).stdout)["policy"]["mean_length"] == 30
    values = json.loads(metta("eval", "random", *longer).stdout)
    assert values["random"]["mean_length"] == 30
    assert "policy" not in values
    values = json.loads(metta("eval", "scripted", *longer).stdout)
    assert values["scripted"]["mean_reward"] > values["random"]["mean_reward"]
    metta("eval", "random", code=2)
    metta("eval", "scripted", code=2)
    metta("eval", checkpoint, "--set", "env.game.max_steps=30", code=2)
    result = metta("eval", checkpoint, "--env", "tiny.toml", "--set", "env.game.observation_width=7")
    sizes = "a window of 5 x 5 cells; here it sees the middle 5 x 5 of 5 x 7"
    assert result.stderr == f"note: the policy was trained with {sizes}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "Missing argument 'FILE.toml|PRESET'."),
        (("train", "tiny.toml", "--speed", "9"), "No such option: --speed"),
        (("train", "tiny.toml", "--seed", "x"), "Invalid value for '--seed': "),
        (("train", "tiny.toml", "--device", "tpu"), "the command line has 1 problem"),
        (("trian", "tiny.toml"), "No such command 'trian'. Did you mean 'train'?"),
        (("train", "tniy.toml"), 'there is no file "tniy.toml"; did you mean the file "tiny.toml"?'),
        (("eval", "none.pt"), "none.pt does not exist"),
        (("resume", "none"), "none does not exist"),
        (("resume", "."), ". is not a run directory: it has no config.toml"),
        (("presets", "show", "quikstart"), 'no preset is called "quikstart"; did you mean "quickstart"?'),
    ],
)
def test_a_wrong_command_is_an_error_and_creates_nothing(here: Path, arguments: tuple[str, ...], message: str) -> None:
    result = metta(*arguments, code=2)
    assert result.stderr.startswith(f"error: {message}")
    assert result.stdout == ""
    assert "Traceback" not in result.output
    assert [entry.name for entry in here.iterdir()] == ["tiny.toml"]


def test_a_wrong_file_creates_nothing(here: Path) -> None:
    (here / "tiny.toml").write_text(SMALL.replace("observation_width = 5", "observation_width = 6"))
    result = metta("train", "tiny.toml", "--run-dir", "run", code=2)
    assert result.stderr.startswith("error: tiny.toml has 1 problem\n  line 13  env.game.observation_width  ")
    (here / "tiny.toml").write_text(SMALL.replace("mine_red = 3", "mine_red = 300"))
    result = metta("train", "tiny.toml", "--run-dir", "run", code=2)
    assert result.stderr.startswith("error: ")
    assert [entry.name for entry in here.iterdir()] == ["tiny.toml"]


def test_debug_shows_the_traceback_of_an_error(here: Path) -> None:
    result = CliRunner().invoke(app, ["resume", "none", "--debug"])
    assert type(result.exception).__name__ == "UsageError"


def test_metta_without_a_command_prints_the_help() -> None:
    assert metta().stdout.splitlines()[0].startswith("Usage: ")


def test_check_prints_a_config_that_can_be_trained(here: Path) -> None:
    text = metta("check", "tiny.toml", "--set", "run.total_timesteps=512").stdout
    assert "# steps per epoch" in text
    (here / "checked.toml").write_text(text)
    assert load_config("checked.toml") == load_config("tiny.toml", ["run.total_timesteps=512"])


def test_presets_are_listed_and_shown(here: Path) -> None:
    listed = metta("presets").stdout
    for name in ("arena", "default", "quickstart", "simple"):
        assert re.search(rf"^{name} +\w", listed, re.MULTILINE)
    tomllib.loads(metta("presets", "show", "quickstart").stdout)


def test_schema_is_json_with_a_description_for_every_table() -> None:
    schema = json.loads(metta("schema").stdout)
    assert set(schema["properties"]) >= {"run", "env", "agent", "ppo", "experience"}


def test_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is wider than 80 characters, and no command's sentence is cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    text = metta("--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.partition("Commands:")[2]
    assert {"train", "eval", "resume", "watch", "report"} <= set(re.findall(r"^  ([a-z]+)", text, re.MULTILINE))
