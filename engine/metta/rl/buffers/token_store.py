"""TokenStore: the observations of an epoch, as one flat list of tokens."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from metta.agent.devices import to_device
from metta.agent.sparse_tokens import PackedTokens, copied_lists

MARGIN: Final = 1.25
"""Space of the store, divided by that which the epoch needs if its observations are as long as those stored so far."""


class TokenStore:
    """The observations of `steps` steps of `agents` agents, without padding, in the order of steps and agents.

    They are appended in this order, so that no observation has to be searched for: those of step t are the numbers
    `t * agents` to `(t + 1) * agents - 1`, and observation n has the tokens `offsets[n]` to `offsets[n + 1] - 1`. The
    store grows when an epoch has more tokens than expected. `num_tokens` is the largest number of tokens of an
    observation.
    """

    def __init__(self, steps: int, agents: int, num_tokens: int, device: torch.device, pins_memory: bool = False):
        self.agents = agents
        self.num_tokens = num_tokens
        self.offsets = torch.zeros(steps * agents + 1, dtype=torch.int64)
        """`[steps * agents + 1] int64`, in host memory, so that sizes are known without waiting for a GPU"""
        self.length = 0
        """number of observations stored"""
        self._pins_memory = pins_memory
        self._tokens = self._allocate(0, device)

    def append(self, observations: PackedTokens) -> None:
        """Store the next observations, whose offsets must be in host memory."""
        start, end = int(self.offsets[self.length]), self.length + len(observations)
        self.offsets[self.length + 1 : end + 1] = start + observations.offsets[1:]
        self.length = end
        stop = int(self.offsets[end])
        if stop > len(self._tokens):
            most = (len(self.offsets) - 1) * self.num_tokens
            expected = int(MARGIN * stop / end * (len(self.offsets) - 1))
            grown = self._allocate(max(stop, min(expected, most)), self._tokens.device)
            grown[:start] = self._tokens[:start]
            self._tokens = grown
        self._tokens[start:stop] = to_device(observations.tokens, self._tokens.device)

    def restart(self, observations: PackedTokens) -> None:
        """Discard all observations, then store these, whose offsets must be in host memory."""
        self.length = 0
        self.append(observations)

    def restart_with(self, step: int) -> None:
        """Discard all observations but those of a step, which become the first ones."""
        offsets = self.offsets[step * self.agents : (step + 1) * self.agents + 1].clone()
        start, stop = int(offsets[0]), int(offsets[-1])
        self.restart(PackedTokens(self._tokens[start:stop].clone(), offsets - start))

    def at(self, step: int, rows: slice = slice(None)) -> PackedTokens:
        """The observations of consecutive agents `rows` (by default all) at a step; a view on the store's device."""
        first, last, _ = rows.indices(self.agents)
        offsets = self.offsets[step * self.agents + first : step * self.agents + last + 1]
        start, stop = int(offsets[0]), int(offsets[-1])
        return PackedTokens(self._tokens[start:stop], to_device(offsets - start, self._tokens.device))

    def padded(self, step: int) -> Tensor:
        """`[agents, num_tokens, 3] uint8`: the padded observations of a step; location 255 is padding."""
        return self.at(step).padded(self.num_tokens)

    def gather(self, numbers: Tensor) -> PackedTokens:
        """A copy of the observations with these numbers, an int64 tensor of any shape in host memory, in its order."""
        starts = self.offsets[numbers.flatten()]
        counts = self.offsets[numbers.flatten() + 1] - starts
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        tokens = copied_lists(self._tokens, starts, offsets)
        return PackedTokens(tokens, to_device(offsets, tokens.device))

    def _allocate(self, tokens: int, device: torch.device) -> Tensor:
        return torch.empty(tokens, 3, dtype=torch.uint8, device=device, pin_memory=self._pins_memory)
