"""metta as a real process: signals, kills, pipes, and a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import TINY, assert_same_weights, metrics_of, weights_of

LONG = TINY.replace("total_timesteps = 4096", "total_timesteps = 100_000_000")
COMMAND = [sys.executable, "-m", "metta_cli"]
DEADLINE = 300.0  # seconds; far more than it takes, for machines that are busy with other things


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.toml").write_text(LONG)
    return tmp_path


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """The output up to the first line that the pattern matches."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    process.wait()
    raise AssertionError("".join(lines) + (process.stderr.read() if process.stderr else ""))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_prints_how_to_resume(here: Path, number: signal.Signals) -> None:
    process = start("train", "long.toml", "--run-dir", "run")
    read_until(process, r"^epoch 3 ")
    process.send_signal(number)
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, errors
    assert f"{number.name}: Saving, then stopping. Press Ctrl-C again" in errors
    assert "Traceback" not in errors
    ended = re.search(r"^interrupted: [\d,]+ of 100,000,000 agent steps, (\d+) epochs", output, re.MULTILINE)
    assert ended, output
    epoch = int(ended[1])
    assert re.search(r"^  resume +metta resume run$", output, re.MULTILINE)
    assert (here / "run" / "checkpoints" / f"trainer_state_{epoch:06d}.pt").exists()
    if number == signal.SIGTERM:
        return
    resumed = subprocess.run(
        [*COMMAND, "resume", "run", "--json", "--total-timesteps", str(512 * (epoch + 2))],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    epochs = [event["epoch"] for event in map(json.loads, resumed.stdout.splitlines()) if event["event"] == "epoch"]
    assert epochs == [epoch + 1, epoch + 2]


def test_a_second_signal_leaves_at_once(here: Path) -> None:
    slow = LONG.replace("batch_size = 512", "batch_size = 524288")  # an epoch of most of a minute
    (here / "slow.toml").write_text(slow)
    process = start("train", "slow.toml", "--run-dir", "run")
    read_until(process, "^run directory")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "SIGINT: Saving" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)  # whatever it is at by now: breaking off, saving, leaving
    began = time.monotonic()
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, errors
    assert time.monotonic() - began < 15
    assert "Traceback" not in errors
    assert [path.name for path in (here / "run" / "checkpoints").glob("trainer*")] == ["trainer_state_000000.pt"]


def test_a_run_that_is_killed_and_resumed_equals_an_uninterrupted_one(here: Path) -> None:
    options = ("run.toml", "--set", "checkpoint.checkpoint_interval=1")
    (here / "run.toml").write_text(TINY.replace("total_timesteps = 4096", f"total_timesteps = {512 * 64}"))
    process = start("train", *options, "--run-dir", "killed", "--json")
    read_until(process, r'"event": "checkpoint".*"epoch": [1-9]')
    process.kill()
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGKILL
    for arguments in (("resume", "killed"), ("train", *options, "--run-dir", "straight")):
        subprocess.run([*COMMAND, *arguments, "--quiet"], check=True, timeout=DEADLINE)
    assert metrics_of(here / "killed") == metrics_of(here / "straight")
    assert_same_weights(weights_of(here / "killed", 64), weights_of(here / "straight", 64))


@pytest.mark.skipif(sys.platform != "linux", reason="torch comes with GNU's OpenMP on Linux alone")
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
    ids=["nothing", "a count", "a policy"],
)
def test_threads_do_not_spin_for_long_unless_told_to(given: dict[str, str], expected: str) -> None:
    """Read from the settings that torch's OpenMP prints when it is loaded."""
    known = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env = {**known, **given, "OMP_DISPLAY_ENV": "verbose"}
    shown = subprocess.run([*COMMAND, "eval", "none.pt"], env=env, capture_output=True, text=True).stderr
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", shown)) == {expected}


def test_a_reader_that_goes_away_is_no_traceback(here: Path) -> None:
    process = start("presets", "show", "default")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=DEADLINE)
    process.stderr.close()


def test_a_run_whose_output_is_closed_saves_and_says_how_to_resume(here: Path) -> None:
    """`metta train long.toml | head -4`, also under nohup, which ignores SIGHUP."""
    for ignored in (signal.SIG_DFL, signal.SIG_IGN):
        run = f"run_{int(ignored)}"
        process = subprocess.Popen(
            [*COMMAND, "train", "long.toml", "--run-dir", run],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda ignored=ignored: signal.signal(signal.SIGHUP, ignored),
        )
        read_until(process, r"^epoch 1 ")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=DEADLINE) == 130, errors
        assert errors.startswith("note: the output was closed; saving, then stopping\n"), errors
        assert "SIG" not in errors
        assert re.search(rf"^saved {run}/checkpoints/checkpoint_0+[1-9]", errors, re.MULTILINE)
        assert errors.endswith(f"  resume    metta resume {run}\n")


def test_ctrl_c_that_also_ends_the_reader_saves(here: Path) -> None:
    """`metta train long.toml | tee log`: Ctrl-C goes to both, and the last lines of the run have no reader."""
    process = start("train", "long.toml", "--run-dir", "run", "--json")
    read_until(process, '"event": "epoch"')
    assert process.stdout is not None
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=DEADLINE) == 130, errors
    assert errors.endswith("  resume    metta resume run\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", [("presets",), ("reference",), ("schema",), ("map", "quickstart")], ids=" ".join)
def test_an_output_on_a_full_disk_is_a_failure(command: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run([*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.stderr == "error: the output cannot be written: No space left on device\n"
    assert ran.returncode == 1


def in_a_terminal(*arguments: str, interrupt_after: str) -> tuple[str, int]:
    """All that a command draws in a terminal of 100 columns, Ctrl-C typed once it has drawn some text; exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="100", LINES="40")
        os.execv(sys.executable, [*COMMAND, *arguments])
    drawn, is_interrupted, began = b"", False, time.monotonic()
    while time.monotonic() - began < DEADLINE:
        ready, _, _ = select.select([terminal], [], [], 1)
        try:
            drawn += os.read(terminal, 65536) if ready else b""
        except OSError:  # the other end is closed
            break
        if not is_interrupted and interrupt_after.encode() in drawn:
            os.write(terminal, b"\x03")
            is_interrupted = True
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    # at a Ctrl-C a terminal forgets what it had not shown yet, half characters as they come
    return drawn.decode(errors="replace"), os.waitstatus_to_exitcode(status)


def test_the_live_view_in_a_terminal(here: Path) -> None:
    drawn, code = in_a_terminal("train", "long.toml", "--run-dir", "run", interrupt_after="episode length")
    assert code == 130
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    for part in ("tiny, ", "agent steps", "steps/s", "left ", "reward", "simulate", "learn", "last checkpoint: epoch"):
        assert part in text
    assert "interrupted: " in text
    assert "metta resume run" in text
    assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l")  # the cursor is back
    assert "Traceback" not in text


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("metta")
    ran = subprocess.run([script, "--help"], capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert "resume" in ran.stdout


@pytest.mark.parametrize("command", [("eval", "random", "--env", "quickstart"), ("map", "quickstart")], ids=" ".join)
def test_ctrl_c_at_any_moment_of_the_start_is_no_traceback(here: Path, command: tuple[str, ...]) -> None:
    """Most of these moments lie within imports, of NumPy and torch among others."""
    program = (
        "from metta_cli.interrupts import handle_interrupts; handle_interrupts(); print('ready'); "
        "from metta_cli.__main__ import main; main()"
    )
    for seconds in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.8, 1.2, 1.6):
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", program, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode in (0, 130), errors
        assert "Traceback" not in errors


SWALLOW = """try:
    signal.raise_signal(signal.SIGINT)
except BaseException:
    raise ValueError("not an interrupt") from None
"""


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("load_world", "import swallow"),  # an import within a command
        ("whole_number", SWALLOW),  # an option is parsed, before the command runs
        ("load_world", "signal.raise_signal(signal.SIGINT)"),  # the command itself
    ],
    ids=["import", "option", "command"],
)
def test_ctrl_c_where_packages_turn_it_into_other_errors(here: Path, name: str, program: str) -> None:
    (here / "swallow.py").write_text(f"import signal\n{SWALLOW}")
    body = "".join(f"    {line}\n" for line in program.splitlines())
    script = (
        # a job in the background may have been started with SIGINT ignored
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from metta_cli.__main__ import main\nfrom metta import api\n"
        f"def part(*arguments):\n{body}\napi.{name} = part\nmain()\n"
    )
    command = [sys.executable, "-c", script, "map", "quickstart", "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (ran.returncode, ran.stderr.strip()) == (130, "interrupted; files that were already saved are complete")
