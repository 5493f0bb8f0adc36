"""Every command with closed, full, unread or narrow standard streams: it ends as it does without the disturbance."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from in_process_pool import InProcessPool
from tiny_runs import TINY, ignore, metrics_of, tiny_config
from typer.testing import CliRunner

from metta.experiments.sweep import run_sweep
from metta.run.train import train_run
from metta_cli.__main__ import open_standard_streams
from metta_cli.main import app, main

pytestmark = pytest.mark.usefixtures("quick_contents")

NAME = "rädchen 東京 [b] :smile:"
"""Name of files and directories that every command prints."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train", f"{NAME}.toml", "--run-dir", f"out/{NAME}"),
    "resume": ("resume", f"out/{NAME}", "--total-timesteps", "1024"),
    "eval": ("eval", NAME, "--episodes", "1", "--suite", f"{NAME}.toml,w[/b].toml"),
    "map": ("map", f"{NAME}.toml"),
    "replay": ("replay", NAME, "--out", f"out/{NAME}", "--episodes", "2", "--max-steps", "3"),
    "watch": ("watch", NAME),
    "play": ("play", f"{NAME}.toml"),
    "export": ("export", NAME, "--out", f"out/{NAME}.onnx"),
    "report": ("report", NAME, "--out", f"out/{NAME}.html"),
    "check": ("check", f"{NAME}.toml"),
    "sweep": ("sweep", f"{NAME}.sweep.toml", "--run-dir", f"out/{NAME}"),
    "tournament": ("tournament", NAME, "random", "--episodes", "1", "--out", f"out/{NAME}"),
    "bench": ("bench", f"{NAME}.toml", "--seconds", "1", "--profile", f"out/{NAME}.json"),
    "reference": ("reference", "ppo"),
    "schema": ("schema",),
    "presets": ("presets", "show", "quickstart"),
}
"""Name -> arguments, with small work."""

WRONG = {
    "a command": ("trian",),
    "an option": ("train", f"{NAME}.toml", "--gamma", "1"),
    "a file": ("check", f"{NAME}.tom"),
    "a policy": ("eval", f"{NAME}.pt"),
    "a value": ("map", f"{NAME}.toml", "--set", f"env.game.width={NAME}"),
}

PACKAGES = {"export": "onnxscript", "report": "matplotlib", "sweep": "optuna", "tournament": "openskill"}
"""Packages of extras that commands need."""


@dataclass(frozen=True)
class Ran:
    code: int
    files: list[str]
    """those that the command wrote"""
    stdout: bytes
    stderr: bytes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    for name in (f"{NAME}.toml", "w[/b].toml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(TINY.replace("4096", "1024"))
    (folder / f"{NAME}.sweep.toml").write_text(
        f'[sweep]\nbase = "{NAME}.toml"\nmetric = "reward"\ntrials = 1\n'
        "[sweep.parameters]\nppo.gamma = { values = [0.9] }\n"
    )
    train_run(tiny_config(folder / NAME, "run.total_timesteps=512"), ignore)
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(trained)
    monkeypatch.setattr(run_sweep, "JobPool", InProcessPool)
    yield trained
    shutil.rmtree(trained / "out", ignore_errors=True)


def ran(here: Path, arguments: tuple[str, ...], stdin: str = "", stdout: str = "", stderr: str = "") -> Ran:
    """Run a command in a forked process, whose streams are `closed`, `full`, `unread` or of an encoding.

    A new process takes two seconds to import torch, a forked one none. It has one core, since torch hangs if it
    computes in several threads after a fork; `bench` would try them.
    """
    shutil.rmtree(here / "out", ignore_errors=True)
    if "resume" in arguments:
        shutil.copytree(here / NAME, here / "out" / NAME)
    pid = os.fork()
    if pid == 0:
        _run(here, arguments, [stdin, stdout, stderr])
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    files = sorted(str(path.relative_to(here)) for path in (here / "out").rglob("*") if path.is_file())
    return Ran(code, files, (here / "stdout").read_bytes(), (here / "stderr").read_bytes())


def _run(here: Path, arguments: tuple[str, ...], kinds: list[str]) -> NoReturn:
    code = 70
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    try:
        for descriptor, (name, kind) in enumerate(zip(("stdin", "stdout", "stderr"), kinds, strict=True)):
            _replace(here, descriptor, name, kind)
        open_standard_streams()
        sys.argv = ["metta", *arguments]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  # of a forked process, which must say why it ends
        (here / "stderr").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _replace(here: Path, descriptor: int, name: str, kind: str) -> None:
    """Open a standard stream as Python does when it starts."""
    if name == "stdin":
        source = os.open(os.devnull, os.O_RDONLY)
    elif kind == "unread":
        reader, source = os.pipe()
        os.close(reader)
    else:
        path = "/dev/full" if kind == "full" else here / name
        (here / name).write_bytes(b"")
        source = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.dup2(source, descriptor)
    os.close(source)
    if kind == "closed":
        os.close(descriptor)
        setattr(sys, name, None)
    elif name == "stdin":
        sys.stdin = open(descriptor, closefd=False)  # noqa: SIM115
    else:
        encoding = kind if kind in ("ascii", "latin-1") else "utf-8"
        setattr(
            sys,
            name,
            open(descriptor, "w", encoding=encoding, closefd=False),  # noqa: SIM115
        )


DISTURBANCES = {
    "stdin and stdout closed": {"stdin": "closed", "stdout": "closed"},
    "stderr closed": {"stderr": "closed"},
    "all closed": {"stdin": "closed", "stdout": "closed", "stderr": "closed"},
    "stderr full": {"stdout": "latin-1", "stderr": "full"},
    "stderr unread": {"stdout": "ascii", "stderr": "unread"},
}


def test_the_table_has_all_commands() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names | {group.name for group in app.registered_groups} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_as_it_does_without_the_disturbance(here: Path, command: str) -> None:
    if command in PACKAGES:
        pytest.importorskip(PACKAGES[command])
        CliRunner().invoke(app, COMMANDS[command])  # what it imports is then there in each forked process
    plain = ran(here, COMMANDS[command])
    assert plain.code == (2 if command in ("watch", "play") else 0), plain.stderr.decode()
    assert b"Traceback" not in plain.stderr
    for name, streams in DISTURBANCES.items():
        if command in PACKAGES and name not in ("all closed", "stderr unread"):
            continue  # these take seconds
        disturbed = ran(here, COMMANDS[command], **streams)
        assert (disturbed.code, disturbed.files) == (plain.code, plain.files), f"{name}: {disturbed.stderr.decode()}"
        assert b"Traceback" not in disturbed.stderr, f"{name}: {disturbed.stderr.decode()}"
        if "stdout" not in streams and command not in ("train", "resume", "bench"):  # whose lines have times
            assert disturbed.stdout == plain.stdout, name
    if command in PACKAGES:
        return
    unread = ran(here, COMMANDS[command], stdout="unread")
    if command in ("train", "resume"):  # they stop, and stderr says how to resume
        assert unread.code == 130
        assert b"note: the output was closed; saving, then stopping\n" in unread.stderr
        assert b"  resume    metta resume" in unread.stderr
    else:
        assert (unread.code, unread.files, unread.stderr) == (plain.code, plain.files, plain.stderr)
    full = ran(here, COMMANDS[command], stdout="full")
    if command in ("watch", "play"):
        assert full.code == 2
    elif command in ("train", "resume"):
        assert full.code == 130
        assert b"note: the output cannot be written (No space left on device); saving, then stopping\n" in full.stderr
    else:
        assert full.code == 1
        assert b"error: the output cannot be written: No space left on device\n" in full.stderr


@pytest.mark.parametrize("mistake", WRONG)
def test_errors_go_to_stderr_alone(here: Path, mistake: str) -> None:
    plain = ran(here, WRONG[mistake])
    assert (plain.code, plain.stdout) == (2, b"")
    assert plain.stderr.startswith(b"error: ")
    for name, streams in DISTURBANCES.items():
        disturbed = ran(here, WRONG[mistake], **streams)
        assert (disturbed.code, disturbed.stdout) == (2, b""), name


def test_the_help_can_be_read_in_part(here: Path) -> None:
    for arguments in (("--help",), ("train", "--help"), ("--version",), (), ("presets", "--help")):
        assert (ran(here, arguments, stdout="unread").code, ran(here, arguments, stdout="unread").stderr) == (0, b"")
        assert ran(here, arguments, stdout="closed").code == 0


def test_what_cannot_be_encoded_is_escaped_and_files_are_exact(here: Path) -> None:
    saved = f"out/{NAME}/checkpoints/checkpoint_000002.pt"
    printed = {encoding: ran(here, COMMANDS["train"], stdout=encoding) for encoding in ("utf-8", "ascii", "latin-1")}
    assert f"saved {saved}\n".encode() in printed["utf-8"].stdout
    assert b"saved out/r\\u00e4dchen \\u6771\\u4eac [b] :smile:/" in printed["ascii"].stdout
    assert b"saved out/r\xe4dchen \\u6771\\u4eac [b] :smile:/" in printed["latin-1"].stdout
    assert all(saved in ran.files for ran in printed.values())


def test_json_is_the_same_in_every_encoding(here: Path) -> None:
    arguments = ("eval", NAME, "--episodes", "1", "--json")
    texts = {encoding: ran(here, arguments, stdout=encoding).stdout for encoding in ("utf-8", "ascii", "latin-1")}
    assert len(set(texts.values())) == 1
    assert json.loads(texts["ascii"])["checkpoint"].startswith(NAME)


def test_a_toml_file_can_be_written_to_an_ascii_stream(here: Path) -> None:
    """Its strings have escapes that TOML knows."""
    checked = ran(here, ("check", f"{NAME}.toml", "--set", f'run.run_dir="{NAME} 😀"'), stdout="ascii")
    assert b"r\\u00e4dchen \\u6771\\u4eac [b] :smile: \\U0001f600" in checked.stdout
    (here / "out").mkdir()
    (here / "out" / "read.toml").write_bytes(checked.stdout)
    assert ran(here, ("map", "out/read.toml")).code in (0, 2)


def test_names_cannot_send_control_sequences(here: Path) -> None:
    wrong = ran(here, ("eval", "\x1b[31mred\x07"))
    assert wrong.code == 2
    assert b"\x1b" not in wrong.stderr + wrong.stdout
    assert b"\\x1b[31mred\\x07" in wrong.stderr


def test_a_real_process_with_closed_streams(tmp_path: Path) -> None:
    """Its first files must not get the descriptors of the closed streams, and with them the notes."""
    (tmp_path / "tiny.toml").write_text(TINY.replace("4096", "1024"))
    command = f"{sys.executable} -m metta_cli train tiny.toml --run-dir run <&- >&- 2>&-"
    environment = os.environ | {"WORLD_SIZE": "2"}  # which gives a note
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=False).returncode == 0
    assert [line["epoch"] for line in metrics_of(tmp_path / "run")] == [1, 2]
    assert b"note" not in b"".join(path.read_bytes() for path in (tmp_path / "run").glob("*") if path.is_file())
    command = f"{sys.executable} -m metta_cli check none.toml 2>&-"
    wrong = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, b"")


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "CLICOLOR_FORCE", "CI"])
def test_colors_are_not_animation(here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    trained = ran(here, COMMANDS["train"])
    assert trained.code == 0
    assert b"\x1b" not in trained.stdout + trained.stderr
    assert b"\nepoch 2  steps 1,024/1,024  " in trained.stdout


@pytest.mark.parametrize("columns", ["-5", "0", "1", "x", "", "100000"])
def test_any_width_of_the_terminal_is_taken(here: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    for command in ("presets", "reference", "eval", "train"):
        shown = ran(here, COMMANDS[command])
        assert (shown.code, b"Traceback" in shown.stderr) == (0, False), shown.stderr.decode()


NAMES = ["w[/b]", "[bold]x", ":smile:", "a[0]", "[/]", "[link=x]y", "\\[z]"]
"""Names that rich would read as markup or emoji."""


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(here: Path, name: str) -> None:
    run, world = f"out/{name}", f"out/{name}.toml"

    def printed(*arguments: str, code: int = 0) -> str:
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == code, shown.output
        return shown.output

    Path(world).parent.mkdir(parents=True)
    Path(world).write_text(TINY.replace("4096", "512"))
    assert f"run directory: {run}\n" in printed("train", world, "--run-dir", run)
    table = printed("eval", run, "--suite", f"{world},w[/b].toml", "--episodes", "1")
    assert f"{run}/checkpoints/" in table
    assert f"  {world} " in table
    assert f"  {run}/" in printed("replay", run, "--out", run, "--max-steps", "2")
    assert f"{name}/none.pt" in printed("eval", f"{name}/none.pt", code=2)
    for arguments in ((name,), ("reference", name), ("train", world, "--set", f"{name}=1"), ("map", name)):
        assert name in printed(*arguments, code=2).replace('"', "")
