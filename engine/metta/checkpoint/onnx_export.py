"""Export of a policy to an ONNX file, for inference without PyTorch."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from metta.agent.policy import MettaAgent
from metta.checkpoint.onnx_policy import OnnxPolicy
from metta.config.agent import BACKBONES, MEMORIES
from metta.config.validation.file_paths import user_path
from metta.errors import UsageError
from metta.files import write_together


def export_policy(agent: MettaAgent, path: str | Path, overwrite: bool = True) -> Path:
    """Write one step of the policy as an ONNX model, for any number of agents; returns the path.

    If `overwrite` is false and `path` is a file with another content, a number is appended to the name of the model.

    Inputs: `observations [agents, tokens, 3] uint8`, the tensors of the memory (initially zeros; those of an LSTM are
    `hidden` and `cell [layers, agents, hidden] float32`), `episode_starts [agents] bool` (true where an episode
    starts). Policies that use action masks (`agent.mask_actions`) also have `action_mask [agents, actions] bool`, the
    rows of `MettaGridEnv.action_masks()`; masked logits are the smallest number.
    Outputs, all float32: `logits [agents, actions]`, `values [agents]`, and the memory after the step, each name with
    `next_` before it (`next_hidden` and `next_cell`).
    The metadata entry `metta` is JSON: `action_names`, `flat_actions` ((action id, argument) of each logit),
    `feature_names` and `object_type_names` (by the ids in tokens), `memory` (layers and hidden size),
    `memory_shapes` (shape of each tensor of the memory, by name, without the axis of agents, which is the second), and
    `mask_actions` (whether there is an `action_mask`).

    Raises UsageError if the extra `export` is not installed or ONNX cannot express a custom backbone or memory.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise UsageError("ONNX export needs onnx and onnxscript: pip install 'metta-gridworlds[export]'")
    path, policy = user_path(path), OnnxPolicy(agent).eval()
    memory, inputs, agents = agent.initial_memory(2).tensors, _example_inputs(agent), torch.export.Dim("agents")
    names = ["observations", *memory, "episode_starts", *(["action_mask"] if agent.uses_action_masks else [])]
    dimensions = ({0: agents}, ({1: agents},) * len(memory), {0: agents}, {0: agents})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it logs which optional packages are missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own code, and about inputs that share a dynamic axis
        try:
            program = torch.onnx.export(
                policy,
                inputs,
                input_names=names,
                output_names=["logits", "values", *(f"next_{name}" for name in memory)],
                dynamic_shapes=dimensions[: len(inputs)],
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            config = agent.config
            parts = [(BACKBONES, config.backbone)] + ([(MEMORIES, config.memory)] if agent.memory else [])
            if not (custom := [f'{each.kind} "{name}"' for each, name in parts if each.is_custom(name)]):
                raise
            reason = str(error).partition("\n")[0]
            raise UsageError(f"the {' or the '.join(custom)} cannot be exported to ONNX: {reason}") from error
    assert program is not None  # it is None only if torch writes the file itself
    program.model.metadata_props["metta"] = json.dumps(_metadata(agent))
    contents = {path.suffix: program.model_proto.SerializeToString()}
    return write_together(path.parent, path.stem, contents, overwrite)[path.suffix]


def _example_inputs(agent: MettaAgent) -> tuple[Any, ...]:
    """Arguments of `OnnxPolicy.forward` for two agents."""
    spec, memory = agent.spec, agent.initial_memory(2)
    observations = torch.full((2, spec.num_observation_tokens, 3), 255, dtype=torch.uint8, device=agent.device)
    episode_starts = torch.zeros(2, dtype=torch.bool, device=agent.device)
    action_mask = torch.ones(2, len(spec.flat_actions), dtype=torch.bool, device=agent.device)
    inputs = (observations, tuple(memory.tensors.values()), episode_starts)
    return (*inputs, action_mask) if agent.uses_action_masks else inputs


def _metadata(agent: MettaAgent) -> dict[str, object]:
    """The metadata entry `metta` of the model."""
    memory = agent.initial_memory(1).tensors
    return {
        "action_names": agent.spec.action_names,
        "flat_actions": agent.spec.flat_actions,
        "feature_names": agent.spec.feature_names,
        "object_type_names": agent.spec.object_type_names,
        "memory": [agent.config.lstm_layers if agent.memory else 0, agent.config.hidden_dim],
        "memory_shapes": {name: [len(tensor), *tensor.shape[2:]] for name, tensor in memory.items()},
        "mask_actions": agent.uses_action_masks,
    }
