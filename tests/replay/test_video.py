"""Videos of replays: frames read back, the look of the page, settings that do not fit, options of the command."""

from __future__ import annotations

import base64
import io
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from chromium import Chromium
from PIL import Image
from tiny_runs import TINY
from typer.testing import CliRunner
from viewer_page import go_to

from metta.errors import UsageError
from metta.replay.map_picture import MapPainter
from metta.replay.recording import Replay
from metta.replay.video import VideoSettings, check_video_path, write_video
from metta_cli.main import app

CANVAS = "document.querySelector('#map').toDataURL('image/png')"


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.int16)


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames of a video, as RGB arrays, and its duration in seconds."""
    if path.suffix == ".mp4":
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        result = subprocess.run(command, capture_output=True, check=True)
        about = result.stderr.decode()
        assert re.search(r"Video: h264 .*yuv420p", about)
        size, hours, minutes, seconds = (
            re.search(r", (\d+)x(\d+)[, ]", about),
            *re.search(r"Duration: (\d+):(\d+):([\d.]+)", about).groups(),
        )
        width, height = map(int, size.groups())
        frames = np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3).astype(np.int16)
        return [*frames], 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        frames, seconds = [], 0.0
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(pixels(image))
            seconds += image.info["duration"] / 1000
        return frames, seconds


@pytest.mark.parametrize(
    ("name", "settings", "count", "seconds"),
    [
        ("a.gif", VideoSettings(10, 40, 7, 200), 31, 31 / 7),
        ("b.mp4", VideoSettings(10, 40, 7, 200), 31, 31 / 7),
        ("c.gif", VideoSettings(0, None, 120, 120), 31, 31 * 3 / 120),
        ("d.mp4", VideoSettings(5, 5, 10, 101), 1, 0.1),
    ],
)
def test_a_video_shows_each_step(
    lively: Replay, tmp_path: Path, name: str, settings: VideoSettings, count: int, seconds: float
) -> None:
    seen: list[tuple[int, int]] = []
    path = write_video(lively, tmp_path / "new" / name, settings, lambda *done: seen.append(done))
    assert seen == [(done, count) for done in range(1, count + 1)]
    frames, duration = frames_of(path)
    assert len(frames) == count
    assert duration == pytest.approx(seconds, abs=0.03)
    rows, cols = lively.cells.shape
    height, width, _ = frames[0].shape
    assert width <= settings.size < width + 2 * cols
    assert (width % 2, height % 2, width * rows) == (0, 0, height * cols)
    painter = MapPainter(lively, settings.cell(lively))
    steps = settings.steps(lively)
    for step, frame in zip(steps, frames, strict=True):
        assert np.abs(frame - pixels(painter.picture(step))).mean() < 7  # colors of an MP4 have half the resolution
    if count > 1:
        cell = width // cols
        first, last = lively.positions[steps[0]], lively.positions[steps[-1]]
        agent = int((first != last).any(axis=1).nonzero()[0][0])
        for row, col in (first[agent], last[agent]):  # the agent has moved: both cells have changed
            area = np.s_[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell]
            assert np.abs(frames[0][area] - frames[-1][area]).mean() > 10


@pytest.mark.usefixtures("no_problems")
def test_pictures_look_like_the_page(browser: Chromium, lively: Replay, lively_page: Path) -> None:
    """Every cell, at steps with a frozen agent, an attack, a busy converter and a moved block."""
    browser.open(lively_page)
    rows, cols = lively.cells.shape
    steps = {
        0,
        lively.steps,
        int(lively.is_frozen.any(axis=1).argmax()),
        int(lively.is_frozen.any(axis=1).argmax()) - 1,
    }
    steps |= {int(lively.converter_is_busy.any(axis=1).argmax())}
    for step in sorted(steps):
        go_to(browser, step)
        browser.press("Escape")
        browser.wait_until_drawn()
        page = Image.open(io.BytesIO(base64.b64decode(browser.evaluate(CANVAS).partition(",")[2])))
        cell = min(page.width / cols, page.height / rows)
        left, top = (page.width - cols * cell) / 2, (page.height - rows * cell) / 2
        shown = page.crop((round(left), round(top), round(left + cols * cell), round(top + rows * cell)))
        drawn = MapPainter(lively, 2 * round(cell / 2)).picture(step)
        shown = shown.convert("RGB").resize(drawn.size)
        difference = np.abs(pixels(shown) - pixels(drawn)).mean(axis=2)
        size = drawn.width // cols
        by_cell = difference.reshape(rows, size, cols, size).mean(axis=(1, 3))
        assert by_cell.max() < 20, (step, np.unravel_index(by_cell.argmax(), by_cell.shape))
        assert by_cell.mean() < 4


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("a.gif", VideoSettings(50, 200), "the steps 50-200 cannot be shown: the episode with seed"),
        ("a.gif", VideoSettings(50, 40), "name two of them in ascending order"),
        ("a.mp4", VideoSettings(size=19), "19 pixels is too small for a map of 10 cells; choose at least 20"),
        ("a.avi", VideoSettings(), "must end with .gif or .mp4"),
        (".", VideoSettings(), "must end with .gif or .mp4"),
        ("folder.gif", VideoSettings(), "is a directory; name a file"),
        ("file/a.gif", VideoSettings(), "file is a file, not a directory"),
    ],
)
def test_what_cannot_be_written_is_refused(
    lively: Replay, tmp_path: Path, name: str, settings: VideoSettings, problem: str
) -> None:
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=problem):
        write_video(lively, tmp_path / name, settings)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.gif"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metta.replay.video.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'metta-gridworlds\[video\]'"):
        check_video_path("a.gif")


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        (["scripted", "--gif"], ["replays/scripted_tiny_seed_0.gif"]),
        (
            ["--gif", "scripted", "--mp4", "--episodes=2"],
            [f"replays/scripted_tiny_seed_{n}{s}" for n in (0, 1) for s in (".gif", ".mp4")],
        ),
        (["scripted", "--gif", "a.gif", "--mp4", "new/b.mp4", "--steps", "3"], ["a.gif", "new/b.mp4"]),
        (["scripted", "--gif=a.mp4"], "--gif writes files whose names end with .gif; got a.mp4"),
        (["scripted", "--gif", "a.gif", "--episodes=2"], "--gif a.gif names one file for 2 episodes"),
        (["scripted", "--gif", "--steps", "5-30"], "the steps 5-30 cannot be shown"),
        (["scripted", "--gif", "--steps", "few"], '"few" is not a range of steps such as 100-200'),
        (["scripted", "--gif", "--size", "8"], "must be at least 16; got 8"),
        (["scripted", "--mp4", "tiny.toml/a.mp4"], "tiny.toml is a file, not a directory"),
    ],
)
def test_options_of_the_command(
    arguments: list[str], outcome: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    command = ["replay", *arguments, "--env=tiny.toml", *([] if "--size" in arguments else ["--size=64"])]
    result = CliRunner().invoke(app, command)
    if isinstance(outcome, str):
        assert result.exit_code == 2, result.output
        assert outcome in result.stderr
        assert [path.name for path in tmp_path.rglob("*.*")] == ["tiny.toml"]
        return
    assert result.exit_code == 0, result.output + repr(result.exception)
    videos = [line.strip() for line in result.stdout.splitlines() if line.endswith((".gif", ".mp4"))]
    assert videos == outcome
    frames, _ = frames_of(Path(videos[0]))
    assert len(frames) == (4 if "--steps" in arguments else 21)
