"""How custom terminations end episodes: the part array `outcomes` and its values."""

from __future__ import annotations

from typing import Final

import numpy as np

OUTCOMES: Final = "outcomes"
"""Name of the part array with what terminations did to each episode. `[worlds] int8`"""

RUNNING, TERMINATED, TRUNCATED, WAS_TERMINATED, WAS_TRUNCATED = range(5)
"""Values of `outcomes`; the last two are those of later steps of an episode that is not reset."""

NEXT_OUTCOME = np.array([RUNNING, WAS_TERMINATED, WAS_TRUNCATED, WAS_TERMINATED, WAS_TRUNCATED], np.int8)
"""The outcome in the next step, by outcome."""
