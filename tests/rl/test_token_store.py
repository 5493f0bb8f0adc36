"""The token store: what was appended is found again, after growth and restarts, and without padding."""

from __future__ import annotations

import pytest
import torch
from rl_fixtures import padded_observations

from metta.agent.sparse_tokens import PackedTokens
from metta.rl.buffers.token_store import MARGIN, TokenStore
from metta.rl.rollout import rollout

CPU = torch.device("cpu")


def random_observations(agents: int, most: int, seed: int) -> PackedTokens:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, most + 1, (agents,), generator=generator)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    tokens = torch.randint(0, 255, (int(counts.sum()), 3), generator=generator, dtype=torch.uint8)
    return PackedTokens(tokens, offsets)


@pytest.mark.parametrize("longer", [1, 4])
def test_observations_are_found_by_step_and_agent(longer: int) -> None:
    """Also if the observations get `longer`, so that the store has to grow."""
    store, expected = TokenStore(9, 6, 40, CPU), []
    for step in range(9):
        each = random_observations(6, 10 if step < 3 else 10 * longer, step)
        halves = each.select(torch.arange(4)), each.select(torch.arange(4, 6))
        for half in halves:  # two world batches
            store.append(half)
        expected.append(each.padded(40))
    padded = torch.stack(expected)
    for step in range(9):
        assert torch.equal(store.padded(step), padded[step])
        assert torch.equal(store.at(step, slice(4, 6)).padded(40), padded[step, 4:])
    rows = torch.tensor([[3, 50, 3], [9, 0, 53]])
    assert torch.equal(store.gather(rows).padded(40), padded.flatten(0, 1)[rows.flatten()])
    store.restart_with(8)
    assert store.length == 6
    assert torch.equal(store.padded(0), padded[8])
    store.append(random_observations(6, 40, 77))
    assert torch.equal(store.padded(0), padded[8])
    assert torch.equal(store.padded(1), random_observations(6, 40, 77).padded(40))


def test_restarting_keeps_observations_that_overlap_their_new_place() -> None:
    store = TokenStore(3, 2, 40, CPU)
    first, last = random_observations(2, 3, 0), random_observations(2, 40, 1)
    store.append(first)
    store.append(last)
    store.restart_with(1)
    assert torch.equal(store.padded(0), last.padded(40))


def test_the_experience_has_no_padding(set_up) -> None:
    agent, experience = set_up()
    for _ in range(2):
        rollout(experience, agent)
        store, padded = experience.observations, padded_observations(experience)
        used = int((padded[..., 0] != 255).sum())
        assert int(store.offsets[store.length]) == used
        assert used <= len(store._tokens) < 1.2 * MARGIN * used
