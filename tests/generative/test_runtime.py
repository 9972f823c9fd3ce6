"""Where a training runs: devices by name, and the variables that launchers and schedulers leave in the environment."""

from contextlib import nullcontext

import pytest
import torch

from wgflow import BadInput
from wgflow.generative import Runtime, runtime
from wgflow.generative.runtime import _fast, processes

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LAUNCHED = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node", "MASTER_PORT": "29500"}


def environment(monkeypatch: pytest.MonkeyPatch, held: dict[str, str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in held.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "held",
    [
        {},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": " 1 "},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "node", "MASTER_PORT": "29500"},
        {"RANK": "3", "LOCAL_RANK": "1"},
        {"WORLD_SIZE": "1", "RANK": "none"},
        {"MASTER_ADDR": "node", "MASTER_PORT": "no"},
    ],
)
def test_what_a_scheduler_leaves_behind_is_a_single_process(
    held: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, held)
    assert processes() == (0, 0, 1)
    with runtime("cpu") as here:
        assert here == Runtime(torch.device("cpu"))
        assert here.first


def test_a_launcher_says_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, LAUNCHED)
    assert processes() == (3, 1, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"RANK": "", "MASTER_ADDR": ""},
            "WORLD_SIZE=4 is set and RANK, MASTER_ADDR not: start 4 processes with torchrun",
        ),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two': expected a number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2': expected a number"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0'"),
        ({"WORLD_SIZE": "9" * 400}, "expected a number"),
        ({"RANK": "x"}, "RANK='x': expected a number"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK='x': expected a number"),
        ({"RANK": "4"}, "RANK=4 is set and WORLD_SIZE=4: ranks are 0 to 3"),
    ],
)
def test_variables_that_do_not_fit_each_other_are_named(
    changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, LAUNCHED | changes)
    with pytest.raises(BadInput, match=message), runtime("cpu"):
        pass


@pytest.mark.parametrize("port", ["no port", "70000"])
def test_processes_that_do_not_meet_are_told_to(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, LAUNCHED | {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": port})
    with (
        pytest.raises(BadInput, match=r"WORLD_SIZE=4 is set, and the 4 processes did not meet at localhost"),
        runtime("cpu"),
    ):
        pass


@pytest.mark.parametrize("device", ["mps", "xpu", "gpu", "meta", "cuda:x", "cuda:-1", "cpu:1", "", "0"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(BadInput, match="expected auto, cpu, cuda or cuda:N"), runtime(device):
        pass


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu:0", torch.device("cpu")])
def test_devices_that_there_are(device: str | torch.device) -> None:
    with runtime(device) as here:
        assert here.device.type in ("cpu", "cuda")


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="torch sees"), runtime("cuda:99"):
        pass


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_precision_of_products_that_a_user_set_is_restored(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda place: nullcontext())
    cudnn, usual = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision(precision)
    try:
        with _fast(torch.device("cuda")):
            assert torch.backends.cuda.matmul.allow_tf32
            assert cudnn.benchmark
        assert torch.get_float32_matmul_precision() == precision
        assert (cudnn.allow_tf32, cudnn.benchmark) == before
    finally:
        torch.set_float32_matmul_precision(usual)
