"""Networks with labels, made of those without."""

import pytest
import torch
from _exact import rng
from torch import nn

from wgflow import (
    JKO,
    R1,
    Adam,
    BadInput,
    Critic,
    Dataset,
    ForwardEuler,
    KLDonskerVaradhan,
    Labelled,
    LabelledLatent,
    Pushforward,
    Regression,
    StandardNormal,
    solve,
)
from wgflow.generative.nets import NETWORKS, ConvCritic, LabelledCritic, LabelledGenerator, SmallGenerator, ToyCritic
from wgflow.generative.nets.labelled import WithoutLabels

SIZES = {
    "toy": ({"dim": 3, "noise_dim": 2, "width": 16}, {"dim": 3, "width": 16}, (3,)),
    "conv": ({"channels": 4}, {"channels": 4}, (1, 28, 28)),
    "fine": ({"channels": 4}, {"channels": 4}, (1, 28, 28)),
    "small": ({"channels": 4, "image_shape": (1, 28, 28)}, {"channels": 4, "image_shape": (1, 28, 28)}, (1, 28, 28)),
    "large": (
        {"image_shape": (1, 16, 16), "channels": 32, "multipliers": (1, 2), "noise_dim": 5, "blocks_per_level": 1},
        {"image_shape": (1, 16, 16), "channels": 8},
        (1, 16, 16),
    ),
}
CLASSES = 4


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    if name == "large":
        pytest.importorskip("diffusers")
    torch.manual_seed(0)
    made = NETWORKS[name].labelled(CLASSES)
    return made.generator(**SIZES[name][0]), made.critic(**SIZES[name][1])


def draws(generator: nn.Module, n: int) -> tuple[torch.Tensor, ...]:
    latent = LabelledLatent(StandardNormal(*generator.source_shape), CLASSES).draw(n, rng(1)).x
    noise = () if generator.noise_shape is None else (torch.randn(n, *generator.noise_shape, generator=rng(2)),)
    return latent, *noise


@pytest.mark.parametrize("name", SIZES)
def test_a_generator_keeps_the_label_of_its_latent(name: str) -> None:
    generator, critic = pair(name)
    inputs = draws(generator, 6)
    points = generator(*inputs)
    d = torch.Size(SIZES[name][2]).numel()
    assert points.shape == (6, d + CLASSES)
    assert torch.equal(points[:, d:], inputs[0][:, -CLASSES:])
    assert critic(points).shape == (6,)
    assert WithoutLabels(generator, SIZES[name][2])(*inputs).shape == (6, *SIZES[name][2])
    reference = generator.reference()(inputs[0])
    assert torch.equal(reference[:, d:], inputs[0][:, -CLASSES:])


@pytest.mark.parametrize("name", SIZES)
def test_both_depend_on_the_label_and_the_critic_has_no_slope_in_it(name: str) -> None:
    generator, critic = (net.eval() for net in pair(name))
    first, *noise = draws(generator, 6)
    other = torch.cat([first[:, :-CLASSES], first[:, -CLASSES:].roll(1, 1)], 1)
    made = generator(first, *noise)
    assert not torch.allclose(made[:, :-CLASSES], generator(other, *noise)[:, :-CLASSES])
    points = made.detach().requires_grad_(True)
    v = critic(points)
    assert not torch.equal(v, critic(torch.cat([points[:, :-CLASSES], points[:, -CLASSES:].roll(1, 1)], 1)))
    (slope,) = torch.autograd.grad(v.sum(), points)
    assert bool((slope[:, :-CLASSES] != 0).any())
    assert not bool(slope[:, -CLASSES:].any())


@pytest.mark.parametrize("name", SIZES)
def test_a_critic_may_have_several_outputs(name: str) -> None:
    if name == "large":
        pytest.importorskip("diffusers")
    _, sizes, shape = SIZES[name]
    assert NETWORKS[name].critic(**sizes, outputs=3)(torch.randn(5, *shape)).shape == (5, 3)


def test_the_reference_is_that_of_the_network_without_labels() -> None:
    sizes = {"image_shape": (1, 28, 28), "channels": 4}
    net = LabelledGenerator(SmallGenerator, CLASSES, **sizes)
    latent = draws(net, 3)[0]
    plain = SmallGenerator(**sizes).reference()(latent[:, :-CLASSES])
    assert torch.equal(net.reference()(latent)[:, :-CLASSES].view_as(plain), plain)


@pytest.mark.parametrize("solver", [ForwardEuler, JKO])
def test_a_flow_learns_the_law_of_every_class(solver) -> None:
    """Two classes at -2 and 2, the second three times as often: each is found, with the latent's frequencies."""
    y = torch.tensor([0, 1, 1, 1]).repeat(50)
    data = Labelled(Dataset((4.0 * y[:, None] - 2) + 0.3 * torch.randn(200, 1, generator=rng(0)), labels=y))

    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 1)

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.net(points), points[:, 1:]], 1)

    critic = Critic(lambda: LabelledCritic(ToyCritic, 2, dim=1, width=16), Adam(1e-2), r1=R1(0.1))
    batch = {"batch": 64}
    options = batch | ({"optim": Adam(5e-2), "iters": 40} if solver is JKO else {})
    generator = Pushforward(data.latent(StandardNormal(1)), Affine, regression=Regression(Adam(5e-2), batch=64))
    flow = solve(
        KLDonskerVaradhan(data, 64),
        solver(critic, **options),
        generator,
        step_size=1.0,
        num_steps=4 if solver is JKO else 120,
    )
    points = flow.measure.draw(2000, rng(1)).x
    means = [points[points[:, c + 1] == 1, 0].mean().item() for c in range(2)]
    assert means == pytest.approx([-2, 2], abs=0.4)
    assert points[:, 2].mean().item() == pytest.approx(0.75, abs=0.05)


def test_points_without_labels_are_refused() -> None:
    with pytest.raises(BadInput, match=r"expects \(n, 788\)"):
        LabelledCritic(ConvCritic, CLASSES, channels=4)(torch.zeros(2, 1, 28, 28))
    with pytest.raises(BadInput, match="classes=0"):
        LabelledGenerator(SmallGenerator, 0)
