"""The Slurm script and the Kubernetes job of engine/README.md, as far as they run without a cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from tiny_runs import TINY, metrics_of

from metta_cli.main import app

PAGE = (Path(__file__).parents[2] / "engine" / "README.md").read_text(encoding="utf-8")
DEADLINE = 300.0

SRUN = """
import os, signal, subprocess, sys
tasks = [
    subprocess.Popen(sys.argv[1:], env=os.environ | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
    for rank in range(2)
]
for number in (signal.SIGTERM, signal.SIGUSR1):  # Slurm signals the tasks, not srun
    signal.signal(number, lambda number, frame: [task.send_signal(number) for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""


def script() -> str:
    """The Slurm script."""
    (found,) = re.findall(r"^```bash\n(#!/bin/bash\n#SBATCH.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


def slurm(here: Path) -> subprocess.Popen[str]:
    """Start the script where `srun` and `scontrol` imitate Slurm's with two tasks on this machine."""
    folder = here / "bin"
    folder.mkdir(exist_ok=True)
    python = f"#!{sys.executable}\n"
    programs = {
        "srun": python + SRUN,
        "scontrol": '#!/bin/sh\ncase $1 in\nshow) echo 127.0.0.1 ;;\nrequeue) echo "$2" >> requeued ;;\nesac\n',
        "metta": f"{python}from metta_cli.__main__ import main\nmain()\n",
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (here / "job.sh").write_text(script())
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "here", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        ["bash", "job.sh"],
        cwd=here,
        env=os.environ | job | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def child_of(pid: int, name: str) -> int:
    """The process of a program that a shell runs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if int(parent) == pid and name in command:
                return int(entry.name)
    raise AssertionError(f"no process {name}")


@pytest.mark.slow
def test_the_slurm_script_requeues_a_stopped_job_and_the_next_one_ends_it(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TINY.replace("total_timesteps = 4096", f"total_timesteps = {512 * 2000}"))
    job = slurm(tmp_path)
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith("epoch 3 "):
            break
    os.kill(child_of(job.pid, "srun"), signal.SIGTERM)
    output, errors = job.communicate(timeout=DEADLINE)
    assert job.returncode == 130, output + errors
    assert (tmp_path / "requeued").read_text() == "17\n"
    epochs = len(metrics_of(tmp_path / "runs" / "mine"))
    assert 3 <= epochs < 2000
    config = tmp_path / "mine.toml"
    config.write_text(config.read_text().replace(f"{512 * 2000}", f"{512 * (epochs + 2)}"))
    job = slurm(tmp_path)
    output, errors = job.communicate(timeout=DEADLINE)
    assert job.returncode == 0, output + errors
    assert f"resumed at epoch {epochs}" in output
    assert "note: run.total_timesteps was" in errors
    assert (tmp_path / "requeued").read_text() == "17\n"
    assert len(metrics_of(tmp_path / "runs" / "mine")) == epochs + 2


def test_the_slurm_script_reports_an_error_and_is_not_requeued(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[run]\nsede = 1\n")
    job = slurm(tmp_path)
    _, errors = job.communicate(timeout=DEADLINE)
    assert job.returncode == 2
    assert 'unknown key; did you mean "seed"?' in errors
    assert not (tmp_path / "requeued").exists()


def test_the_kubernetes_job_runs_a_command_that_exists() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"command: (\[.*\])$", text, re.MULTILINE)
    words = json.loads(command)
    train = typer.main.get_command(app).commands[words[1]]
    options = {option for parameter in train.params for option in parameter.opts}
    assert words[0] == "metta"
    assert {word for word in words if word.startswith("--")} <= options
    mounts = set(re.findall(r"mountPath: (\S+?) }", text))
    assert {f"/{Path(word).parts[1]}" for word in words if word.startswith("/")} == mounts
    volumes = re.findall(r"- { name: (\w+), (?:persistentVolumeClaim|configMap)", text)
    assert sorted(volumes) == sorted(re.findall(r"{ name: (\w+), mountPath", text))
