"""Distributed training: the process group of a `torchrun` job, and its collective operations.

Each process steps its own worlds. Gradients are averaged by DistributedDataParallel, with NCCL between GPUs and Gloo
between CPUs. Only rank 0 writes files and prints. Messages contain tensors, numbers and text, no pickled code.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from metta.agent.memory.state import Memory
from metta.agent.policy import ActionEvaluation, MettaAgent
from metta.agent.sparse_tokens import Observations
from metta.errors import TrainingError, UsageError
from metta.job_environment import JOB_VARIABLES, job_problem, job_size
from metta.rl.plain_values import plain

CONNECT_TIMEOUT: Final = timedelta(minutes=30)
"""Timeout of each collective operation until `set_timeout` is called with `distributed.timeout_seconds`."""

_CONNECTION_WORDS: Final = ("connection", "gloo", "nccl", "broken pipe", "timed out", "socket")
"""Words in torch's RuntimeError messages about a lost connection, which has no exception class in torch."""


class ProcessGroupError(TrainingError):
    """Another process of the job ended or cannot be reached."""


class Processes:
    """The processes that train policies together, and their collective operations.

    All processes must call an operation together. With a single process, an operation does not communicate.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank = rank
        self.size = size
        self._evaluators: dict[MettaAgent, nn.Module] = {}  # of the policies that are trained
        self._process_group: dist.ProcessGroup | None = None
        """None for torch's default group, which has all processes"""

    @classmethod
    @contextmanager
    def connect(cls) -> Iterator[Self]:
        """Connect the processes of this job while the context is active; outside a job, a single process.

        An existing default process group (`torch.distributed.init_process_group`) is used and not destroyed. Raises
        UsageError if the environment variables of the job have a wrong value.
        """
        if dist.is_initialized():
            yield cls(dist.get_rank(), dist.get_world_size())
            return
        if problem := job_problem():
            raise UsageError(
                f"{problem}; start the processes of a job with torchrun, or unset {', '.join(JOB_VARIABLES)}"
            )
        if job_size() == 1:
            yield cls()
        else:
            with process_group_errors():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                store, rank, size = next(rendezvous("env://", timeout=CONNECT_TIMEOUT))
                # torchrun may keep its store when it restarts a job, with the addresses of processes that have ended
                attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
                store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]  # torch does not list it
                dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=CONNECT_TIMEOUT)
            try:
                yield cls(dist.get_rank(), dist.get_world_size())
            finally:
                dist.destroy_process_group()

    def set_timeout(self, seconds: float) -> None:
        """Limit the seconds that a collective operation waits for the slowest process.

        The timeout is needed only for a process that hangs: a process that ends closes its connections, which the
        others notice immediately.
        """
        if self.size > 1:
            with process_group_errors():
                self._process_group = dist.new_group(timeout=timedelta(seconds=seconds))
            self._evaluators = {}

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """The mean of the processes' `values`, which have one shape; detached."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        with process_group_errors():
            dist.all_reduce(total, group=self._process_group)
        return total / self.size

    def all_reduce_async(self, values: Tensor) -> Callable[[], Tensor]:
        """Start `all_reduce_mean`, and return a function that waits for its result."""
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
        """The processes' `values`, which have one shape, concatenated along the first axis in order of rank."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        with process_group_errors():
            dist.all_gather(parts, values.contiguous(), group=self._process_group)
        return torch.cat(parts)

    def broadcast(self, content: Any = None) -> Any:
        """Rank 0's `content`, returned in every process; the argument of other ranks is ignored."""
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
        """In rank 0, each process's `content` as a message of `serialize`, by rank; in other ranks, an empty list.

        Requires at least two processes.
        """
        padded, lengths = self._padded_message(content)
        received = [torch.zeros_like(padded) for _ in lengths] if self.is_rank_zero else None
        with process_group_errors():
            dist.gather(padded, received, group=self._process_group)
        return [message[:length] for message, length in zip(received or (), lengths, strict=False)]

    def all_gather(self, content: Any) -> list[Any]:
        """Each process's `content`, by rank, returned in every process."""
        if self.size == 1:
            return [content]
        padded, lengths = self._padded_message(content)
        received = [torch.zeros_like(padded) for _ in lengths]
        with process_group_errors():
            dist.all_gather(received, padded, group=self._process_group)
        return [deserialize(message[:length]) for message, length in zip(received, lengths, strict=True)]

    def evaluate_actions(
        self,
        agent: MettaAgent,
        observations: Observations,
        action_index: Tensor,
        memory: Memory,
        episode_starts: Tensor,
        action_masks: Tensor | None = None,
        start_steps: Sequence[bool] | None = None,
        groups: Tensor | None = None,
    ) -> ActionEvaluation:
        """`agent.evaluate_actions` through DistributedDataParallel: `backward` averages the gradients over processes.

        The first call for an agent copies its weights from rank 0 to every process.
        """
        if self.size == 1:
            return agent.evaluate_actions(
                observations, action_index, memory, episode_starts, action_masks, start_steps, groups
            )
        with process_group_errors():
            if agent not in self._evaluators:
                self._evaluators[agent] = _distributed_evaluator(agent, self._process_group)
            log_probs, entropy, values, logits = self._evaluators[agent](
                observations, action_index, dict(memory.tensors), episode_starts, action_masks, start_steps, groups
            )
        return ActionEvaluation(log_probs, entropy, values, logits)

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, which averages the gradients over processes."""
        with process_group_errors():
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated

    def _padded_message(self, content: Any) -> tuple[Tensor, list[int]]:
        """`content` as a message, zero-padded to the longest of all processes, and each process's length in bytes."""
        message = serialize(content)
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        with process_group_errors():
            dist.all_gather(lengths, torch.tensor(len(message)), group=self._process_group)
        padded = torch.zeros(max(int(length) for length in lengths), dtype=torch.uint8)
        padded[: len(message)] = message
        return padded, [int(length) for length in lengths]


SINGLE_PROCESS: Final = Processes()
"""Training in one process, without `torchrun`."""


class _Evaluator(nn.Module):
    """`agent.evaluate_actions` as a module of tensors, for DistributedDataParallel."""

    def __init__(self, agent: MettaAgent):
        super().__init__()
        self.agent = agent

    def forward(
        self,
        observations: Observations,
        action_index: Tensor,
        memory: dict[str, Tensor],
        episode_starts: Tensor,
        action_masks: Tensor | None,
        start_steps: Sequence[bool] | None,
        groups: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        evaluation = self.agent.evaluate_actions(
            observations, action_index, Memory(memory), episode_starts, action_masks, start_steps, groups
        )
        return evaluation.log_probs, evaluation.entropy, evaluation.values, evaluation.logits


def _distributed_evaluator(agent: MettaAgent, process_group: dist.ProcessGroup | None) -> nn.Module:
    """`_Evaluator` in DistributedDataParallel. Buffers need no broadcast: every process computes the same ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch renamed an argument, which older torch lacks
        return DistributedDataParallel(_Evaluator(agent), broadcast_buffers=False, process_group=process_group)


@contextmanager
def process_group_errors() -> Iterator[None]:
    """Raise ProcessGroupError instead of torch's errors about a lost connection; pass on all other errors."""
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
    """Nested dictionaries and lists of tensors, numbers and text as a message, `[bytes] uint8`."""
    buffer = io.BytesIO()
    torch.save(plain(content, "a message between processes"), buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def deserialize(message: Tensor) -> Any:
    """The content of a message made by `serialize`, with tensors on the CPU."""
    return torch.load(io.BytesIO(message.numpy().tobytes()), map_location="cpu", weights_only=True)
