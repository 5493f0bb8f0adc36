"""LiveScreen: base class of the views that redraw a part of the terminal; progress bars."""

from __future__ import annotations

import os
import signal
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.control import Control
from rich.live import Live
from rich.text import Text

from metta_cli import output
from metta_cli.output import encodable

try:
    import termios
except ImportError:  # on Windows
    termios = None  # type: ignore[assignment]  # mypy reads the stubs of Linux

SHOW_CURSOR, HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"


class LiveScreen(ABC):
    """Context manager that shows `draw()` in a terminal and redraws it four times per second."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console
        self.drawn_size: ConsoleDimensions | None = console.size
        """size of the terminal at the last redraw; None if something else was drawn since then"""
        self.live = Live(console=console, get_renderable=self._redraw, refresh_per_second=4, transient=True)
        self.echo = EchoOff(sys.stdout.fileno(), self._forget_screen)

    @abstractmethod
    def draw(self) -> RenderableType:
        """The current content."""

    def __enter__(self) -> Self:
        self.echo.__enter__()
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.live.stop()
        except OSError:  # the terminal was closed
            output.silence_broken_streams()
        finally:
            self.echo.__exit__(kind, error, trace)

    def _forget_screen(self) -> None:
        self.drawn_size = None

    def _redraw(self) -> RenderableType:
        """`draw()`. Clears the screen first if the last drawing may lie elsewhere than where it was drawn."""
        if self.drawn_size != self.console.size:
            self.console.control(Control.clear(), Control.home())
            self.drawn_size = self.console.size
        return self.draw()


class EchoOff:
    """Context manager in which the terminal does not show typed keys, such as `^C`, which would shift the panel.

    Ctrl-Z shows them again until the process continues; `on_continue` is then called.
    """

    def __init__(self, terminal: int, on_continue: Any):
        self._terminal = terminal
        self._on_continue = on_continue
        self._settings: list[Any] | None = None
        """settings of the terminal with echo; None while they are not changed"""

    def __enter__(self) -> Self:
        if termios is not None:
            signal.signal(signal.SIGTSTP, self._stop)
            self._turn_off()
        return self

    def __exit__(self, *exception: object) -> None:
        if termios is not None:
            self._turn_on()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _turn_off(self) -> None:
        if output.is_in_foreground(self._terminal):
            with suppress(termios.error):
                self._settings = termios.tcgetattr(self._terminal)
                silent = [*self._settings]
                silent[3] &= ~termios.ECHO
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, silent)

    def _turn_on(self) -> None:
        if self._settings is not None and output.is_in_foreground(self._terminal):
            with suppress(termios.error):  # the terminal was closed
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._settings)
        self._settings = None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._turn_on()
        os.write(self._terminal, SHOW_CURSOR)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when the process continues
        signal.signal(signal.SIGTSTP, self._stop)
        self._turn_off()
        os.write(self._terminal, HIDE_CURSOR)
        self._on_continue()


def progress_bar(share: float, width: int, style: str) -> Text:
    """A bar of `width` columns whose first part has the style."""
    filled = round(share * width)
    full, empty = tuple(encodable("━─", "#-"))
    return Text(full * filled, style) + Text(empty * (width - filled), "bright_black")
