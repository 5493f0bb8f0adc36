"""What all tests share: one thread a process, since the suite itself runs on every core; no stopwatch on examples."""

import os

from agent_fixtures import *  # noqa: F403  # fixtures of several rooms
from chromium import browser  # noqa: F401  # of replays and reports
from hypothesis import settings
from rl_fixtures import *  # noqa: F403

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("metta", deadline=None)
settings.load_profile("metta")
