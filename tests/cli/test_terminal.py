"""`metta watch` and `metta play` in a real terminal: keys in, pictures out, and the terminal left as it was."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_runs import TINY, tiny_config

from metta.api import RunEnded, train_run
from metta.run.run_directory import RunDirectory

TMUX = shutil.which("tmux")
pytestmark = pytest.mark.skipif(not TMUX and not os.environ.get("CI"), reason="there is no tmux")
PATIENCE_SECONDS = 60


class Terminal:
    """A terminal of 100 x 30 characters with a shell in it."""

    def __init__(self, socket: Path):
        self._tmux = [str(TMUX), "-S", str(socket), "-f", "/dev/null"]
        self._run("new-session", "-d", "-x", "100", "-y", "30", "env PS1='$ ' sh")

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True).stdout

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def type(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    def shows(self, found: Callable[[str], object]) -> str:
        """The screen as soon as it shows that."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not found(screen := self.screen()):
            assert time.monotonic() < end, screen
            time.sleep(0.05)
        return screen

    def close(self) -> None:
        self._run("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path / "tmux")
    yield terminal
    terminal.close()


def command(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "metta_cli", *arguments])


def step_of(screen: str) -> int:
    found = re.search(r"step +([\d,]+)", screen)
    return int(found[1]) if found else -1


def flat(screen: str) -> str:
    """The text on the screen without blanks, so that it does not matter where its lines were broken."""
    return "".join(screen.split())


def policies_on(screen: str) -> set[str]:
    return set(re.findall(r"checkpoint_\d+", screen))


def agent_row_and_col(screen: str, index: int) -> tuple[int, int, str]:
    for row, line in enumerate(screen.splitlines()):
        if found := re.search(rf"[▲▼◀▶]{index}", line):
            return row, found.start(), found[0][0]
    raise AssertionError(screen)


def test_keys_control_one_agent(terminal: Terminal, tmp_path: Path) -> None:
    """Open ground all around, so that every turn and step succeeds."""
    world = tmp_path / "open.toml"
    world.write_text('[env.map_builder]\ntype = "Ascii"\nmap = """\n.....\n.....\n..@..\n.....\n....."""\n')
    terminal.type(command("play", str(world)), "Enter")
    before = agent_row_and_col(terminal.shows(lambda screen: "your turn" in screen), 0)
    terminal.type("Right" if before[2] != "▶" else "Space")
    turned = agent_row_and_col(terminal.shows(lambda screen: step_of(screen) == 1), 0)
    assert turned == (before[0], before[1], "▶")
    terminal.type("Right")
    walked = agent_row_and_col(terminal.shows(lambda screen: step_of(screen) == 2), 0)
    assert walked == (before[0], before[1] + 2, "▶")
    terminal.type("z")  # means nothing, and costs no step
    terminal.type("g")
    screen = terminal.shows(lambda screen: step_of(screen) == 3)
    assert "get items: failed" in screen
    assert re.search("because +nothing is ahead", screen)
    terminal.type("Home", "DC", "PPage", "S-Up", "F1", "M-q", "Enter")  # mean nothing either
    terminal.type("g")
    terminal.shows(lambda screen: step_of(screen) == 4 and "your turn" in screen)
    terminal.type("Escape")
    screen = terminal.shows(lambda screen: "your turn" not in screen and "$ " in screen)
    assert "gained no items; 4 steps; failed actions: 2" in screen
    terminal.type("echo still here", "Enter")  # typed keys are shown again
    terminal.shows(lambda screen: screen.count("still here") == 2)


def test_a_world_from_a_pipe_is_played_with_keys_of_the_terminal(terminal: Terminal) -> None:
    terminal.type(command("presets", "show", "quickstart") + " | " + command("play", "-"), "Enter")
    terminal.shows(lambda screen: "your turn" in screen)
    terminal.type("Space")
    terminal.shows(lambda screen: step_of(screen) == 1)
    terminal.type("q")
    terminal.shows(lambda screen: "your turn" not in screen and "$ " in screen)
    terminal.type("echo still here", "Enter")
    terminal.shows(lambda screen: screen.count("still here") == 2)


def test_watching_a_run_pauses_steps_and_follows_it(terminal: Terminal, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    config = tiny_config("", f"run.run_dir={run_dir}", "run.total_timesteps=512", "env.game.max_steps=400")
    assert isinstance(train_run(config, lambda event: None), RunEnded)
    terminal.type(command("watch", str(run_dir), "--speed", "20"), "Enter")
    terminal.shows(lambda screen: "checkpoint_000001" in screen and step_of(screen) > 2)
    terminal.type("Space")
    paused = step_of(terminal.shows(lambda screen: "paused" in screen))
    terminal.type("s")
    terminal.shows(lambda screen: step_of(screen) == paused + 1)
    terminal.type("Tab")
    terminal.shows(lambda screen: re.search(r"agent +[▲▼◀▶]1", screen))
    terminal.type("Home", "DC", "PPage", "S-Up", "F1")  # do not quit
    terminal.type("Space", "+")
    terminal.shows(lambda screen: "50 steps/s" in screen)
    newest = run_dir / "checkpoints" / "checkpoint_000001.pt"
    shutil.copy(newest, newest.with_name("checkpoint_000002.pt"))
    terminal.type("n")
    terminal.shows(lambda screen: "checkpoint_000002" in screen and re.search(r"episode +2", screen))
    terminal.type("q")
    terminal.shows(lambda screen: "checkpoint_000002" not in screen and "$ " in screen)


def test_a_run_in_progress_is_followed_wherever_it_keeps_its_policies(terminal: Terminal, tmp_path: Path) -> None:
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    config = tiny_config(
        run_dir,
        f"checkpoint.checkpoint_dir={elsewhere}",
        "checkpoint.checkpoint_interval=1",
        "run.total_timesteps=100_000_000",
        "env.game.max_steps=30",
    )
    with RunDirectory.create(config):  # as far as a run has come that is still making its worlds
        terminal.type(command("watch", str(run_dir), "--speed", "50"), "Enter")
        terminal.shows(
            lambda screen: flat("has no checkpoint yet; waiting for the first one (Ctrl-C quits)") in flat(screen)
        )
    trainer = subprocess.Popen([sys.executable, "-m", "metta_cli", "resume", str(run_dir), "--quiet"])
    try:
        seen: set[str] = set()
        for _ in range(3):
            known = frozenset(seen)
            screen = terminal.shows(lambda screen, known=known: policies_on(screen) - known)
            seen |= policies_on(screen)
        assert trainer.poll() is None  # it is training still
        assert seen <= {path.stem for path in elsewhere.glob("checkpoint_*.pt")}
    finally:
        trainer.send_signal(signal.SIGINT)
        trainer.wait(PATIENCE_SECONDS)
    terminal.type("q")
    terminal.shows(lambda screen: "checkpoint_0" not in screen and "$ " in screen)


def is_one_panel(screen: str) -> bool:
    """Whether the screen shows one panel, from top to bottom; while it is being drawn, a part may be missing."""
    return screen.count("╭") == screen.count("╰") == 1 and "time spent" in screen


@pytest.mark.parametrize("columns", [120, 80, 40])
def test_training_leaves_one_panel_whatever_is_typed(terminal: Terminal, tmp_path: Path, columns: int) -> None:
    """Keys are not shown, which would shift the panel; nor is it drawn twice at another size, or after Ctrl-Z."""
    world = tmp_path / "long.toml"
    world.write_text(TINY.replace("total_timesteps = 4096", "total_timesteps = 100_000_000"))
    terminal.resize(columns, 36)
    terminal.type(f"cd {tmp_path}; clear", "Enter", command("train", str(world), "--run-dir", "run"), "Enter")
    terminal.shows(lambda screen: "time spent" in screen)
    terminal.type("a", "b", "Enter", "Enter", "Up")
    for size in (columns + 7, columns - 5, columns):
        terminal.resize(size, 36)
        terminal.shows(lambda screen, size=size: f"{'─' * (size - 30)}╮" in screen and is_one_panel(screen))
    terminal.type("C-z")
    terminal.shows(lambda screen: "Stopped" in screen)
    terminal.type("echo still here", "Enter")  # typed keys are shown again
    terminal.shows(lambda screen: screen.count("still here") == 2)
    terminal.type("fg", "Enter")
    terminal.shows(lambda screen: "still here" not in screen and is_one_panel(screen))
    terminal.type("C-c")
    drawn = terminal.shows(lambda screen: "metta resume run" in screen)
    assert "^C" not in drawn
    assert drawn.count("╰") == 1, drawn
    assert drawn.count("╭") <= 1, drawn  # with 40 columns it scrolls off
    terminal.type("echo still here", "Enter")
    terminal.shows(lambda screen: screen.count("still here") == 2)


def test_a_directory_that_is_not_a_run_is_an_error(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type(command("watch", str(tmp_path)), "Enter")
    terminal.shows(lambda screen: flat("is not a run directory") in flat(screen))


def test_the_scripted_policy_can_be_watched(terminal: Terminal) -> None:
    terminal.type(command("watch", "scripted", "--env", "quickstart"), "Enter")
    terminal.shows(lambda screen: "scripted" in screen and step_of(screen) > 1)
    terminal.type("q")


def test_without_a_terminal_there_is_an_error(tmp_path: Path) -> None:
    for arguments, hint in [
        (["watch", "random", "--env", "quickstart"], "metta replay random --env quickstart writes a web page instead"),
        (["play", "quickstart"], "run it without redirecting stdin or stdout"),
    ]:
        ran = subprocess.run(
            [sys.executable, "-m", "metta_cli", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert ran.returncode == 2
        assert ran.stderr == f"error: metta {arguments[0]} needs a terminal; {hint}\n"
        assert ran.stdout == ""
