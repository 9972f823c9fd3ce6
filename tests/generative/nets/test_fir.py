"""FIR resampling, against PyTorch's depthwise convolution: values, and derivatives of the first three orders."""

import copy

import pytest
import torch
from _exact import rng
from torch import nn
from torch.nn import functional as nnf
from torch.utils._python_dispatch import TorchDispatchMode

from wgflow.generative.nets import LargeCritic
from wgflow.generative.nets._common import FIRResample, _Resampled

CRITICS = {
    "large": lambda: LargeCritic(image_shape=(3, 32, 32), channels=4),
    "large, odd sizes": lambda: LargeCritic(image_shape=(1, 28, 28), channels=4),
}
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5}


class PlainResample(nn.Module):
    def __init__(self, fir: FIRResample) -> None:
        super().__init__()
        self.up = fir.up
        self.register_buffer("kernel", fir.kernel, persistent=False)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        resample = nnf.conv_transpose2d if self.up else nnf.conv2d
        return resample(h, self.kernel.expand(h.shape[1], 1, 4, 4), stride=2, padding=1, groups=h.shape[1])


def plain(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, FIRResample):
                setattr(module, name, PlainResample(child))
    return net


def made(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    net = CRITICS[name]().to(dtype)
    with torch.no_grad():  # away from the almost vanishing start of the large critic
        for p in net.parameters():
            p.copy_(
                torch.randn(p.shape, generator=rng(1)) * (0.5 / max(1, p[0].numel()) ** 0.5 if p.dim() > 1 else 0.1)
            )
    return net


def images(net: nn.Module, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(5, *net.data_shape, generator=rng(seed)).to(dtype)


def r1(net: nn.Module, y: torch.Tensor) -> torch.Tensor:
    y = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(y).sum(), y, create_graph=True)
    return slope.flatten(1).square().sum(1).mean()


def gradients(net: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> list[torch.Tensor]:
    loss = torch.expm1(-net(real)).mean() + net(fake).mean() + r1(net, real)
    return list(torch.autograd.grad(loss, list(net.parameters())))


def apart(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest distance of two tensors relative to their size."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("name", CRITICS)
def test_values_and_gradients_with_r1_are_those_of_pytorch(name: str, dtype: torch.dtype) -> None:
    net = made(name, dtype)
    other, real, fake = plain(net), images(net, 2, dtype), images(net, 3, dtype)
    assert torch.equal(net(real), other(real))
    assert apart(gradients(net, real, fake), gradients(other, real, fake)) < CLOSE[dtype]
    ours, theirs = (torch.autograd.grad(v(y).sum(), y) for v in (net, other) for y in [fake.clone().requires_grad_()])
    assert apart([*ours], [*theirs]) < CLOSE[dtype]


def test_the_gradient_of_a_function_of_r1_that_is_differentiated_again() -> None:
    net = made("large, odd sizes")
    found = []
    for v in (net, plain(net)):
        parameters, y = list(v.parameters()), images(v, 2)
        first = torch.autograd.grad(r1(v, y), parameters, create_graph=True, allow_unused=True)
        size = sum(g.square().sum() for g in first if g is not None)
        found.append([g for g in torch.autograd.grad(size, parameters, allow_unused=True) if g is not None])
    assert len(found[0]) == len(found[1])
    assert apart(*found) < 1e-10


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (7, 6), (5, 9)])
def test_the_derivative_of_the_filter_is_its_transpose(up: bool, size: tuple[int, int]) -> None:
    fir = FIRResample(up=up).double()
    h = torch.randn(2, 3, *size, generator=rng(0), dtype=torch.float64, requires_grad=True)
    assert torch.equal(fir(h), PlainResample(fir)(h))
    assert torch.autograd.gradcheck(fir, (h,))
    assert torch.autograd.gradgradcheck(lambda h: fir(h).square(), (h,))


def test_odd_sizes_of_a_transposed_filter() -> None:
    kernel = FIRResample(up=False).kernel.double()
    h, g = (torch.randn(1, 2, *size, generator=rng(1), dtype=torch.float64) for size in ((7, 10), (3, 5)))
    inner = (_Resampled.apply(h, kernel, False, (0, 0)) * g).sum()
    torch.testing.assert_close(inner, (h * _Resampled.apply(g, kernel, True, (1, 0))).sum())


class Convolutions(TorchDispatchMode):
    """Counts forward convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += func.overloadpacket is torch.ops.aten.convolution
        return func(*args, **(kwargs or {}))


def test_channels_of_the_filter_do_not_go_one_by_one() -> None:
    counts = []
    for channels in (2, 4):
        net = LargeCritic(image_shape=(1, 16, 16), channels=channels)
        for v in (net, plain(net)):
            with Convolutions() as found:
                gradients(v, images(net, 2, torch.float32), images(net, 3, torch.float32))
            counts.append(found.seen)
    ours, theirs, ours_of_twice_the_channels, theirs_of_twice_the_channels = counts
    assert ours == ours_of_twice_the_channels
    assert theirs < theirs_of_twice_the_channels


def test_under_autocast_gradients_come_in_float32() -> None:
    net = made("large", torch.float32)
    other, real = plain(net), images(net, 2, torch.float32)
    found = []
    for v in (net, other):
        parameters = list(v.parameters())
        y = real.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = v(y)
        (slope,) = torch.autograd.grad(value.sum(), y, create_graph=True)
        grads = torch.autograd.grad(slope.square().sum() + value.sum(), parameters)
        assert all(g.dtype == torch.float32 for g in grads)
        found.append(list(grads))
    assert apart(*found) < 0.05  # eight bits


def test_a_batch_may_be_mapped_over() -> None:
    fir = FIRResample(up=False)
    h = torch.randn(3, 2, 6, 6, generator=rng(0))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: fir(one[None])[0]))(h)
    torch.testing.assert_close(torch.einsum("nabcdef,ndef->nabc", jacobian, h), fir(h))
