"""Runs the complete example of the API document: `python tests/benchmarks/complete_example.py`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from api_document import examples

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "example.py").write_text(examples()[1], encoding="utf-8")
        began = time.perf_counter()
        subprocess.run([sys.executable, "-W", "error", "example.py"], cwd=folder, check=True)
    print(f"{time.perf_counter() - began:.0f} seconds")
