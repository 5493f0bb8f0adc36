"""The code examples of the user's API document, taken from the file itself."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "shared" / "metta_api.md"


def examples() -> list[str]:
    """The code blocks that are programs, in the order of the document; the last block's fence may be missing."""
    if not DOCUMENT.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{DOCUMENT} is missing")
        pytest.skip("the API document is not beside this clone")
    blocks = re.findall(r"^```python\n(.*?)(?:^```|\Z)", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for block in blocks if "from metta.api import" in block]
