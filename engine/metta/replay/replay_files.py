"""Replays on disk: two files an episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metta.files import write_whole
from metta.replay.mettascope import mettascope_file
from metta.replay.recording import Replay
from metta.replay.standalone_html import page_file


@dataclass(frozen=True)
class ReplayPaths:
    """Where an episode was written."""

    mettascope: Path
    """`.json.z`, for MettaScope"""
    page: Path
    """`.html`, for any browser"""


def write_replay(replay: Replay, directory: str | Path, name: str, title: str | None = None) -> ReplayPaths:
    """Write `NAME.json.z` and `NAME.html` into `directory`, which is made if need be; each whole or not at all.

    `title` (default: the name) heads the page. Raises OSError as it comes.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = ReplayPaths(folder / f"{name}.json.z", folder / f"{name}.html")
    write_whole(paths.mettascope, mettascope_file(replay))
    write_whole(paths.page, page_file(replay, title or name))
    return paths
