"""Animated GIFs and MP4 films of a recorded episode (extra `video`: pillow draws, ffmpeg encodes)."""

from __future__ import annotations

import importlib
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from metta.config.validation.file_paths import check_writable, user_path
from metta.errors import UsageError
from metta.files import write_atomically
from metta.replay.recording import Replay

MAX_FPS: Final = 50
"""Frames per second, at most: browsers slow down GIFs with more. At higher speeds, steps are left out."""
MIN_CELL: Final = 2
"""Pixels per cell, at least."""
FORMATS: Final = (".gif", ".mp4")


@dataclass(frozen=True)
class VideoSettings:
    """Which part of an episode a video shows, how fast and how large."""

    first_step: int = 0
    last_step: int | None = None
    """the last state shown; `replay.steps` is the final one, and the default"""
    speed: int = 10
    """steps per second"""
    size: int = 640
    """pixels of the longer side, at most: cells are an even number of pixels wide"""

    def steps(self, replay: Replay) -> list[int]:
        """The step of each frame. Raises UsageError if the episode does not have these steps."""
        last = replay.steps if self.last_step is None else self.last_step
        if not 0 <= self.first_step <= last <= replay.steps:
            raise UsageError(
                f"the steps {self.first_step}-{last} cannot be shown: the episode with seed {replay.seed} has steps "
                f"0-{replay.steps}; name two of them in ascending order"
            )
        if self.speed < 1:
            raise UsageError(f"the speed must be at least 1 step per second; got {self.speed}")
        stride = -(-self.speed // MAX_FPS)
        return list(range(self.first_step, last + 1, stride))

    def check(self, replay: Replay) -> None:
        """Raise UsageError if the settings do not fit the episode."""
        self.steps(replay)
        self.cell(replay)

    def seconds(self, frame: int) -> float:
        """The time at which a frame begins."""
        return frame * -(-self.speed // MAX_FPS) / self.speed

    def cell(self, replay: Replay) -> int:
        """Pixels per cell, an even number, because players need even sizes. Raises UsageError if the size is small."""
        longest = int(max(replay.cells.shape))
        if self.size < MIN_CELL * longest:
            raise UsageError(
                f"a size of {self.size} pixels is too small for a map of {longest} cells; choose at least "
                f"{MIN_CELL * longest}"
            )
        return self.size // longest // 2 * 2


def check_video_path(path: str | Path) -> None:
    """Raise UsageError if the extra `video` is not installed, or if no video can be written to the path."""
    missing = [name for name in ("PIL", "imageio_ffmpeg") if find_spec(name) is None]
    if missing:
        raise UsageError("videos need pillow and imageio-ffmpeg: pip install 'metta-gridworlds[video]'")
    if user_path(path).suffix not in FORMATS:
        raise UsageError(f"the name of a video must end with {' or '.join(FORMATS)}; got {path}")
    check_writable(path)


def write_video(
    replay: Replay,
    path: str | Path,
    settings: VideoSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a GIF or an MP4 of the episode, by the suffix of `path`; returns the path.

    It shows the map as the replay page does, in light colors, one frame per step. MP4s are H.264 with yuv420p, which
    browsers play. GIFs repeat without end. `progress` is called with the numbers of frames done and in total. The file
    is written completely or not at all.

    Raises UsageError for steps that the episode does not have, a size that is too small, or if the extra `video` is not
    installed; OSError if the file cannot be written.
    """
    check_video_path(path)
    settings, path = settings or VideoSettings(), user_path(path)
    steps = settings.steps(replay)
    painter = importlib.import_module("metta.replay.map_picture").MapPainter(replay, settings.cell(replay))

    def pictures() -> Iterator[Any]:
        for done, step in enumerate(steps, 1):
            yield painter.picture(step)
            if progress is not None:
                progress(done, len(steps))

    times = [settings.seconds(frame) for frame in range(len(steps) + 1)]
    if path.suffix == ".gif":
        content = _gif(pictures(), _palette([painter.picture(step) for step in _sample(replay, steps)]), times)
    else:
        content = _mp4(pictures(), painter.picture(steps[0]).size, 1 / times[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path


def _sample(replay: Replay, steps: list[int]) -> list[int]:
    """Steps whose pictures have the colors of all: some of them, and some with a frozen agent or an attack."""
    frozen = [step for step in steps if replay.is_frozen[step].any()]
    attacks = [step - 1 for step in frozen if step > steps[0]]
    return [*steps[:: max(1, len(steps) // 6)], *frozen[:2], *attacks[:2]]


def _palette(samples: list[Any]) -> Any:
    """A picture with the palette of 256 colors for all frames."""
    width, height = samples[0].size
    image = importlib.import_module("PIL.Image")
    montage = image.new("RGB", (width, height * len(samples)))
    for index, sample in enumerate(samples):
        montage.paste(sample, (0, index * height))
    return montage.quantize(256, method=image.Quantize.MEDIANCUT, dither=image.Dither.NONE)


def _gif(pictures: Iterator[Any], palette: Any, times: list[float]) -> bytes:
    """The content of a GIF. `times [frames + 1]` are in seconds; a GIF has hundredths, so durations differ by one.

    Each frame has only the rectangle that differs from the frame before.
    """
    plugin, chops = importlib.import_module("PIL.GifImagePlugin"), importlib.import_module("PIL.ImageChops")
    file = io.BytesIO()
    previous = None
    for picture, hundredths in zip(
        pictures, np.diff(np.round(100 * np.array(times)).astype(int)).tolist(), strict=True
    ):
        frame = picture.quantize(palette=palette, dither=0)
        shown = frame.convert("RGB")
        if previous is None:
            file.writelines(plugin.getheader(frame, info={"loop": 0, "optimize": False})[0])
            box = (0, 0, *frame.size)
        else:
            box = chops.difference(shown, previous).getbbox() or (0, 0, 1, 1)
        file.writelines(plugin.getdata(frame.crop(box), box[:2], duration=10 * hundredths, disposal=1))
        previous = shown
    file.write(b";")
    return file.getvalue()


def _mp4(pictures: Iterator[Any], size: tuple[int, int], fps: float) -> bytes:
    """The content of an MP4 file."""
    ffmpeg = importlib.import_module("imageio_ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        writer = ffmpeg.write_frames(
            str(file),
            size,
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "18", "-preset", "medium", "-tune", "animation", "-movflags", "+faststart"],
        )
        writer.send(None)
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture))
        writer.close()
        return file.read_bytes()
