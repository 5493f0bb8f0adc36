"""Sums of weight rows over sparse tokens: equal to products with the dense encoding, and so are their gradients."""

from __future__ import annotations

import torch
from token_encodings import dense_encoding, observation

from metta.agent.sparse_tokens import token_sums
from metta.agent.tokens import TokenCodes
from metta.config.agent import AgentModelConfig


def test_token_sums_are_products_with_the_dense_encoding(crowded_env, seen):
    codes = TokenCodes(crowded_env.spec, AgentModelConfig())
    dense = dense_encoding(codes, seen[5]).transpose(1, 2).flatten(1)
    weight = torch.randn(codes.num_rows, 5)
    torch.testing.assert_close(token_sums(weight, codes.sparse(seen[5])), dense @ weight, rtol=1e-4, atol=1e-4)


def test_gradients_of_token_sums_are_those_of_the_dense_product(crowded_env, seen):
    codes = TokenCodes(crowded_env.spec, AgentModelConfig())
    observations = seen[3]
    dense = dense_encoding(codes, observations).transpose(1, 2).flatten(1)
    incoming = torch.randn(len(observations), 7)
    gradients = []
    for product in (lambda w: token_sums(w, codes.sparse(observations)), lambda w: dense @ w):
        torch.manual_seed(0)
        weight = torch.randn(codes.num_rows, 7, requires_grad=True)
        product(weight).backward(incoming)
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert gradients[0].abs().sum() > 0


def test_an_agent_without_tokens_gets_zeros(crowded_env):
    codes = TokenCodes(crowded_env.spec, AgentModelConfig())
    empty = observation(crowded_env.spec).repeat(3, 1, 1)
    with_one = empty.clone()
    with_one[1, 0] = torch.tensor([0x11, 0, 1])
    weight = torch.ones(codes.num_rows, 2)
    assert token_sums(weight, codes.sparse(empty)).tolist() == [[0, 0]] * 3
    assert token_sums(weight, codes.sparse(with_one)).tolist() == [[0, 0], [1, 1], [0, 0]]
    assert codes.padded(empty)[2].sum() == 0
