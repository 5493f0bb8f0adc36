"""Fixtures of the replay tests: recorded episodes and their files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium
from episodes import LIVELY, crowded, is_lively

from metta.baselines.random_policy import RandomPolicy
from metta.replay.recording import Replay, record_episode
from metta.replay.replay_files import ReplayPaths, write_replay


@pytest.fixture(scope="session")
def lively() -> Replay:
    """A short episode with every kind of change."""
    episodes = (record_episode(RandomPolicy(LIVELY.spec), LIVELY, seed) for seed in range(40))
    return next(filter(is_lively, episodes))


@pytest.fixture(scope="session")
def large() -> Replay:
    """An episode of 64 agents and 1000 steps."""
    config = crowded()
    return record_episode(RandomPolicy(config.spec), config, seed=1)


@pytest.fixture(scope="session")
def large_files(large: Replay, tmp_path_factory: pytest.TempPathFactory) -> ReplayPaths:
    return write_replay(large, tmp_path_factory.mktemp("large"), "large")


@pytest.fixture(scope="session")
def lively_page(lively: Replay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_replay(lively, tmp_path_factory.mktemp("lively"), "lively").page


@pytest.fixture
def no_problems(browser: Chromium) -> Iterator[None]:
    """A browser of common size with light colors, in which the test must cause no errors, warnings or requests."""
    browser.resize(1280, 800)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    yield
    assert browser.problems() == []
