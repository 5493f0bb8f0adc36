"""Suites: their worlds exist, and invalid suites get a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from metta.config.loading.load import load_config
from metta.config.loading.suites import SUITES, find_suite
from metta.errors import ConfigError, UsageError


def test_built_in_suites_exist() -> None:
    assert {"navigation", "economy", "teams", "combat", "curriculum", "all"} <= set(SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_its_worlds_are_presets_whose_episodes_end(name: str) -> None:
    suite = find_suite(name)
    assert suite.aim
    assert len(suite.worlds) == len(set(suite.worlds)) >= 2
    for world in suite.worlds:
        assert not load_config(world).env.game.is_endless


def test_all_has_each_world_of_the_others_once() -> None:
    others = [world for name, suite in SUITES.items() if name != "all" for world in suite.worlds]
    assert set(SUITES["all"].worlds) == set(others)


def test_the_curriculum_suite_has_the_scenes_of_the_preset() -> None:
    assert SUITES["curriculum"].worlds == load_config("curriculum").curriculum.scenes


def test_a_custom_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("[env.game]\nnum_agents = 4\n")
    assert find_suite("memory, mine.toml").worlds == ["memory", "mine.toml"]
    Path("suite.toml").write_text('aim = "both"\nworlds = ["memory", "mine.toml"]\n')
    assert find_suite("suite.toml").worlds == ["memory", "mine.toml"]


def test_invalid_suites_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match='no suite is called "navigaton"; did you mean "navigation"'):
        find_suite("navigaton")
    with pytest.raises(UsageError, match='no suite is called "x"; known: navigation, '):
        find_suite("x")
    with pytest.raises(UsageError, match='there is no file "none\\.toml"; a suite is a name'):
        find_suite("none.toml")
    with pytest.raises(UsageError, match='did you mean the preset "memory"'):
        find_suite("navigation,memry")
    Path("suite.toml").write_text('aim = "both"\nword = ["memory"]\nworlds = []\n')
    with pytest.raises(ConfigError) as caught:
        find_suite("suite.toml")
    assert str(caught.value) == (
        "suite.toml has 2 problems\n"
        '  line 2  word    unknown key; did you mean "worlds"? It is set already\n'
        "  line 3  worlds  must not be empty"
    )
