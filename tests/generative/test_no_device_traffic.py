"""Updates of every pair of networks on meta tensors: they have no values and stay apart from those of the host, as on a GPU.

So reading a number, copying between host and device, and mixing their tensors all show on a machine without a GPU.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wgflow import SGD
from wgflow.core import rng
from wgflow.generative import ImageData, Recipe, Runtime

META = torch.device("meta")
PAIRS = {
    "conv": {"channels": 4},
    "small": {"channels": 4},
    "large": {"channels": 32},
}
READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "lift_fresh")


class DeviceRng(torch.Generator):
    """A generator of the host that says to be one of the device: its draws are made there."""

    device = META


class Traffic(TorchDispatchMode):
    """Collects what would make a device and its host wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        made = func(*args, **kwargs)
        places = {t.device.type for t in (*args, made) if isinstance(t, torch.Tensor)}
        if name in READS or (name in ("_to_copy", "copy_") and len(places) > 1):
            self.seen.add(f"{name} {sorted(places)}")
        return made


def updates(name: str, after=lambda info: None, **changes) -> set[str]:
    recipe = Recipe(method="s_jko", network=name, batch=4, instance_noise=True, **PAIRS[name] | changes)
    flow = recipe.flow(
        ImageData(torch.zeros(16, 1, 16, 16, dtype=torch.uint8), flip=True), Runtime(torch.device("cpu"))
    )
    critic = replace(flow.solver.estimator, optim=SGD(1e-3))  # there is no kernel of Adam for such tensors
    flow = replace(flow, solver=replace(flow.solver, optim=SGD(1e-3), estimator=critic))
    state = flow.solver.init(flow.functional, flow.initial, torch.Generator())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "generator", lambda seed, device: DeviceRng())  # PyTorch has none there
        flow, state = flow.to(META), state.to(META)
    with Traffic() as traffic:
        for _ in range(3):
            state, info = flow.solver.update(flow.functional, state, flow.step_size)
            after(info)
    assert {p.device for p in state.successor.parameters()} == {META}
    assert "critic/r1" in info
    assert all(isinstance(v, torch.Tensor) and v.dim() == 0 for v in info.values())
    return traffic.seen


@pytest.mark.parametrize("name", PAIRS)
def test_an_update_exchanges_nothing_with_the_host(name: str) -> None:
    if name == "large":
        pytest.importorskip("diffusers")
    assert updates(name) == set()


def test_the_check_notices_a_read_a_copy_and_mixed_devices() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        updates("conv", lambda info: info["critic/r1"].item())
    with pytest.raises(RuntimeError, match="meta"):
        updates("conv", lambda info: info["critic/r1"] + torch.zeros(3))
    assert updates("conv", lambda info: torch.zeros(3).to(META)) == {"_to_copy ['cpu', 'meta']"}
