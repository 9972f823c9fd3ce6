"""Under bf16 the last layers stay in float32: images are not rounded to eight bits, nor are the values of critics."""

import pytest
import torch
from _exact import rng
from torch import nn

from wgflow.generative import Runtime
from wgflow.generative.nets import NETWORKS
from wgflow.storage.describe import describe

SIZES = {
    "toy": ({"dim": 3, "noise_dim": 2, "width": 16}, {"dim": 3, "width": 16}),
    "conv": ({"channels": 4}, {"channels": 4}),
    "fine": ({"channels": 4}, {"channels": 4}),
    "small": ({"channels": 4, "image_shape": (1, 28, 28)}, {"channels": 4, "image_shape": (1, 28, 28)}),
    "large": (
        {"image_shape": (1, 16, 16), "channels": 32, "multipliers": (1, 2), "noise_dim": 5, "blocks_per_level": 1},
        {"image_shape": (1, 16, 16), "channels": 8},
    ),
    "large, colors": ({"image_shape": (3, 16, 16), "channels": 32, "multipliers": (1, 2), "blocks_per_level": 1}, {}),
}
HALF = Runtime(torch.device("cpu"), "bf16")


def made(name: str) -> tuple[nn.Module, list[torch.Tensor], nn.Module]:
    if name.startswith("large"):
        pytest.importorskip("diffusers")
    torch.manual_seed(0)
    pair = NETWORKS[name.partition(",")[0]]
    sizes, others = SIZES[name]
    generator, critic = pair.generator(**sizes), pair.critic(**(others or {"image_shape": (3, 16, 16), "channels": 8}))
    shapes = [generator.source_shape, *([] if generator.noise_shape is None else [generator.noise_shape])]
    return generator, [torch.randn(8, *shape, generator=rng(1)) for shape in shapes], critic


def rounded(values: torch.Tensor) -> float:
    """Fraction of the entries that are numbers of bfloat16."""
    return float((values == values.bfloat16().float()).float().mean())


def test_every_network_is_among_them() -> None:
    assert {name.partition(",")[0] for name in SIZES} == set(NETWORKS)


@pytest.mark.parametrize("name", SIZES)
def test_images_and_values_under_bf16_are_not_rounded(name: str) -> None:
    generator, inputs, critic = made(name)
    images = HALF.network(generator)(*inputs)
    values = HALF.network(critic)(images)
    assert images.dtype == values.dtype == torch.float32
    assert rounded(images) < 0.1
    assert rounded(values) < 0.5  # there are eight of them
    torch.testing.assert_close(images, generator(*inputs), rtol=0.1, atol=0.1)
    assert not torch.equal(images, generator(*inputs))  # the layers before do run in half precision


@pytest.mark.parametrize("name", SIZES)
def test_gradients_under_bf16_are_float32_and_reach_every_weight(name: str) -> None:
    generator, inputs, critic = made(name)
    HALF.network(critic)(HALF.network(generator)(*inputs)).sum().backward()
    for net in (generator, critic):
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_names_of_weights_and_descriptions_are_those_of_ordinary_layers(name: str) -> None:
    generator, _, critic = made(name)
    for net in (generator, critic):
        before = describe(net)
        for module in net.modules():
            if type(module).__module__ == "wgflow.generative.nets._precise":
                module.__class__ = getattr(nn, type(module).__name__)
        assert describe(net) == before
