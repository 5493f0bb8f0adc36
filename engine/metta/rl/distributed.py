"""Distributed training: the processes of a `torchrun` job, and the data they exchange.

Each process steps its own worlds; gradients are averaged (DistributedDataParallel), over NCCL between GPUs and gloo
between CPUs. Rank 0 alone writes and prints. Messages hold tensors, numbers and text, never code.
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

CONNECT_TIMEOUT: Final = timedelta(minutes=30)
"""Limit of every exchange until training starts; from then on `distributed.timeout_seconds`."""

_CONNECTION_WORDS: Final = ("connection", "gloo", "nccl", "broken pipe", "timed out", "socket")
"""Words in torch's messages about a lost connection, for which it has no exception class."""


class ProcessGroupError(TrainingError):
    """Another process of the job ended, or cannot be reached."""


class Processes:
    """The processes that train one policy together. With one process, every exchange returns its input."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank = rank
        self.size = size
        self._evaluator: tuple[MettaAgent, nn.Module] | None = None
        self._process_group: dist.ProcessGroup | None = None
        """None: torch's default group, of all processes"""

    @classmethod
    @contextmanager
    def connect(cls) -> Iterator[Self]:
        """Connect the processes of this job until the context ends; without a job, a single process.

        A default process group that exists already (`torch.distributed.init_process_group`) is used and not destroyed.
        """
        if dist.is_initialized():
            yield cls(dist.get_rank(), dist.get_world_size())
        elif job_size() == 1:
            yield cls()
        else:
            with process_group_errors():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                dist.init_process_group(backend, timeout=CONNECT_TIMEOUT)
            try:
                yield cls(dist.get_rank(), dist.get_world_size())
            finally:
                dist.destroy_process_group()

    def set_timeout(self, seconds: float) -> None:
        """Limit how long an exchange waits for the slowest process. All processes must call this together.

        The limit detects a process that hangs; one that died closes its connections, which is detected at once.
        """
        if self.size > 1:
            with process_group_errors():
                self._process_group = dist.new_group(timeout=timedelta(seconds=seconds))
            self._evaluator = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """The mean over processes of tensors of one shape, without gradients."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        with process_group_errors():
            dist.all_reduce(total, group=self._process_group)
        return total / self.size

    def all_reduce_async(self, values: Tensor) -> Callable[[], Tensor]:
        """Start `all_reduce_mean`; the returned function waits for its result."""
        if self.size == 1:
            return lambda: values
        total = values.detach().clone()
        with process_group_errors():
            work = dist.all_reduce(total, group=self._process_group, async_op=True)

        def wait() -> Tensor:
            with process_group_errors():
                work.wait()
            return total / self.size

        return wait

    def all_gather_tensor(self, values: Tensor) -> Tensor:
        """The values of all processes, of one shape, concatenated along the first axis in the order of ranks."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        with process_group_errors():
            dist.all_gather(parts, values.contiguous(), group=self._process_group)
        return torch.cat(parts)

    def broadcast(self, content: Any = None) -> Any:
        """The content that rank 0 passes, in every process; the other ranks pass nothing."""
        if self.size == 1:
            return content
        message = serialize(content) if self.is_rank_zero else torch.zeros(0, dtype=torch.uint8)
        with process_group_errors():
            length = torch.tensor(len(message))
            dist.broadcast(length, 0, group=self._process_group)
            if not self.is_rank_zero:
                message = torch.zeros(int(length), dtype=torch.uint8)
            dist.broadcast(message, 0, group=self._process_group)
        return content if self.is_rank_zero else deserialize(message)

    def gather_serialized(self, content: Any) -> list[Tensor]:
        """The content of each of several processes, serialized, by rank; empty in all ranks but 0."""
        padded, lengths = self._padded_message(content)
        received = [torch.zeros_like(padded) for _ in lengths] if self.is_rank_zero else None
        with process_group_errors():
            dist.gather(padded, received, group=self._process_group)
        return [message[:length] for message, length in zip(received or (), lengths, strict=False)]

    def all_gather(self, content: Any) -> list[Any]:
        """The content of each process, by rank, in every process."""
        if self.size == 1:
            return [content]
        padded, lengths = self._padded_message(content)
        received = [torch.zeros_like(padded) for _ in lengths]
        with process_group_errors():
            dist.all_gather(received, padded, group=self._process_group)
        return [deserialize(message[:length]) for message, length in zip(received, lengths, strict=True)]

    def evaluate_actions(
        self, agent: MettaAgent, observations: Tensor, action_index: Tensor, memory: Memory, episode_starts: Tensor
    ) -> ActionEvaluation:
        """`agent.evaluate_actions`, such that `backward` averages the gradients over processes.

        The first call copies the agent's weights from rank 0 to every process.
        """
        if self.size == 1:
            return agent.evaluate_actions(observations, action_index, memory, episode_starts)
        with process_group_errors():
            if self._evaluator is None or self._evaluator[0] is not agent:
                self._evaluator = agent, _distributed_evaluator(agent, self._process_group)
            log_probs, entropy, values, logits = self._evaluator[1](
                observations, action_index, memory.hidden, memory.cell, episode_starts
            )
        return ActionEvaluation(log_probs, entropy, values, logits)

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`; all processes must call this together."""
        with process_group_errors():
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated

    def _padded_message(self, content: Any) -> tuple[Tensor, list[int]]:
        """The content serialized and zero-padded to the longest message of all processes; the length of each."""
        message = serialize(content)
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        with process_group_errors():
            dist.all_gather(lengths, torch.tensor(len(message)), group=self._process_group)
        padded = torch.zeros(max(int(length) for length in lengths), dtype=torch.uint8)
        padded[: len(message)] = message
        return padded, [int(length) for length in lengths]


SINGLE_PROCESS: Final = Processes()
"""Training without a job."""


class _Evaluator(nn.Module):
    """`agent.evaluate_actions` as a forward of tensors, the form that DistributedDataParallel wraps."""

    def __init__(self, agent: MettaAgent):
        super().__init__()
        self.agent = agent

    def forward(
        self, observations: Tensor, action_index: Tensor, hidden: Tensor, cell: Tensor, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        evaluation = self.agent.evaluate_actions(observations, action_index, Memory(hidden, cell), episode_starts)
        return evaluation.log_probs, evaluation.entropy, evaluation.values, evaluation.logits


def _distributed_evaluator(agent: MettaAgent, process_group: dist.ProcessGroup | None) -> nn.Module:
    """The agent's evaluation with gradients averaged over processes. Its buffers are constants, equal in each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for it, which older ones lack
        return DistributedDataParallel(_Evaluator(agent), broadcast_buffers=False, process_group=process_group)


@contextmanager
def process_group_errors() -> Iterator[None]:
    """Raise ProcessGroupError for torch's errors about a lost connection; other errors pass."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if not isinstance(error, dist.DistError) and not any(word in reason.lower() for word in _CONNECTION_WORDS):
            raise
        raise ProcessGroupError(f"another process of the job ended or cannot be reached ({reason})") from error


def serialize(content: Any) -> Tensor:
    """Tensors, numbers and text inside dictionaries and lists, as a message. `[bytes] uint8`"""
    buffer = io.BytesIO()
    torch.save(plain(content, "a message between processes"), buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def deserialize(message: Tensor) -> Any:
    """The content of a message that `serialize` made, on the CPU."""
    return torch.load(io.BytesIO(message.numpy().tobytes()), map_location="cpu", weights_only=True)
