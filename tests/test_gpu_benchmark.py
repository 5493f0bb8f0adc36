"""`tests/benchmarks/gpu.py`, the script for machines with a GPU, in its smallest size on a CPU."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import gpu

ROOT = Path(__file__).parents[1]


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as on a machine on which metta is not installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "engine"), str(ROOT)])}
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_all_sections_run_on_a_cpu(tmp_path: Path) -> None:
    ran = run_script("--device", "cpu", "--size", "tiny", "--scale", "10", "--json", str(tmp_path / "figures.json"))
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    results = json.loads((tmp_path / "figures.json").read_text())
    assert [*results] == ["machine", *gpu.SECTIONS]
    assert all(results[name]["failures"] == [] and results[name]["figures"] for name in gpu.SECTIONS)
    assert results["resume"]["figures"]["default algorithms"] == {"epochs": 4, "same run twice": 0, "resumed": 0}
    for name, figures in gpu.speeds(results).items():
        assert figures["agent_steps_per_second"] > 0
        assert 0 < figures["shares"]["collect"] < 1
        assert name in ran.stdout
    assert "good" in ran.stdout.splitlines()[-1]


def test_a_section_that_hangs_or_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(device="cpu", size="tiny", scale=1.0)
    monkeypatch.setitem(gpu.BUDGETS, "waits", 0.1)
    found = gpu.start_section("waits", options, tmp_path, 0.0)
    assert found["failures"] == ["was ended after 0 s"]
    broken = argparse.Namespace(device="no such device", size="tiny", scale=1.0)
    monkeypatch.setitem(gpu.BUDGETS, "waits", 300.0)
    found = gpu.start_section("waits", broken, tmp_path, 0.0)
    assert "device" in found["failures"][0]
    assert "no such device" in found["failures"][0]


def test_without_a_gpu_the_script_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert "--device cpu" in capsys.readouterr().err
