"""Processes of the benchmarks that end or fail: the benchmark says which one, shows its last messages, and ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
ROOT = BENCHMARKS.parents[1]

THREAD = """
import sys, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()  # as PufferLib starts one, which keeps the process alive
from tests.benchmarks.trainer_protocol import Progress, run_trainer, serve
"""

PEERS = {
    "ends at its start": ("raise ImportError('libpuffer.so: undefined symbol')", "undefined symbol"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with exit code -9"),
    "leaves a process that holds its stdout": (
        "import subprocess; subprocess.Popen(['sleep', '1000']); raise SystemExit('no extension')",
        "no extension",
    ),
    "ends after it is ready": ("print('ready', flush=True); raise SystemExit('out of memory')", "out of memory"),
    "fails at its start with a thread": (f"{THREAD}\nrun_trainer(lambda: 1 / 0)", "ZeroDivisionError"),
    "fails in its first batch with a thread": (f"{THREAD}\nrun_trainer(lambda: serve(lambda: 1 / 0))", "ZeroDivision"),
}

PROGRAM = """
import sys
from peer import Peer
other = Peer("other.py", [sys.executable, "other.py"])
other.receive()
peer = Peer("failing.py", [sys.executable, "failing.py"])
while peer.receive() != "ready":
    pass
peer.send("0")
peer.receive()
"""
TRAINER = """
import sys
from bench_train import Trainer
other = Trainer(sys.executable, {folder!r} + "/other.py", threads=1)
Trainer(sys.executable, {folder!r} + "/failing.py", threads=1).train(0)
"""
OTHER = "import sys, os\nprint('ready', flush=True)\nopen('pid', 'w').write(str(os.getpid()))\nsys.stdin.read()\n"


@pytest.mark.parametrize("kind", PEERS)
def test_a_failed_process_ends_the_benchmark(kind: str, tmp_path: Path) -> None:
    source, message = PEERS[kind]
    assert_ends(PROGRAM, source, message, tmp_path)


def test_a_failed_trainer_ends_the_benchmark_of_training(tmp_path: Path) -> None:
    source, message = PEERS["fails in its first batch with a thread"]
    assert_ends(TRAINER.format(folder=str(tmp_path)), source, message, tmp_path)


def assert_ends(program: str, source: str, message: str, folder: Path) -> None:
    """The program ends with a message about the process, and stops the other one."""
    (folder / "failing.py").write_text(source)
    (folder / "other.py").write_text(OTHER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(ROOT), str(ROOT / "engine")])}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert re.search(r"failing\.py.* ended with exit code -?\d", ran.stderr)
    assert message in ran.stderr
    assert not _is_running(int((folder / "pid").read_text()))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
