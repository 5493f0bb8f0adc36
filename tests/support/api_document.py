"""Code examples of the API document, extracted from the document."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[3] / "shared" / "metta_api.md"


def code_blocks() -> list[str]:
    """The Python blocks in the order of the document; the closing fence of the last one may be missing."""
    if not DOCUMENT.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{DOCUMENT} is missing")
        pytest.skip("the API document is not next to this clone")
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)(?:^```|\Z)", text, re.DOTALL | re.MULTILINE)


def examples() -> list[str]:
    """The code blocks that are programs."""
    return [block for block in code_blocks() if "from metta.api import" in block]
