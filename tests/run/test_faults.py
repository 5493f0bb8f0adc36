"""Three kills, and three signals, of the fifty that `python tests/support/faults.py` gives a run."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
is_possible = sys.platform == "linux" and find_spec("tensorboard") is not None


@pytest.mark.skipif(not is_possible, reason="needs inotify and TensorBoard")
def test_a_run_stopped_at_any_moment_and_resumed_equals_the_uninterrupted_run() -> None:
    signals = ("--signals", "KILL", "--signals", "TERM", "INT", "HUP")
    ran = subprocess.run(
        [sys.executable, "faults.py", "--kills", "3", "--seed", "7", *signals],
        cwd=SUPPORT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    killed, asked = [line for line in ran.stdout.splitlines() if line.startswith("3 kills of ")]
    assert " in write" in killed  # one in each run
    assert " in write" in asked
    assert any(f"while writing {file}" in killed for file in ("checkpoint", "trainer_state"))
