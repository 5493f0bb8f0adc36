"""Arguments that name a run: by name, by glob pattern, several at once; damaged policies; TOML files from a pipe."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_runs import TINY, ignore, tiny_config
from typer.testing import CliRunner, Result

from metta.api import find_runs, load_config, newest_checkpoint, train_run
from metta.errors import ConfigError, SkippedFileWarning
from metta_cli.main import app

SHORT = TINY.replace("total_timesteps = 4096", "total_timesteps = 512")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one epoch, without replays, in directories with their names: `quickstart` and `other`."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("quickstart", "other"):
        train_run(tiny_config(folder / name, "run.total_timesteps=512", f"run.name={name}"), ignore)
    return folder


OLDER, NEWER = "runs/quickstart-20260102-030405", "runs/quickstart-20260102-030405-10"


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with runs: two of one name, one whose directory has another name, and what is no run."""
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart-20251231-235959", *(Path(run).name for run in (OLDER, NEWER))):
        shutil.copytree(trained / "quickstart", tmp_path / "runs" / name)
    shutil.copytree(trained / "other", tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "quickstart-20270101-000000").mkdir()
    (tmp_path / "runs" / "quickstart.txt").write_text("notes")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.toml").write_text("[")
    os.utime(tmp_path / "runs" / "broken" / "config.toml", (1, 1))
    (tmp_path / "tiny.toml").write_text(SHORT)
    return tmp_path


def metta(*arguments: str, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `watch` and `play` show, without a terminal; `export` and `report` do not take the time to write."""
    found: list[Any] = []
    monkeypatch.setattr("metta_cli.keyboard.Keyboard.__init__", lambda *arguments: None)
    for name in ("watch", "play"):
        monkeypatch.setattr(f"metta_cli.interactive.{name}", lambda *arguments: found.append(arguments) or [])
    monkeypatch.setattr("metta.api.export_policy", lambda agent, path, overwrite: path, raising=False)
    report = SimpleNamespace(write_html=lambda path, overwrite: path)
    monkeypatch.setattr("metta.api.read_report", lambda runs, average: report, raising=False)
    return found


COMMANDS = {
    "eval": ["eval", "RUN", "--episodes", "1"],
    "eval --against": ["eval", "random", "--env", "tiny.toml", "--against", "RUN", "--episodes", "1"],
    "resume": ["resume", "RUN", "--quiet"],
    "replay": ["replay", "RUN", "--max-steps", "1"],
    "watch": ["watch", "RUN"],
    "play --policy": ["play", "tiny.toml", "--policy", "RUN"],
    "export": ["export", "RUN"],
    "report": ["report", "RUN"],
}
"""Every command that takes a run."""
TAKE_SEVERAL = ("eval", "resume", "replay", "watch", "export")


def run(command: str, *sources: str, code: int = 0) -> Result:
    arguments = [part for word in COMMANDS[command] for part in (sources if word == "RUN" else [word])]
    return metta(*arguments, code=code)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_stands_for_the_newest_run_of_that_name(command: str, here: Path, shown: list[Any]) -> None:
    assert f"note: using {NEWER}, the newest of 3 runs\n" in run(command, "quickstart").stderr
    assert "note: using runs/mine\n" in run(command, "other").stderr
    assert "note: using runs/mine\n" in run(command, "mine").stderr
    assert f"note: using {OLDER}\n" in run(command, Path(OLDER).name).stderr
    assert "note: using" not in run(command, OLDER).stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if " " not in command])
def test_an_argument_is_required(command: str, here: Path) -> None:
    assert "Missing argument" in run(command, code=2).stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pattern_or_several_runs_stand_for_the_newest_of_them(command: str, here: Path, shown: list[Any]) -> None:
    if command != "report":  # which compares all
        assert f"note: using {NEWER}, the newest of 3 runs\n" in run(command, "runs/quick*").stderr
    if command in TAKE_SEVERAL:
        several = sorted(map(str, Path("runs").glob("quick*")))
        assert f"note: using {NEWER}, the newest of 3 runs\n" in run(command, *several).stderr
        assert run(command, "tiny.toml", "runs", code=2).stderr.startswith("error: none of the 2 arguments is a run")
        assert "error: out.onnx does not exist" in run(command, several[0], "out.onnx", code=2).stderr
        assert "error: random is a policy and no run" in run(command, several[0], "random", code=2).stderr
    assert "no run directory matches nothing*" in run(command, "nothing*", code=2).stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_without_a_run_says_what_to_do(command: str, here: Path, shown: list[Any]) -> None:
    for name, hint in (
        ("arena", "; to train one: metta train arena"),
        ("quikstart", '; did you mean "quickstart"?'),
        ("arnea", "; to train the preset arena: metta train arena"),
        ("zzz", f"; the newest run is {Path('runs/mine').name}"),
    ):
        error = run(command, name, code=2).stderr
        assert f"{name} does not exist, here or as a run in runs/{hint}" in error
        _, _, train = hint.partition(": metta train ")
        if train:
            assert load_config(train).run.name == "arena"
    shutil.rmtree("runs")
    assert "or a preset: metta train quickstart\n" in run(command, "zzz", code=2).stderr


def test_a_path_is_that_path_also_where_a_run_has_its_name(here: Path) -> None:
    shutil.copytree(OLDER, "quickstart")
    assert metta("eval", "quickstart", "--episodes", "1").stderr == ""


def test_runs_are_sorted_by_the_time_in_their_names_or_of_their_config(here: Path) -> None:
    names = [path.name for path in find_runs(["runs/*", "quickstart", here / "runs" / "mine"])]
    assert names == [
        "mine",
        "quickstart-20260102-030405-10",
        "quickstart-20260102-030405",
        "quickstart-20251231-235959",
        "broken",
    ]
    assert find_runs(["runs", "runs/quickstart.txt", "", "..", "nothing", "x" * 5000, "a\0b"]) == []


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "another file": lambda path: shutil.copy(path.with_name("trainer_state_000001.pt"), path),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a broken link": lambda path: (path.unlink(), path.symlink_to("nothing")),
}


POLICY_COMMANDS = [command for command in COMMANDS if command not in ("resume", "report")]


@pytest.mark.parametrize(
    ("command", "damage"),
    [  # what is damage does not depend on the command
        *((command, "truncated") for command in POLICY_COMMANDS),
        *(("eval", damage) for damage in DAMAGES if damage != "truncated"),
    ],
)
def test_a_damaged_newest_policy_is_passed_over(command: str, damage: str, here: Path, shown: list[Any]) -> None:
    newest = Path(OLDER, "checkpoints", "checkpoint_000001.pt")
    DAMAGES[damage](newest)
    result = run(command, OLDER)
    assert f"note: {newest} " in result.stderr
    assert "; using checkpoint_000000.pt\n" in result.stderr
    newest.with_name("checkpoint_000000.pt").write_bytes(b"")
    assert run(command, OLDER, code=2).stderr.startswith("error: no policy is valid:\n  ")


def test_a_run_is_a_teacher_or_an_opponent_by_its_newest_valid_policy(here: Path) -> None:
    newest = Path(OLDER, "checkpoints", "checkpoint_000001.pt")
    newest.write_bytes(b"")
    with pytest.warns(SkippedFileWarning, match=f"{newest} .*; using checkpoint_000000.pt"):
        assert newest_checkpoint(OLDER) == newest.with_name("checkpoint_000000.pt")
    settings = (f"kickstarting.teacher={OLDER}", "self_play.share=0.5", f'self_play.policies=["{OLDER}"]')
    with pytest.warns(SkippedFileWarning):
        train_run(tiny_config("taught", "run.total_timesteps=512", *settings), ignore)
    newest.with_name("checkpoint_000000.pt").unlink()
    message = r"kickstarting\.teacher   no policy is valid: runs/\S+ is damaged: it is empty\n  self_play"
    with pytest.raises(ConfigError, match=message):
        train_run(tiny_config("untaught", *settings), ignore)
    assert not Path("untaught").exists()


def test_a_report_leaves_out_what_is_no_run_and_says_so(here: Path) -> None:
    (here / "runs" / "begun").mkdir()
    shutil.copy(f"{OLDER}/config.toml", "runs/begun")
    shutil.copytree(OLDER, "runs/no_config")
    Path("runs/no_config/config.toml").write_text("[run]\nnmae = 1")
    shutil.copytree(OLDER, "runs/no_metrics")
    Path("runs/no_metrics/metrics.jsonl").unlink()
    Path("runs/no_metrics/metrics.jsonl").mkdir()
    Path("runs/broken_link").symlink_to("nothing")
    everything = sorted(map(str, Path("runs").iterdir()))
    result = metta("report", *everything, "gone", "runs/gone")
    left_out = [line.removeprefix("note: left out: ") for line in result.stderr.splitlines() if line[0] != " "]
    for name in ("begun", "broken", "broken_link", "no_config", "no_metrics", "quickstart.txt", "gone"):
        assert any(line.startswith(f"runs/{name} ") or f"runs/{name}/" in line for line in left_out), name
    assert any(line.startswith("gone does not exist") for line in left_out)
    page = Path("report.html").read_text()
    assert all(name in page for name in ("mine", *(Path(run).name for run in (OLDER, NEWER))))
    Path("report.html").unlink()
    problems = metta("report", "runs/begun", "runs/quickstart.txt", "runs/broken", code=2).stderr
    assert problems.startswith("error: runs/begun has no completed epoch yet\n  runs/quickstart.txt is not a run")
    assert not Path("report.html").exists()


def test_a_report_takes_all_runs_that_a_pattern_matches(here: Path) -> None:
    metta("report", "runs/quick*")
    page = Path("report.html").read_text()
    assert all(name in page for name in ("quickstart-20251231-235959", *(Path(run).name for run in (OLDER, NEWER))))
    assert ">mine<" not in page


def test_a_run_is_named_by_its_file(here: Path) -> None:
    unnamed = SHORT.replace('name = "tiny"\n', "")
    for file, name in (("my world.toml", "my-world"), ("_x.toml", "x"), ("größe", "gr-e"), ("a" * 99, "a" * 64)):
        Path(file).write_text(unnamed)
        assert load_config(file).run.name == name
    assert load_config("my world.toml", ["run.name=other"]).run.name == "other"
    metta("train", "my world.toml", "--quiet")
    assert metta("eval", "my-world", "--episodes", "1").stderr.startswith("note: using runs/my-world-20")


PIPED = {
    "train": ["train", "-", "--quiet", "--run-dir", "piped"],
    "check": ["check", "-"],
    "bench": ["bench", "-", "--seconds", "1"],
    "map": ["map", "-"],
    "eval --env": ["eval", "random", "--env", "-", "--episodes", "1"],
    "eval --tasks": ["eval", "random", "--env", "-", "--tasks", "--episodes", "1"],
    "replay --env": ["replay", "random", "--env", "-", "--max-steps", "1"],
    "watch --env": ["watch", "random", "--env", "-"],
    "play": ["play", "-"],
}


@pytest.mark.parametrize("command", PIPED)
def test_a_file_comes_from_a_pipe(command: str, here: Path, shown: list[Any]) -> None:
    metta(*PIPED[command], stdin=SHORT)
    wrong = metta(*PIPED[command], stdin=SHORT.replace("width = 8", "widht = 8"), code=2).stderr
    assert wrong == 'error: <stdin> has 1 problem\n  line 9  env.game.widht  unknown key; did you mean "width"?\n'
    for text, message in (
        ("", "error: standard input is empty; - stands for a TOML file that another command writes to it\n"),
        ("[", "error: <stdin> has 1 problem\n  line 1  is not TOML"),
        ("#" * 1_048_577, "error: <stdin> has more than 1048576 bytes, the limit\n"),
    ):
        assert metta(*PIPED[command], stdin=text, code=2).stderr.startswith(message)


def test_a_suite_comes_from_a_pipe(here: Path) -> None:
    rows = metta("eval", "random", "--suite", "-", "--episodes", "1", "--json", stdin='worlds = ["tiny.toml"]').stdout
    assert [json.loads(row)["env"] for row in rows.splitlines()] == ["tiny.toml"]


def test_files_in_a_piped_file_are_in_the_working_directory(here: Path) -> None:
    scenes = metta("check", "-", stdin=SHORT + '[curriculum]\nscenes = ["tiny.toml"]\n').stdout
    assert "tiny.toml" in scenes


def test_a_job_does_not_read_from_a_pipe(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes share the pipe: each would get a part of the file."""
    monkeypatch.setattr("metta.config.loading.toml_parser.job_size", lambda: 2)
    assert "processes of a job cannot share standard input" in metta("check", "-", stdin=SHORT, code=2).stderr


def test_train_without_an_argument_says_how_to_use_it(here: Path) -> None:
    assert metta("train", code=2).stderr.endswith(" train quickstart\n")
