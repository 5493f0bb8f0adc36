"""Gives every test with a `recording` argument one run for each recording of the original simulator."""

import os

import pytest
from recordings import FOLDER, Recording


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recording" in metafunc.fixturenames:
        paths = sorted(FOLDER.glob("*.npz"))
        if not paths and os.environ.get("CI") == "true":
            raise FileNotFoundError(f"there are no recordings in {FOLDER}, and without them nothing is proved")
        absent = pytest.param(None, marks=pytest.mark.skip(reason=f"no recordings in {FOLDER}"), id="absent")
        metafunc.parametrize("recording", [pytest.param(Recording(path), id=path.stem) for path in paths] or [absent])
