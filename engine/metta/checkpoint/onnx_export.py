"""Export of a policy to an ONNX file, for inference without PyTorch."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch

from metta.agent.policy import MettaAgent
from metta.checkpoint.onnx_policy import OnnxPolicy
from metta.config.agent import BACKBONES
from metta.config.validation.file_paths import user_path
from metta.errors import UsageError
from metta.files import write_together

INPUTS = ("observations", "hidden", "cell", "episode_starts")
OUTPUTS = ("logits", "values", "next_hidden", "next_cell")


def export_policy(agent: MettaAgent, path: str | Path, overwrite: bool = True) -> Path:
    """Write one step of the policy as an ONNX model, for any number of agents; returns the path.

    If `overwrite` is false and `path` is a file with another content, a number is appended to the name of the model.

    Inputs: `observations [agents, tokens, 3] uint8`, `hidden` and `cell [layers, agents, hidden] float32` (initially
    zeros), `episode_starts [agents] bool` (true where an episode starts).
    Outputs, all float32: `logits [agents, actions]`, `values [agents]`, `next_hidden` and `next_cell`, shaped as
    `hidden` and `cell`.
    The metadata entry `metta` is JSON: `action_names`, `flat_actions` ((action id, argument) of each logit),
    `feature_names` and `object_type_names` (by the ids in tokens), and `memory` (layers and hidden size).

    Raises UsageError if the extra `export` is not installed or ONNX cannot express a custom backbone.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise UsageError("ONNX export needs onnx and onnxscript: pip install 'metta-gridworlds[export]'")
    spec, path = agent.spec, user_path(path)
    policy = OnnxPolicy(agent).eval()
    memory = agent.initial_memory(2)
    observations = torch.full((2, spec.num_observation_tokens, 3), 255, dtype=torch.uint8, device=agent.device)
    episode_starts = torch.zeros(2, dtype=torch.bool, device=agent.device)
    agents = torch.export.Dim("agents")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it logs which optional packages are missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own code, and about inputs that share a dynamic axis
        try:
            program = torch.onnx.export(
                policy,
                (observations, memory.hidden, memory.cell, episode_starts),
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes=({0: agents}, {1: agents}, {1: agents}, {0: agents}),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            if not BACKBONES.is_custom(agent.config.backbone):
                raise
            raise UsageError(
                f'the backbone "{agent.config.backbone}" cannot be exported to ONNX: {str(error).partition(chr(10))[0]}'
            ) from error
    assert program is not None  # it is None only if torch writes the file itself
    program.model.metadata_props["metta"] = json.dumps(
        {
            "action_names": spec.action_names,
            "flat_actions": spec.flat_actions,
            "feature_names": spec.feature_names,
            "object_type_names": spec.object_type_names,
            "memory": [len(memory.hidden), agent.config.hidden_dim],
        }
    )
    contents = {path.suffix: program.model_proto.SerializeToString()}
    return write_together(path.parent, path.stem, contents, overwrite)[path.suffix]
