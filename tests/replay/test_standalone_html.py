"""The HTML file: complete, small, without references to other files, and without names of the config in its markup."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path

from episodes import HOSTILE_NAMES, hostile, unpacked, value_at

from metta.files import TEMPORARY_SUFFIX
from metta.replay.recording import Replay
from metta.replay.replay_files import ReplayPaths, write_replay
from metta.replay.standalone_html import standalone_html


def test_two_files_are_written(lively: Replay, tmp_path: Path) -> None:
    directory = tmp_path / "made" / "on the way"
    paths = write_replay(lively, directory, "episode 1")
    assert sorted(directory.iterdir()) == [paths.page, paths.mettascope]
    assert [path.name for path in (paths.mettascope, paths.page)] == ["episode 1.json.z", "episode 1.html"]
    assert unpacked(paths.mettascope.read_bytes())["max_steps"] == 90
    assert paths.page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert not list(directory.glob(f"*{TEMPORARY_SUFFIX}"))
    before = paths.page.read_bytes()
    assert write_replay(lively, directory, "episode 1") == paths
    assert paths.page.read_bytes() == before


def test_the_files_of_a_large_episode_are_small(large: Replay, large_files: ReplayPaths) -> None:
    assert (large.steps, large.actions.shape[1]) == (1000, 64)
    assert large_files.page.stat().st_size < 1_000_000
    assert large_files.mettascope.stat().st_size < 1_500_000


def test_the_page_contains_the_episode_with_its_final_state(lively: Replay) -> None:
    html = standalone_html(lively, "a title")
    packed = re.search(r'<script type="application/octet-stream" id="episode">([^<]*)</script>', html)
    assert packed is not None
    content = json.loads(zlib.decompress(base64.b64decode(packed[1])))
    assert (content["title"], content["seed"], content["max_steps"]) == ("a title", lively.seed, 90)
    agents = [entity for entity in content["grid_objects"] if "agent_id" in entity]
    last = [[value_at(entity, key, 90) for key in ("r", "c")] for entity in agents]
    assert last == lively.positions[-1].tolist()
    lists = [value for entity in content["grid_objects"] for value in entity.values() if isinstance(value, list)]
    assert any(step == 90 for changes in lists for step, _ in changes), "nothing came of the last step"


def test_the_page_references_no_other_files(lively: Replay) -> None:
    html = standalone_html(lively, "title")
    assert "//" not in re.sub(r"(^|\s)//.*", "", html).split('id="episode"')[0], "an address"
    assert not re.search(r"\b(src|href|import|fetch|XMLHttpRequest|WebSocket)\b\s*[=(]", html)
    assert "default-src 'none'" in html


def test_names_are_not_markup() -> None:
    html = standalone_html(hostile(), HOSTILE_NAMES[0])
    for name in HOSTILE_NAMES:
        assert name not in html
    assert html.count("</script>") == 2
