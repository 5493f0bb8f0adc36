"""Files that commands write to names of their choice: another run's file of that name is never overwritten."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from tiny_runs import ignore, tiny_config
from typer.testing import CliRunner

from metta.run.train import train_run
from metta_cli.main import app

pytestmark = pytest.mark.usefixtures("quick_contents")

DEFAULT_NAMES = {
    "replay": ["replay", "RUN", "--max-steps", "2"],
    "report": ["report", "RUN"],
    "export": ["export", "RUN"],
}
"""Arguments of each command with the option `--out`, without that option."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs of different policies with the same epochs."""
    folder = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate(("first", "second")):
        train_run(tiny_config(folder / name, "run.total_timesteps=1024", f"run.seed={seed}"), ignore)
    return {name: folder / name for name in ("first", "second")}


def invoke(*arguments: object) -> str:
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_command_with_a_default_name_is_tested() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    writers = {name for name, command in commands.items() if any(param.name == "out" for param in command.params)}
    # the directory of a tournament is continued by the next one in its world, whose page replaces the one before
    assert writers == set(DEFAULT_NAMES) | {"tournament"}


@pytest.mark.parametrize("command", DEFAULT_NAMES)
def test_files_of_something_else_stay(
    command: str, trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained["first"], "run")
    arguments = ["run" if argument == "RUN" else argument for argument in DEFAULT_NAMES[command]]
    before = files(tmp_path)
    invoke(*arguments)
    written = files(tmp_path).keys() - before.keys()
    assert written
    invoke(*arguments)
    assert files(tmp_path).keys() - before.keys() == written, "the same again has the same names"

    foreign = {name: f"somebody's {name}".encode() for name in written}
    for name, content in foreign.items():
        Path(name).write_bytes(content)
    output = invoke(*arguments)
    after = files(tmp_path)
    assert {name: after[name] for name in foreign} == foreign
    assert len(after) == len(before) + 2 * len(written)
    assert all(name in output for name in after.keys() - before.keys() - written)


def pages(folder: str = "replays") -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.html"))


def test_replays_are_named_by_run_policy_world_and_seed(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = ("replay", "--max-steps", "2")
    for run in trained.values():
        invoke(*record, run)
        invoke(*record, run / "checkpoints")
        invoke(*record, run / "checkpoints" / "checkpoint_000002.pt")
    assert pages() == ["first_checkpoint_000002_seed_0.html", "second_checkpoint_000002_seed_0.html"]
    shutil.copy(trained["first"] / "checkpoints" / "checkpoint_000002.pt", "best.pt")
    invoke(*record, "best.pt", "--out", "others", "--seed", 3)
    small = "--env", "quickstart", "--set", "env.game.observation_width=5", "--set", "env.game.observation_height=5"
    invoke(*record, "scripted", "--env", "quickstart", "--out", "others")
    invoke(*record, "scripted", *small, "--out", "others")  # another world of the same name
    assert pages("others") == [
        "best_seed_3.html",
        "scripted_quickstart_seed_0.html",
        "scripted_quickstart_seed_0_2.html",
    ]


def test_the_title_of_a_page_names_run_policy_and_world(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained["first"] / "checkpoints" / "checkpoint_000002.pt", "best.pt")
    titles = {
        (str(trained["first"]),): "first \u00b7 epoch 2 \u00b7 world tiny",
        ("best.pt",): "best \u00b7 world tiny",
        ("random", "--env", "memory"): "random policy \u00b7 world memory",
        (
            "scripted",
            "--env",
            "quickstart",
            "--set",
            "env.game.width=20",
        ): "scripted policy \u00b7 world quickstart with env.game.width=20",
    }
    for number, (arguments, title) in enumerate(titles.items()):
        invoke("replay", *arguments, "--max-steps", 1, "--out", f"{number}")
        (page,) = Path(f"{number}").glob("*.html")
        assert f"<title>{title} \u00b7 metta replay</title>" in page.read_text()


def test_an_earlier_replay_of_another_run_of_the_same_name_stays(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, run in (("a", "first"), ("b", "second")):
        shutil.copytree(trained[run], Path(folder) / "run")
        invoke("replay", f"{folder}/run")
    assert pages() == ["run_checkpoint_000002_seed_0.html", "run_checkpoint_000002_seed_0_2.html"]


def test_processes_that_write_at_the_same_time_take_different_names(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from metta.files import write_together
while not os.path.exists("go"): time.sleep(0.001)
write_together(Path("."), "page", {".html": sys.argv[1].encode() * 1000, ".json.z": b"z" + sys.argv[1].encode()}, False)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, letter], cwd=tmp_path) for letter in "abcdef"]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    assert [process.wait(timeout=60) for process in processes] == [0] * 6
    pages = [tmp_path / f"page{number}" for number in ("", "_2", "_3", "_4", "_5", "_6")]
    letters = [page.with_suffix(".html").read_text()[:1] for page in pages]
    assert sorted(letters) == list("abcdef")
    assert [page.with_suffix(".json.z").read_text() for page in pages] == [f"z{letter}" for letter in letters]
    assert len(list(tmp_path.iterdir())) == 13


def test_a_report_replaces_earlier_reports_of_its_runs_only(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    first, second = trained.values()
    assert [invoke("report", *runs).strip() for runs in ([first], [first, second], [first, second], [second])] == [
        "report.html",
        "report.html",
        "report.html",
        "report_2.html",
    ]
    assert invoke("report", second, "--out", "report.html").strip() == "report.html"  # as the user says


def test_runs_may_share_a_directory_of_replays(tmp_path: Path) -> None:
    for name in ("one", "two"):
        settings = [
            "run.total_timesteps=512",
            "simulation.replay_interval=1",
            f"simulation.replay_dir='{tmp_path}/all'",
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("metta.run.train.IntervalTimer.is_due", lambda _: True)
            train_run(tiny_config(tmp_path / name, *settings, "checkpoint.checkpoint_interval=1000"), ignore)
    assert pages(f"{tmp_path}/all") == ["one_replay_000001.html", "two_replay_000001.html"]


def test_a_run_may_have_the_longest_name_that_a_file_system_allows(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    longest = "ä" * 127
    shutil.copytree(trained["first"], longest)
    invoke("replay", longest, "--max-steps", 1, "--episodes", 2)
    assert pages() == ["ä" * 100 + ".html", "ä" * 100 + "_2.html"]
