"""Growth of memory, open files and threads during a long training run:

    python tests/benchmarks/long_run.py quickstart --minutes 60
    python tests/benchmarks/long_run.py arena --minutes 3 --set agent.hidden_dim=64 --json

Runs `metta train` and samples resident memory, open files, threads and the size of the run directory every few
seconds. Then the run is stopped with SIGINT. Growth is the slope over the second half of the samples, since caches
fill in the first half. At the end `metrics.jsonl` must hold each epoch once, in order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHORTEST_JUDGED = 10
"""minutes; in shorter runs caches still fill, so that growth is not judged"""
LARGEST_GROWTH = {"memory": 32.0, "open_files": 1.0, "threads": 1.0}
"""per hour"""
UNITS = {"memory": "MiB", "open_files": "", "threads": "", "run_directory": "MiB"}


def sample(process_id: int, run: Path) -> dict[str, float]:
    """Current resources of the process and size of its run directory."""
    status = Path(f"/proc/{process_id}/status").read_text().splitlines()
    lines = dict(line.split(":", 1) for line in status if ":" in line)
    files = [path.stat().st_size for path in run.rglob("*") if path.is_file()] if run.exists() else []
    return {
        "memory": int(lines["VmRSS"].split()[0]) / 1024,
        "open_files": len(os.listdir(f"/proc/{process_id}/fd")),
        "threads": int(lines["Threads"]),
        "run_directory": sum(files) / 2**20,
    }


def watch(command: list[str], run: Path, minutes: float, every: float) -> list[dict[str, float]]:
    """Run the command for at most `minutes`; samples with `seconds` since the start."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    begin, samples = time.monotonic(), []
    while (seconds := time.monotonic() - begin) < 60 * minutes and process.poll() is None:
        with contextlib.suppress(OSError, KeyError):  # a file or the process disappeared meanwhile
            samples.append({"seconds": seconds} | sample(process.pid, run))
        time.sleep(every)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    code = process.wait(timeout=600)
    if code not in (0, 130):
        sys.exit(f"metta train ended with exit code {code}")
    return samples


def slopes(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """First, middle, largest and last value of each resource, and the slope per hour over the second half."""
    half = samples[len(samples) // 2 :]
    hours = np.array([line["seconds"] for line in half]) / 3600
    found = {}
    for name in UNITS:
        values = [float(line[name]) for line in samples]
        slope = np.polyfit(hours, [line[name] for line in half], 1)[0] if len(half) > 2 else float("nan")
        found[name] = {
            "first": values[0],
            "half": float(half[0][name]),
            "largest": max(values),
            "last": values[-1],
            "slope_per_hour": float(slope),
        }
    return found


def metrics_problems(run: Path) -> list[str]:
    """Problems of `metrics.jsonl`: lines that are not JSON, missing or repeated epochs."""
    problems, epochs, steps = [], [], []
    for number, line in enumerate((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
        except ValueError:
            problems.append(f"line {number} is not JSON")
        else:
            epochs.append(values["epoch"])
            steps.append(values["agent_step"])
    if epochs != list(range(1, len(epochs) + 1)):
        problems.append("epochs are not 1, 2, 3, ...")
    if steps != sorted(set(steps)):
        problems.append("agent steps do not increase")
    return problems or ([] if epochs else ["there are no epochs"])


def main() -> None:
    """Run and print a table or JSON; exit code 1 if the metrics have problems or a resource grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="preset or TOML file")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--set", action="append", default=[], help="SECTION.KEY=VALUE, as for metta train")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch, "run")
        command = [sys.executable, "-m", "metta_cli", "train", arguments.source, "--run-dir", str(run)]
        command += ["--total-timesteps", str(2**50), *(part for text in arguments.set for part in ("--set", text))]
        samples = watch(command, run, arguments.minutes, arguments.every)
        problems = metrics_problems(run)
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1]) if lines else {}
    found = slopes(samples)
    summary = {
        "source": arguments.source,
        "minutes": samples[-1]["seconds"] / 60,
        "samples": len(samples),
        "epochs": last.get("epoch", 0),
        "agent_steps": last.get("agent_step", 0),
        "problems": problems,
        "growth": found,
    }
    if summary["minutes"] >= SHORTEST_JUDGED:
        grows = [name for name, most in LARGEST_GROWTH.items() if found[name]["slope_per_hour"] > most]
        problems += [f"{name} grows by more than {LARGEST_GROWTH[name]:.0f} per hour" for name in grows]
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(f"{arguments.source}: {summary['minutes']:.1f} minutes, {summary['epochs']} epochs, ", end="")
        print(f"{summary['agent_steps']:,} agent steps, {summary['samples']} samples")
        print(f"{'':<16}{'first':>10}{'middle':>10}{'largest':>10}{'last':>10}{'per hour':>12}")
        for name, row in found.items():
            print(
                f"{name + ' ' + UNITS[name]:<16}" + "".join(f"{row[key]:>10.1f}" for key in ("first", "half")), end=""
            )
            print(f"{row['largest']:>10.1f}{row['last']:>10.1f}{row['slope_per_hour']:>+12.2f}")
        print("; ".join(problems) or "metrics.jsonl is complete")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
