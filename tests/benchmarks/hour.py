"""Does anything grow with time? Trains a preset as a user does for some minutes and watches the process from outside.

    python tests/benchmarks/hour.py quickstart --minutes 60
    python tests/benchmarks/hour.py arena --minutes 3 --set agent.hidden_dim=64 --json

Every few seconds: resident memory, open files, threads, bytes in the run directory. Then the run is stopped by SIGINT,
which saves. Memory is flat if the second half of the samples has hardly a slope; the first half fills caches. At the
end the metrics must hold every epoch once, in order.
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

LONG_ENOUGH = 10
"""Minutes from which on growth is judged; before, caches still fill."""
MOST_GROWTH = {"memory": 32.0, "open_files": 1.0, "threads": 1.0}
"""An hour, by the slope over the second half."""
UNITS = {"memory": "MiB", "open_files": "", "threads": "", "run_directory": "MiB"}


def sample(process_id: int, run: Path) -> dict[str, float]:
    """What the process holds now."""
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
    """Samples of the command while it runs, with `seconds` since its start; it is stopped after `minutes`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    begin, samples = time.monotonic(), []
    while (seconds := time.monotonic() - begin) < 60 * minutes and process.poll() is None:
        with contextlib.suppress(OSError, KeyError):  # a file went, or the process did, while it was looked at
            samples.append({"seconds": seconds} | sample(process.pid, run))
        time.sleep(every)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    code = process.wait(timeout=600)
    if code not in (0, 130):
        sys.exit(f"metta train ended with exit code {code}")
    return samples


def slopes(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of each number: the first, the largest and the last, and its slope per hour over the second half."""
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
    """What is wrong with `metrics.jsonl`: a line that is no JSON, an epoch that is missing or there twice."""
    problems, epochs, steps = [], [], []
    for number, line in enumerate((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
        except ValueError:
            problems.append(f"line {number} is no JSON")
        else:
            epochs.append(values["epoch"])
            steps.append(values["agent_step"])
    if epochs != list(range(1, len(epochs) + 1)):
        problems.append("epochs are not 1, 2, 3, ...")
    if steps != sorted(set(steps)):
        problems.append("agent steps do not rise")
    return problems or ([] if epochs else ["there is no epoch"])


def main() -> None:
    """Run, print a table or JSON; exit code 1 if the metrics are not sound or something grows."""
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
    if summary["minutes"] >= LONG_ENOUGH:
        grows = [name for name, most in MOST_GROWTH.items() if found[name]["slope_per_hour"] > most]
        problems += [f"{name} grows by more than {MOST_GROWTH[name]:.0f} an hour" for name in grows]
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(f"{arguments.source}: {summary['minutes']:.1f} minutes, {summary['epochs']} epochs, ", end="")
        print(f"{summary['agent_steps']:,} agent steps, {summary['samples']} samples")
        print(f"{'':<16}{'first':>10}{'half way':>10}{'largest':>10}{'last':>10}{'per hour':>12}")
        for name, row in found.items():
            print(
                f"{name + ' ' + UNITS[name]:<16}" + "".join(f"{row[key]:>10.1f}" for key in ("first", "half")), end=""
            )
            print(f"{row['largest']:>10.1f}{row['last']:>10.1f}{row['slope_per_hour']:>+12.2f}")
        print("; ".join(problems) or "metrics.jsonl is sound")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
