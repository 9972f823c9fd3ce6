"""Networks that people bring: what cannot be copied, trained or fed is said in one sentence, before or at the first call."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wgflow as wg
from wgflow import BadInput

X = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))


def layers(outputs: int, wrap: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> nn.Sequential:
    return nn.Sequential(wrap(nn.Linear(2, 8)), nn.SiLU(), wrap(nn.Linear(8, outputs)))


def critic_flow(net: Any) -> wg.Solution:
    estimator = wg.Critic(net, r1=wg.R1(0.2), iters=2)
    F = wg.Softplus(wg.StandardNormal(2), batch=16)
    return wg.solve(F, wg.ForwardEuler(estimator), wg.Particles(X), step_size=0.1, num_steps=2)


def generator_flow(net: Any, batch: int = 8) -> wg.Solution:
    F = wg.Softplus(wg.StandardNormal(2), batch=16)
    solver = wg.JKO(wg.Critic(lambda: layers(1)), iters=2, batch=batch)
    return wg.solve(F, solver, wg.Pushforward(wg.StandardNormal(2), net), step_size=0.1, num_steps=2)


BOTH = pytest.mark.parametrize(
    ("flow", "outputs"), [(critic_flow, 1), (generator_flow, 2)], ids=["critic", "generator"]
)


class Through(nn.Module):
    """A network whose output goes through ``after``."""

    def __init__(self, outputs: int, after: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.after = layers(outputs), after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.net(x))


class TwoInputs(nn.Linear):
    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return super().forward(x + z)


def used(net: nn.Module) -> nn.Module:
    net(X)
    return net


def in_inference_mode(outputs: int) -> nn.Module:
    with torch.inference_mode():
        return layers(outputs)


@BOTH
@pytest.mark.parametrize("norm", ["spectral_norm", "weight_norm"])
def test_parametrized_layers_are_copied_and_differentiated_twice(flow: Any, outputs: int, norm: str) -> None:
    wrap = getattr(nn.utils.parametrizations, norm)
    assert flow(used(layers(outputs, wrap))).measure is not None
    assert flow(lambda: layers(outputs, wrap)).measure is not None


@BOTH
def test_layers_that_are_frozen_stay_as_they_are(flow: Any, outputs: int) -> None:
    net = layers(outputs)
    net[0].requires_grad_(False)
    state = flow(net).state
    trained = state.estimator.net if flow is critic_flow else state.successor.net
    assert torch.equal(trained[0].weight, net[0].weight)
    assert not torch.equal(trained[2].weight, net[2].weight)


@BOTH
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: used(layers(n, nn.utils.spectral_norm)), "cannot be copied: .*parametrizations"),
        (lambda n: torch.jit.script(layers(n)), "TorchScript module cannot be copied"),
        (lambda n: nn.Sequential(nn.LazyLinear(8), nn.Linear(8, n)), r"0\.weight has no shape yet"),
        (lambda n: layers(n).to("meta"), r"0\.weight is on the device meta"),
        (in_inference_mode, r"0\.weight was made in inference mode"),
        (lambda n: layers(n).requires_grad_(False), "all parameters are frozen"),
        (lambda n: Through(n, Tensor.detach), "was detached"),
        (lambda n: Through(n, torch.no_grad()(lambda y: y + 0)), "without gradient"),
        (lambda n: layers(n).double(), "cannot take .* torch.float32: .*weights are torch.float64: convert"),
        (lambda n: nn.Linear(3, n), r"cannot take \(\d+, 2\) torch.float32: mat1 and mat2"),
        (lambda n: TwoInputs(2, n), "cannot take .* missing 1 required positional argument"),
    ],
    ids=["norm", "script", "lazy", "meta", "inference", "frozen", "detached", "no_grad", "double", "width", "inputs"],
)
def test_networks_that_cannot_be_trained_are_named(
    flow: Any, outputs: int, make: Callable[[int], nn.Module], message: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about what it deprecates
        net = make(outputs)
        with pytest.raises(BadInput, match=message):
            flow(net)


def test_data_in_float64_need_a_network_in_float64() -> None:
    F, euler = wg.Softplus(wg.StandardNormal(2, dtype=torch.float64), batch=16), wg.ForwardEuler
    start = wg.Particles(X.double())
    with pytest.raises(BadInput, match=r"the critic cannot take \(16, 2\) torch.float64.*net.to\(torch.float64\)"):
        wg.solve(F, euler(wg.Critic(lambda: layers(1))), start, step_size=0.1, num_steps=1)
    wg.solve(F, euler(wg.Critic(lambda: layers(1).double())), start, step_size=0.1, num_steps=1)


def test_batch_normalization_needs_more_than_one_sample() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    with pytest.raises(BadInput, match=r"network of a Pushforward cannot take \(1, 2\).*more than 1 value per channel"):
        generator_flow(net, batch=1)
