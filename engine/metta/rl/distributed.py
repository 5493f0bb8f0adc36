"""The processes that train one policy together, as `torchrun` starts them, and what they tell each other.

Each plays worlds of its own; their gradients are averaged (DistributedDataParallel), over NCCL between GPUs and gloo
between CPUs. Process 0 leads: it alone writes and prints. What is sent holds tensors, numbers and text, never code.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from metta.agent.policy import ActionEvaluation, MettaAgent
from metta.agent.recurrent_memory import Memory
from metta.errors import TrainingError
from metta.job_environment import job_size
from metta.rl.plain_values import plain

FIRST_TIMEOUT: Final = timedelta(minutes=30)
"""How long processes wait for each other until they begin to train, when `distributed.timeout_seconds` takes over."""

_LOST: Final = ("connection", "gloo", "nccl", "broken pipe", "timed out", "socket")
"""Words in what torch says when another process is gone; it has no class of errors for that."""


class LostProcessError(TrainingError):
    """Another process of the job ended, or cannot be reached any more."""


class Processes:
    """This process among those that train together; alone it has nobody to ask, and everything stays as it is."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank = rank
        self.size = size
        self._learner: tuple[MettaAgent, nn.Module] | None = None
        self._group: dist.ProcessGroup | None = None
        """those of the same patience; None: all, as they met"""

    @classmethod
    @contextmanager
    def of_job(cls) -> Iterator[Self]:
        """The processes of the job that `torchrun` started this one for; this one alone where there is no job.

        Inside, they are connected; a group that was there before (`torch.distributed.init_process_group`) is used and
        left as it is.
        """
        if dist.is_initialized():
            yield cls(dist.get_rank(), dist.get_world_size())
        elif job_size() == 1:
            yield cls()
        else:
            with _losses_told():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                dist.init_process_group(backend, timeout=FIRST_TIMEOUT)
            try:
                yield cls(dist.get_rank(), dist.get_world_size())
            finally:
                dist.destroy_process_group()

    def set_timeout(self, seconds: float) -> None:
        """Give up a process that does not answer for so long, from now on; all processes call this together.

        One that died is noticed at once; this is for one that hangs.
        """
        if self.size > 1:
            with _losses_told():
                self._group = dist.new_group(timeout=timedelta(seconds=seconds))
            self._learner = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """The mean over processes of tensors of one shape, without gradients."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        with _losses_told():
            dist.all_reduce(total, group=self._group)
        return total / self.size

    def all_reduce_async(self, values: Tensor) -> Callable[[], Tensor]:
        """What `mean` gives: it is on its way when this returns, and what is returned waits for it."""
        if self.size == 1:
            return lambda: values
        total = values.detach().clone()
        with _losses_told():
            sent = dist.all_reduce(total, group=self._group, async_op=True)

        def received() -> Tensor:
            with _losses_told():
                sent.wait()
            return total / self.size

        return received

    def concatenated(self, values: Tensor) -> Tensor:
        """The values of all processes, of one shape in each, one after the other."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        with _losses_told():
            dist.all_gather(parts, values.contiguous(), group=self._group)
        return torch.cat(parts)

    def broadcast(self, content: Any = None) -> Any:
        """What the leader gives, in every process; the others give nothing."""
        if self.size == 1:
            return content
        message = packed(content) if self.is_rank_zero else torch.zeros(0, dtype=torch.uint8)
        with _losses_told():
            length = torch.tensor(len(message))
            dist.broadcast(length, 0, group=self._group)
            if not self.is_rank_zero:
                message = torch.zeros(int(length), dtype=torch.uint8)
            dist.broadcast(message, 0, group=self._group)
        return content if self.is_rank_zero else unpacked(message)

    def gather_packed(self, content: Any) -> list[Tensor]:
        """What each of several processes gives, `packed`, by rank, in the leader; nothing in the others."""
        own, lengths = self._padded(content)
        received = [torch.zeros_like(own) for _ in lengths] if self.is_rank_zero else None
        with _losses_told():
            dist.gather(own, received, group=self._group)
        return [part[:length] for part, length in zip(received or (), lengths, strict=False)]

    def all_gather(self, content: Any) -> list[Any]:
        """What each process gives, by rank, in every process."""
        if self.size == 1:
            return [content]
        own, lengths = self._padded(content)
        received = [torch.zeros_like(own) for _ in lengths]
        with _losses_told():
            dist.all_gather(received, own, group=self._group)
        return [unpacked(part[:length]) for part, length in zip(received, lengths, strict=True)]

    def evaluate(
        self, agent: MettaAgent, observations: Tensor, action_index: Tensor, memory: Memory, episode_starts: Tensor
    ) -> ActionEvaluation:
        """`agent.evaluate_actions`; the gradients that `backward` then finds are the mean over processes.

        From the first call on the agent has the leader's weights in every process.
        """
        if self.size == 1:
            return agent.evaluate_actions(observations, action_index, memory, episode_starts)
        with _losses_told():
            if self._learner is None or self._learner[0] is not agent:
                self._learner = agent, _averaging(agent, self._group)
            log_probs, entropy, values, logits = self._learner[1](
                observations, action_index, memory.hidden, memory.cell, episode_starts
            )
        return ActionEvaluation(log_probs, entropy, values, logits)

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, in every process at once."""
        with _losses_told():
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated

    def _padded(self, content: Any) -> tuple[Tensor, list[int]]:
        """The content as bytes, as long as the longest of all processes; and how long each process's really is."""
        message = packed(content)
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        with _losses_told():
            dist.all_gather(lengths, torch.tensor(len(message)), group=self._group)
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(message)] = message
        return padded, [int(length) for length in lengths]


ALONE: Final = Processes()


class _Evaluator(nn.Module):
    """`agent.evaluate_actions` in the shape that DistributedDataParallel wraps: a forward of tensors."""

    def __init__(self, agent: MettaAgent):
        super().__init__()
        self.agent = agent

    def forward(
        self, observations: Tensor, action_index: Tensor, hidden: Tensor, cell: Tensor, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        evaluation = self.agent.evaluate_actions(observations, action_index, Memory(hidden, cell), episode_starts)
        return evaluation.log_probs, evaluation.entropy, evaluation.values, evaluation.logits


def _averaging(agent: MettaAgent, group: dist.ProcessGroup | None) -> nn.Module:
    """The agent's evaluation with gradients averaged over processes; its buffers are tables, the same everywhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for it, which older ones lack
        return DistributedDataParallel(_Evaluator(agent), broadcast_buffers=False, process_group=group)


@contextmanager
def _losses_told() -> Iterator[None]:
    """Turn what torch raises when another process is gone into a LostProcessError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if not isinstance(error, dist.DistError) and not any(word in reason.lower() for word in _LOST):
            raise
        raise LostProcessError(f"another process of the job ended or cannot be reached ({reason})") from error


def packed(content: Any) -> Tensor:
    """What is sent of tensors, numbers and text inside dictionaries and lists. `[bytes] uint8`"""
    buffer = io.BytesIO()
    torch.save(plain(content, "a message between processes"), buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def unpacked(message: Tensor) -> Any:
    """What was `packed`, on the CPU."""
    return torch.load(io.BytesIO(message.numpy().tobytes()), map_location="cpu", weights_only=True)
