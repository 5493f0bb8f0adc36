"""Memory "lstm": an LSTM over segments whose state is cleared at episode starts (Hochreiter and Schmidhuber 1997)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta.agent import devices
from metta.agent.matmul_backend import cpu_is_fast_in_bfloat16
from metta.agent.memory.network import MemoryNetwork
from metta.agent.memory.state import Memory
from metta.config.agent import MEMORIES, AgentModelConfig


@MEMORIES.register("lstm")
class SegmentLSTM(MemoryNetwork):
    """An LSTM over segments `[horizon, agents, hidden]` whose memory is cleared wherever an episode starts.

    The segment is split at each step at which an episode of any agent starts, and `nn.LSTM` is called once per part.
    This is exact, and as fast as `nn.LSTM` if no episode starts. On a GPU, which would have to be waited for to find
    these steps, the segment is split at all steps unless the caller knows them.
    """

    uses_start_steps = True

    def __init__(self, config: AgentModelConfig):
        super().__init__(config)
        self.lstm = nn.LSTM(config.hidden_dim, config.hidden_dim, config.lstm_layers)
        self.is_autocast = config.dtypes_fp16

    def initial_state(self, agents: int) -> dict[str, Tensor]:
        """`hidden` and `cell`, zeros `[layers, agents, hidden] float32`."""
        return empty_state(self.lstm.num_layers, agents, self.lstm.hidden_size)

    def forward(
        self, inputs: Tensor, memory: Memory, episode_starts: Tensor, start_steps: Sequence[bool] | None = None
    ) -> tuple[Tensor, Memory]:
        """Outputs `[horizon, agents, hidden]` and the memory after the last step."""
        horizon = len(inputs)
        if start_steps is None:
            start_steps = episode_starts.any(1).tolist() if devices.is_host(inputs.device) else [True] * horizon
        part_starts = [t for t in range(horizon) if t == 0 or start_steps[t]]
        outputs = []
        for start, end in zip(part_starts, [*part_starts[1:], horizon], strict=True):
            if start_steps[start]:
                memory = memory.cleared(episode_starts[start])
            output, memory = self._run_lstm(inputs[start:end], memory)
            outputs.append(output)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), memory

    def _run_lstm(self, inputs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Call `nn.LSTM`; under autocast it computes in float32, unless on a CPU that is faster in bfloat16.

        On CUDA, autocast would run it in float16, in which small gradients vanish; cuDNN uses TF32 in float32.
        """
        state, device = (memory.tensors["hidden"], memory.tensors["cell"]), inputs.device.type
        if not self.is_autocast or (device == "cpu" and cpu_is_fast_in_bfloat16()):
            output, (hidden, cell) = self.lstm(inputs, state)
        else:
            with torch.autocast(device, enabled=False):
                output, (hidden, cell) = self.lstm(inputs.float(), state)
        return output, Memory({"hidden": hidden, "cell": cell})

    def step(self, inputs: Tensor, memory: Memory, episode_starts: Tensor) -> tuple[Tensor, Memory]:
        """One step, `inputs [agents, hidden]`, in operators that ONNX export supports for any number of agents."""
        memory = memory.cleared(episode_starts)
        hiddens, cells = [], []
        for weights, hidden, cell in zip(
            self.lstm.all_weights, memory.tensors["hidden"], memory.tensors["cell"], strict=True
        ):
            weight_ih, weight_hh, bias_ih, bias_hh = weights
            gates = functional.linear(inputs, weight_ih, bias_ih) + functional.linear(hidden, weight_hh, bias_hh)
            input_gate, forget_gate, candidate, output_gate = gates.chunk(4, -1)
            cells.append(forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh())
            inputs = output_gate.sigmoid() * cells[-1].tanh()
            hiddens.append(inputs)
        return inputs, Memory({"hidden": torch.stack(hiddens), "cell": torch.stack(cells)})


def empty_state(layers: int, agents: int, hidden: int) -> dict[str, Tensor]:
    """`hidden` and `cell` of an LSTM, zeros; with 0 layers, the state of a network without memory."""
    return {name: torch.zeros(layers, agents, hidden) for name in ("hidden", "cell")}
