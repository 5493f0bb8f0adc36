"""Set-up of torch for the commands that run a policy: import and memory allocator."""

from __future__ import annotations

from metta import api


def set_up_torch() -> None:
    """Import torch, which takes seconds, and make the C allocator keep freed memory for later tensors."""
    _ = api.MettaAgent  # its module imports torch
    api.keep_freed_memory()
