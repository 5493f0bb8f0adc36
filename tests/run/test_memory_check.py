"""A run that does not fit into memory is refused before it starts, with a setting to lower that makes it fit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import Recorder, ignore, tiny_config
from typer.testing import CliRunner

from metta.api import Notice, load_config, train_run
from metta.config.plan.memory_estimate import memory_parts, too_large
from metta.errors import TrainingError
from metta.run import memory_check
from metta_cli.main import app

GIB = 1 << 30


def test_a_run_beyond_2_gib_is_refused_with_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory_check, "free_memory", lambda: 2 * GIB)
    large = ["--set", "experience.batch_size=8388608", "--set", "experience.minibatch_size=65536"]
    result = CliRunner().invoke(app, ["train", "default", "--device", "cpu", *large])
    assert result.exit_code == 1
    assert re.fullmatch(
        r"error: this run needs about [\d.]+ GiB of memory; 2 GiB are free: experience [\d.]+ GiB, worlds .+; "
        r"lower experience\.\w+( from [\d,]+ to [\d,]+| \(now [\d,]+\) and .+)\n",
        result.stderr,
    ), result.stderr
    assert not list(tmp_path.iterdir())


def test_lowering_what_the_message_says_makes_the_run_fit() -> None:
    values: dict[str, str] = {"experience.batch_size": "4194304", "experience.minibatch_size": "65536"}
    for _ in range(8):
        config = load_config("default", [f"{key}={value}" for key, value in values.items()])
        parts = memory_parts(config, config.env, 64 * 64)
        problem = too_large(parts, 2 * GIB)
        if problem is None:
            break
        for key, value in re.findall(r"lower ([\w.]+) from [\d,]+ to ([\d,]+)", problem):
            values[key] = value.replace(",", "")
        for key, value in re.findall(r"([\w.]+) \(now ([\d,]+)\)", problem):
            values[key] = str(int(value.replace(",", "")) // 2)
    assert problem is None, problem


def test_a_run_that_nearly_fills_the_memory_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path / "run", "run.total_timesteps=512")
    needed = sum(part.bytes for part in memory_parts(config, config.env, 64))
    monkeypatch.setattr(memory_check, "free_memory", lambda: int(needed * 1.1))
    heard = Recorder()
    train_run(config, heard)
    assert [event.text for event in heard.events if isinstance(event, Notice) and "nearly all" in event.text]


def test_a_run_that_may_not_fit_is_warned_of_and_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is refused only if two thirds of the estimate do not fit."""
    config = tiny_config(tmp_path / "run", "run.total_timesteps=512")
    needed = sum(part.bytes for part in memory_parts(config, config.env, 64))
    monkeypatch.setattr(memory_check, "free_memory", lambda: int(needed * 0.7))
    heard = Recorder()
    assert train_run(config, heard).reason == "finished"
    (notice,) = [event.text for event in heard.events if isinstance(event, Notice)]
    assert re.fullmatch(
        r"this run needs about .+ of memory; .+ are free: .+; lower experience\..+ if memory runs out", notice
    )
    monkeypatch.setattr(memory_check, "free_memory", lambda: int(needed * 0.6))
    with pytest.raises(TrainingError, match="this run needs about"):
        train_run(tiny_config(tmp_path / "refused"), ignore)


def test_processes_of_one_machine_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tiny_config(tmp_path / "run", "experience.batch_size=8192", "experience.minibatch_size=4096")
    each = tiny_config(
        tmp_path / "run",
        'distributed.batch="per_process"',
        "experience.batch_size=8192",
        "experience.minibatch_size=4096",
    )
    cpu, needed = "cpu", sum(part.bytes for part in memory_parts(shared, shared.env, 64))
    monkeypatch.setattr(memory_check, "free_memory", lambda: int(needed * 1.5))
    assert memory_check.check_memory(each, [each.env], cpu) is None
    assert memory_check.check_memory(each, [each.env], cpu, processes=8, processes_here=1) is None
    with pytest.raises(TrainingError, match=r"needs about .* lower experience\.\w+ from"):
        memory_check.check_memory(each, [each.env], cpu, processes=8, processes_here=8)
    assert memory_check.check_memory(shared, [shared.env], cpu, processes=8, processes_here=2) is None


STATISTICS = {
    "v2": {"anon": 50, "file": 1940, "active_file": 512, "inactive_file": 1400, "slab_reclaimable": 8},
    "v1": {"active_file": 1, "inactive_file": 2, "total_active_file": 520, "total_inactive_file": 1400},
}
"""Of a container with 2048 MiB, of which 2000 are used: in MiB, page cache for the most part."""


@pytest.mark.parametrize("version", STATISTICS)
def test_page_cache_of_a_container_is_free(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, usage = tmp_path / "limit", tmp_path / "usage"
    limit.write_text(f"{2048 << 20}\n")
    usage.write_text(f"{2000 << 20}\n")
    monkeypatch.setattr(memory_check, "_CGROUPS", ((str(limit), str(usage)),))
    monkeypatch.setattr(memory_check.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    assert memory_check.free_memory() == 48 << 20
    lines = [f"{name} {count << 20}\n" for name, count in STATISTICS[version].items()]
    (tmp_path / "memory.stat").write_text("".join(lines))
    assert memory_check.free_memory() == (48 + 1920) << 20
    limit.write_text("max\n")
    assert memory_check.free_memory() == 8 * GIB


def test_the_least_of_system_container_and_process_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "_CGROUPS", ())
    monkeypatch.setattr(memory_check.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    assert memory_check.free_memory() == 8 * GIB
    monkeypatch.setattr(memory_check, "_process_memory", lambda: 3 * GIB)
    assert memory_check.free_memory() == 3 * GIB
    monkeypatch.setattr(memory_check, "_process_memory", lambda: -1)
    assert memory_check.free_memory() == 0


PROGRAM = """
import resource, sys, pathlib
import metta.run.train
from metta_cli.main import app
if sys.argv[1] == "unchecked":
    metta.run.train.check_memory = lambda *_: None
size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (500 << 20),) * 2)
app(["train", "default", "--device", "cpu", "--run-dir", "run", "--set", "experience.batch_size=8388608"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize(
    ("how", "sentence"),
    [("checked", "error: this run needs about "), ("unchecked", "error: out of memory: the largest ")],
)
def test_a_process_out_of_memory_says_what_to_lower(how: str, sentence: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith(sentence), ran.stderr
    assert "lower experience.batch_size" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())
