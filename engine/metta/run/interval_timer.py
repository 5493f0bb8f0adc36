"""Things that happen every so many seconds."""

from __future__ import annotations

import time


class Timer:
    """Is due every `interval_seconds`, counted from its making and from each time it was due; 0: never."""

    def __init__(self, interval_seconds: float):
        self.interval_seconds = interval_seconds
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Whether the interval has passed; if so, the next one begins."""
        now = time.monotonic()
        if not self.interval_seconds or now - self._since < self.interval_seconds:
            return False
        self._since = now
        return True
