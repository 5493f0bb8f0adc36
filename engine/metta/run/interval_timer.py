"""Timer for periodic work, such as checkpoints: due once per interval of seconds."""

from __future__ import annotations

import time


class IntervalTimer:
    """Due when `interval_seconds` have passed since it was created or last due; never due if that is 0."""

    def __init__(self, interval_seconds: float):
        self.interval_seconds = interval_seconds
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Whether the interval has passed; if so, the next interval starts."""
        now = time.monotonic()
        if not self.interval_seconds or now - self._since < self.interval_seconds:
            return False
        self._since = now
        return True
