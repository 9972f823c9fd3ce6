"""Random changes of images before a critic sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wgflow as wg
from wgflow import BadInput
from wgflow.generative import DiffAugment, Recipe, train


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    return path


def test_colors_are_those_of_the_paper():
    x, u = torch.rand(5, 3, 8, 8, generator=rng(0)), torch.rand(5, 7, generator=rng(1))
    light, saturation, contrast = (u[:, i, None, None, None] for i in range(3))
    y = x + (light - 0.5)
    gray = y.mean(1, keepdim=True)
    y = (y - gray) * (saturation * 2) + gray
    middle = y.mean((1, 2, 3), keepdim=True)
    y = (y - middle) * (contrast + 0.5) + middle
    torch.testing.assert_close(DiffAugment("color")(x, u), y)


def test_images_are_moved_by_whole_pixels_up_to_an_eighth_with_zeros_behind():
    x, u = torch.rand(200, 1, 16, 16, generator=rng(0)) + 1, torch.rand(200, 7, generator=rng(1))
    y = DiffAugment("translation")(x, u)
    seen = set()
    for before, after in zip(x[:, 0], y[:, 0], strict=True):
        (down, right) = (int((after == before[8, 8]).nonzero()[0, i]) - 8 for i in range(2))
        rolled = torch.roll(before, (down, right), (0, 1))
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[max(down, 0) : 16 + min(down, 0), max(right, 0) : 16 + min(right, 0)] = True
        assert torch.equal(after, torch.where(inside, rolled, 0.0))
        seen.add((down, right))
    assert {d for d, _ in seen} == {r for _, r in seen} == {-2, -1, 0, 1, 2}
    edges = torch.stack([torch.zeros(7), torch.full((7,), 1 - torch.finfo().eps)])
    assert DiffAugment("translation")(x[:2], edges).shape == (2, 1, 16, 16)


def test_the_square_that_is_cut_out_has_half_the_side_and_any_place():
    u = torch.rand(500, 7, generator=rng(1))
    gone = (DiffAugment("cutout")(torch.ones(500, 1, 8, 8), u) == 0)[:, 0]
    rows, columns = gone.any(2), gone.any(1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :])
    for lines in (rows, columns):
        assert lines.sum(1).max() == 4
        assert lines.sum(1).min() == 2  # a middle at the edge leaves half of it
        assert lines.any(0).all()


def test_it_is_differentiable_in_the_images():
    x = torch.rand(3, 2, 8, 8, generator=rng(0), dtype=torch.float64).requires_grad_()
    u = torch.rand(3, 7, generator=rng(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: DiffAugment()(x, u), x)


@pytest.mark.parametrize("policy", ["colour", "color,", ""])
def test_names_that_are_none(policy):
    with pytest.raises(BadInput, match="is none of color, translation, cutout"):
        DiffAugment(policy)


def test_points_that_are_no_images():
    with pytest.raises(BadInput, match=r"changes images \(n, c, h, w\), got points of shape \(2,\)"):
        DiffAugment()(torch.zeros(3, 2), torch.zeros(3, 7))


class Shift(wg.Augmentation):
    """Moves every point by one number, the same in all coordinates."""

    numbers = 1

    def __call__(self, x, u):
        return x + 10 * u


class Seen(nn.Linear):
    """A critic that keeps what it was asked for."""

    points: list

    def forward(self, x):
        self.points.append(x.detach())
        return super().forward(x)


def test_a_critic_sees_changed_points_of_both_laws_and_new_numbers_in_every_update():
    net = Seen(2, 1)
    net.points = []
    critic = wg.Critic(lambda: net, augment=Shift(), r1=wg.R1(0.1))
    F = wg.KL(wg.Particles(torch.zeros(6, 2)), batch=6)
    es = critic.init(F, rng())
    net.points.clear()
    rho = wg.Particles(torch.full((6, 2), 100.0))
    g = rng(3)
    critic.refine(F, lambda _: rho, es, g)
    critic.refine(F, lambda _: rho, es, g)
    assert len(net.points) == 4, "data, which R1 looks at too, and the model, once an update"
    shifts = [x - (100 if x.min() > 50 else 0) for x in net.points]
    for shift in shifts:
        torch.testing.assert_close(shift[:, 0], shift[:, 1], atol=1e-4, rtol=0)
        assert 0 <= shift.min() <= shift.max() <= 10
        assert len(shift[:, 0].unique()) == 6, "every point has a number of its own"
    assert not torch.equal(shifts[0], shifts[2])
    net.points.clear()
    moving = wg.Particles(rho.x.clone().requires_grad_())
    values = [critic.surrogate(F.freeze(g), moving, es) for _ in range(2)]
    assert values[0] == values[1], "the moving measure descends one function until the next update"


def test_terms_without_a_critic_see_the_points_as_they_are():
    critic = wg.Critic(nn.Linear(2, 1), augment=Shift())
    V = wg.PotentialEnergy(lambda x: x.square().sum(1))
    kl = wg.KL(wg.Particles(torch.zeros(6, 2)), batch=6)
    es = critic.init(kl + V, rng())
    rho = wg.Particles(torch.ones(6, 2))
    critic.refine(kl + V, lambda _: rho, es, rng(1))
    both, one = critic.surrogate(kl + V, rho, es), critic.surrogate(kl, rho, es)
    assert float((both - one).detach()) == pytest.approx(2.0, rel=1e-5)


def test_a_training_with_it_goes_on_bit_for_bit(images, tmp_path, cut):
    pytest.importorskip("safetensors")
    sizes = dict(data=str(images), channels=4, batch=8, num_steps=2, first_iters=3, iters=2, evaluate_every=2)
    recipe = Recipe(augment="color, cutout", sinkhorn_n=4, **sizes)
    train(recipe, tmp_path / "whole", device="cpu", progress=False)
    cut(recipe, tmp_path / "cut", 3)
    train(recipe, tmp_path / "cut", device="cpu", progress=False)
    numbers = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "cut")]
    assert numbers[0] == numbers[1]
    train(recipe.changed(augment=None), tmp_path / "without", device="cpu", progress=False)
    assert (tmp_path / "without" / "metrics.csv").read_bytes() != numbers[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "colour"}, "policy='colour': 'colour' is none of"),
        (
            {"augment": "color", "method": "sliced_w_flow"},
            "augment='color' is not for method sliced_w_flow: it has no critic",
        ),
        ({"augment": "color", "pca": 3}, "augment='color' is for images"),
        ({"augment": "color", "labels": True}, "augment='color' is for images without labels"),
    ],
)
def test_trainings_that_cannot_have_it(options, message, images, tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, 40)
    np.savez(tmp_path / "l.npz", images=np.load(images), labels=labels)
    with pytest.raises(BadInput, match=message):
        train(Recipe(data=str(tmp_path / "l.npz"), **options), tmp_path / "r", device="cpu", progress=False)
