"""What all tests share: one thread a process, since the suite itself runs on every core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
