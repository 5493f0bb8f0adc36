"""Trainer process with plain_ppo.py for bench_train.py: `trainer_plain.py FILE.toml SEED KIND [KEY=VALUE ...]`.

KIND `as-installed` changes nothing; `tuned` has metta's allocator settings and convolutions as matrix products;
`codes` is tuned and uses the input channels of metta's network, so that both networks compute the same function.
"""

from __future__ import annotations

import sys

from torch import Tensor, nn

from metta.agent.tokens import TokenCodes
from metta.allocator import keep_freed_memory
from metta.config.batch_plan import plan_batch
from metta.config.loading.load import load_config
from metta.world.env import MettaGridEnv
from tests.benchmarks.dense_network import DenseEncoder, FeatureBox, matrix_convolution, plain_convolution
from tests.benchmarks.plain_ppo import PlainTrainer
from tests.benchmarks.trainer_protocol import Progress, run_trainer, serve


class CodesBox(nn.Module):
    """The observation window with the channels of metta's network."""

    def __init__(self, codes: TokenCodes, rows: int, cols: int):
        super().__init__()
        self.codes, self.rows, self.cols = codes, rows, cols
        self.num_channels = codes.num_channels

    def forward(self, observations: Tensor) -> Tensor:
        cell, channel, magnitude = self.codes.padded(observations)
        box = magnitude.new_zeros(len(observations), self.num_channels * self.codes.num_cells)
        box.scatter_add_(1, channel.long() * self.codes.num_cells + cell, magnitude)
        return box.view(-1, self.num_channels, self.rows, self.cols)


def main() -> None:
    source, seed, kind, *settings = sys.argv[1:]
    config = load_config(source, settings)
    convolution = plain_convolution
    if kind != "as-installed":
        keep_freed_memory()
        convolution = matrix_convolution

    def encoder(env: MettaGridEnv) -> nn.Module:
        spec = env.spec
        if kind == "codes":
            codes = TokenCodes(spec, config.agent)
            return DenseEncoder(CodesBox(codes, spec.observation_height, spec.observation_width), convolution)
        return DenseEncoder(FeatureBox(spec), convolution)

    plan = plan_batch(config.experience, config.env.game.num_agents)
    trainer = PlainTrainer(config, plan, encoder, int(seed))

    def train_batch() -> Progress:
        rewards = trainer.train_batch()
        return Progress(trainer.batch_size, dict(trainer.seconds), rewards)

    serve(train_batch)


if __name__ == "__main__":
    run_trainer(main)
