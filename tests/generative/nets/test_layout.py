"""Networks in ``channels_last`` convert no feature map at a convolution, as a GPU would run them, and keep their values."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wgflow.generative.nets import NETWORKS, _layout
from wgflow.generative.nets._layout import GroupNorm, channels_last
from wgflow.generative.nets.fine import Doubled

IMAGE = (3, 32, 32)
WIDTHS = {"conv": 8, "fine": 8, "small": 8, "large": 32}
# Images as data sets give them, of three channels; and Large's features behind the minibatch statistic, of 4 × 4 pixels.
CRITICS = {"conv": 1, "fine": 1, "small": 2, "large": 2}


class Conversions(TorchDispatchMode):
    """Collects the shapes that convolutions get in the plain layout, and have to convert."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        plain = func.overloadpacket.__name__ == "convolution" and not args[0].is_contiguous(
            memory_format=torch.channels_last
        )
        self.seen += [tuple(args[0].shape[1:])] if plain else []
        return func(*args, **(kwargs or {}))


def inputs(net: nn.Module) -> list[torch.Tensor]:
    shapes = (net.source_shape, net.noise_shape) if hasattr(net, "source_shape") else (net.data_shape,)
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(4, *shape, generator=rng) for shape in shapes if shape]


def conversions(net: nn.Module) -> list[tuple[int, ...]]:
    with Conversions() as found, torch.no_grad():
        net(*inputs(net))
    return found.seen


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of a GPU, where the kernel of group normalization makes the plain layout."""
    monkeypatch.setattr(_layout, "kernel_keeps", lambda h: not channels_last(h))


@pytest.mark.parametrize("name", WIDTHS)
def test_no_convolution_converts_what_a_network_has_computed(name: str, as_on_a_gpu: None) -> None:
    if name == "large":
        pytest.importorskip("diffusers")
    for make, allowed in zip(NETWORKS[name], (0, CRITICS[name]), strict=True):
        net = make(image_shape=IMAGE, channels=WIDTHS[name])
        assert len(conversions(net)) > 2 or name == "conv", "the count sees plain layouts"
        seen = conversions(net.to(memory_format=torch.channels_last))
        assert len(seen) <= allowed, seen
        assert all(c == IMAGE[0] or h == 4 for c, h, _ in seen), seen


@pytest.mark.parametrize("name", WIDTHS)
def test_the_layout_changes_no_value(name: str, as_on_a_gpu: None) -> None:
    if name == "large":
        pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = NETWORKS[name].generator(image_shape=IMAGE, channels=WIDTHS[name])
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    torch.testing.assert_close(other(*inputs(net)), net(*inputs(net)), rtol=1e-4, atol=1e-5)


def test_the_blocks_of_the_u_net_are_those_of_diffusers() -> None:
    resnet = pytest.importorskip("diffusers.models.resnet")
    torch.manual_seed(0)
    net = NETWORKS["large"].generator(image_shape=IMAGE, channels=32)
    ours = net(*inputs(net))
    names = list(net.state_dict())
    for module in net.modules():
        if type(module) is _layout.ResnetBlock2D:
            module.__class__ = resnet.ResnetBlock2D
        elif type(module) is GroupNorm:
            module.__class__ = nn.GroupNorm
    assert list(net.state_dict()) == names
    torch.testing.assert_close(ours, net(*inputs(net)), rtol=0, atol=0)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_group_normalization_has_the_values_and_slopes_of_the_kernel(offset: float, as_on_a_gpu: None) -> None:
    torch.manual_seed(0)
    ours, theirs = GroupNorm(4, 8).double(), nn.GroupNorm(4, 8).double()
    for norm in (ours, theirs):
        norm.weight.data = torch.linspace(0.5, 2, 8).double()
        norm.bias.data = torch.linspace(-1, 1, 8).double()
    x = (torch.randn(3, 8, 5, 7).double() + offset).to(memory_format=torch.channels_last).requires_grad_(True)
    results = [norm(x) for norm in (ours, theirs)]
    assert channels_last(results[0])
    direction = torch.randn_like(results[0])
    slopes = [
        torch.autograd.grad((r * direction).sum(), (x, *n.parameters()))
        for r, n in zip(results, (ours, theirs), strict=True)
    ]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*slopes)


def test_interpolation_is_the_same_in_both_layouts() -> None:
    h = torch.randn(2, 3, 5, 4)
    last = Doubled()(h.to(memory_format=torch.channels_last))
    assert channels_last(last)
    assert torch.equal(last, Doubled()(h))
