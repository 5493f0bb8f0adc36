"""Devices: every spelling of `run.device` and `--device`, and GPUs that do not exist."""

from __future__ import annotations

import pytest
import torch

from metta.config.loading.load import parse_config
from metta.errors import ConfigError, UsageError
from metta.run.device import find_device, gpu_memory


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Two pretended GPUs; the list has the devices that were made current."""
    current: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    return current


@pytest.mark.parametrize(
    ("name", "device"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_a_gpu_by_its_index_becomes_the_current_device(gpus: list[torch.device], name: str, device: str) -> None:
    assert find_device(name) == torch.device(device)
    assert gpus == [torch.device(device)]
    assert parse_config(f'run.device = "{name}"', "a.toml").run.device == name


def test_the_cpu_is_never_a_gpu(gpus: list[torch.device]) -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert gpus == []


def test_a_gpu_that_does_not_exist_is_answered_with_those_that_do(gpus: list[torch.device]) -> None:
    with pytest.raises(UsageError, match='device is "cuda:2", but this machine has only cuda:0, cuda:1'):
        find_device("cuda:2")
    assert gpus == []


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "cuda:1"):
        with pytest.raises(UsageError, match=f'device is "{name}", but torch finds no CUDA device'):
            find_device(name)


def test_an_apple_gpu_where_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_config('run.device = "mps"', "a.toml").run.device == "mps"
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(UsageError, match='device is "mps", but torch finds no Apple GPU'):
        find_device("mps")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert find_device("mps") == torch.device("mps")
    assert gpu_memory(torch.device("mps")) is None
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match='device is "mps", but 2 processes cannot share the GPU'):
        find_device("mps")


def test_processes_of_a_job_take_a_gpu_each(gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**variables, "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert find_device("cuda") == torch.device("cuda:1")
    with pytest.raises(UsageError, match='each of 2 processes needs its own GPU; use "cuda"'):
        find_device("cuda:0")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UsageError, match="no GPU for local rank 1: this machine has 1"):
        find_device("cuda")


@pytest.mark.parametrize(
    "name", ["cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cpu:0", "gpu", "mps:0", "MPS", "", "CUDA", "cuda: 1"]
)
def test_other_names_are_refused_in_files_and_options(name: str) -> None:
    with pytest.raises(ConfigError, match='must be "auto", "cpu", "cuda", a GPU such as "cuda:1", or "mps"'):
        parse_config(f'run.device = "{name}"', "a.toml")
    with pytest.raises(UsageError, match="device must be auto, cpu, cuda, a GPU such as cuda:1, or mps"):
        find_device(name)
