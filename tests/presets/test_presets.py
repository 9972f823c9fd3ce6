"""Particle presets: every one runs, and says what its paper's formula says."""

import inspect

import pytest
import torch
from _exact import double, rng
from torch import nn

from wgflow import RBF, BadInput, Dataset, Gaussian, Particles, PotentialEnergy, StandardNormal, presets

TARGET = Gaussian(double([1.0, -1.0]), double([[1.0, 0.3], [0.3, 0.5]]))
X = Particles(torch.randn(30, 2, generator=rng(7), dtype=torch.float64) * 2)
OPTIONS = {
    "mmd_flow": {"kernel": RBF(2.0), "noise": 0.3, "num_steps": 100, "step_size": 1.0},
    "sinkhorn_flow": {"blur": 0.5, "batch": 100, "num_steps": 20},
    "brwp": {"time": 0.1, "num_steps": 60},
    "arwp": {"time": 0.1, "friction": 2.0, "num_steps": 60},
    "prwp": {"time": 0.1, "metric": TARGET.cov, "num_steps": 60},
    "brwp_splitting": {"penalty": PotentialEnergy(lambda x: 0 * x.sum(1), lambda x, h: x), "num_steps": 60},
    "proximal_gradient": {"num_steps": 10},
    "mala": {"num_steps": 60},
    "ula": {"num_steps": 60, "step_size": 0.05},
    "birth_death_langevin": {"num_steps": 60, "step_size": 0.05},
    "accelerated": {"num_steps": 60},
    "reverse_diffusion": {"horizon": 20.0},
    "probability_flow": {"horizon": 20.0},
    "sliced_w_flow": {"num_steps": 30},
}
PARTICLES = [n for n in presets.PRESETS if "initial" in inspect.signature(presets.PRESETS[n]).parameters]


def distance(rho):
    """Distance of the mean to the target's."""
    return float((rho.w[:, None] * rho.x).sum(0).sub(TARGET.mean).norm())


@pytest.mark.parametrize("name", [n for n in PARTICLES if n != "ksd_descent"])
def test_it_goes_to_the_target(name):
    """The mean of 30 particles comes within a third of its first distance, 1.9: a standard error is 0.2."""
    flow = presets.PRESETS[name](TARGET, X, **{"num_steps": 60} | OPTIONS.get(name, {}))
    assert distance(flow.solve().measure) < distance(X) / 3


def test_svgd_is_the_formula_of_its_paper():
    """x_i += h/n Σ_j [k(x_j, x_i) ∇log π(x_j) + ∇_{x_j} k(x_j, x_i)], by loops."""
    target, h, s = StandardNormal(2, dtype=torch.float64), 0.3, 1.3
    moved = presets.svgd(target, X, kernel=RBF(s), step_size=h, num_steps=1).solve().measure.x
    expected = X.x.clone()
    for i, x in enumerate(X.x):
        for y in X.x:
            k = torch.exp(-(x - y).square().sum() / (2 * s**2))
            expected[i] += h / len(X) * (k * -y - k * (y - x) / s**2)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_ksd_descent_is_one_minimisation_and_goes_to_the_target():
    flow = presets.ksd_descent(TARGET, X, kernel=RBF(1.0))
    end = flow.solve()
    assert len(end.history) == 1
    assert float(flow.functional.value(end.measure)) < 0.02 * float(flow.functional.value(X))
    assert end.history[0]["jko/residual"] < 1e-3
    assert distance(end.measure) < distance(X) / 3


def test_a_chain_of_maps_moves_the_mean_to_that_of_the_data() -> None:
    data = Dataset(TARGET.draw(2000, rng(0)).x.float())
    critic = lambda: nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 1))  # noqa: E731
    settings = {"lr": (5e-3, 5e-3), "step_size": 1.0, "num_steps": 2, "iters": 60, "width": 16, "batch": 128}
    rho = presets.classic_jko(data, StandardNormal(2), critic, **settings).solve(seed=0).measure
    assert len(rho.maps) == 2
    x = rho.inference().draw(4000, rng(1)).x
    assert float((x.mean(0) - TARGET.mean).norm()) < float(TARGET.mean.norm()) / 3


def test_options_of_a_parent_are_in_the_signature_and_are_checked() -> None:
    named = inspect.signature(presets.f_gan).parameters
    assert {"iters", "lr", "r1_every", "ema"} <= named.keys()
    assert not {"tau", "num_steps", "first_iters", "options"} & named.keys()
    assert presets.option_texts(presets.f_gan)["iters"] == "Updates of the whole run."
    with pytest.raises(BadInput, match="r1_every=0: expected a whole number from 1 up"):
        presets.f_gan(TARGET, TARGET, nn.Identity(), nn.Identity(), r1_every=0)
    with pytest.raises(TypeError, match="divergance"):
        presets.f_gan(TARGET, TARGET, nn.Identity(), nn.Identity(), divergance="kl")
