"""Implicit steps of particles of very unequal weights: each has the step that it would have with any other weight."""

import pytest
import torch
from _exact import double, rng

from wgflow import JKO, KL, Adam, Blob, Cosine, Gaussian, KernelDensity, Particles, PotentialEnergy, solve
from wgflow.kernels import RBF
from wgflow.optim import TridiagonalNewton

WEIGHTS = double([1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-20, 1e-30, 0])
HALF_SQUARE = PotentialEnergy(lambda x: x.square().sum(1) / 2)


def weighted(x, w=WEIGHTS):
    return Particles(x, (w / w.sum()).log())


def step(F, solver, rho, h=1.0):
    flow = solve(F, solver, rho, step_size=h, num_steps=1)
    assert flow.status == "done"
    return flow.measure.x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "solver",
    [
        JKO(),
        JKO(optim=TridiagonalNewton()),
        JKO(optim=Adam(0.1, schedule=Cosine(400, 1e-6)), iters=400),
    ],
)
def test_the_step_of_a_particle_is_that_of_any_weight(solver, dtype):
    """The proximal point of x²/2 from x at h = 1 is x/2; a particle of weight 0 has no velocity and stays."""
    x = torch.linspace(1, 4, 8, dtype=dtype)[:, None]
    end = step(HALF_SQUARE, solver, weighted(x, WEIGHTS.to(dtype)))
    torch.testing.assert_close(end[:-1], x[:-1] / 2, rtol=1e-4, atol=0)
    assert torch.equal(end[-1], x[-1])


def test_light_particles_solve_their_own_stiff_equations():
    """y - x + h (y + 12 y³) = 0 in each coordinate, for every weight alone and all at once."""
    F = PotentialEnergy(lambda x: (x.square() / 2 + 3 * x**4).sum(1))
    x, h = torch.randn(8, 3, generator=rng(), dtype=torch.float64) * 2, 0.7
    end = step(F, JKO(), weighted(x), h)
    left = (end - x + h * (end + 12 * end**3))[:-1].abs().max()
    assert left <= 1e-6 * h * (x + 12 * x**3).abs().max()


@pytest.mark.parametrize("spread", [2.0, 10.0, 40.0])
def test_the_equations_of_a_blob_hold_at_every_particle(spread):
    """The residual per mass is what is reported, whatever the logarithms of the weights spread over."""
    F, estimator = KL(Gaussian(double([1, 1]), torch.eye(2).double())), Blob(KernelDensity(RBF(0.7)))
    x, log_w = (torch.randn(30, *e, generator=rng(), dtype=torch.float64) for e in ((2,), ()))
    rho, h = Particles(x, spread * log_w), 0.5
    y = Particles(step(F, JKO(estimator), rho, h), rho.log_w)
    slope = -estimator.velocity(F, rho, None)
    left = y.x - x - h * estimator.velocity(F, y, None)
    assert float(left.abs().max()) <= 1.1e-6 * float(torch.maximum(h * slope.abs().max(), (y.x - x).abs().max()))


def test_equal_weights_given_as_logarithms_change_nothing():
    x = torch.randn(64, 2, generator=rng(), dtype=torch.float64)  # 1/64 is exact
    plain, given = (step(HALF_SQUARE, JKO(), Particles(x, w)) for w in (None, torch.zeros(64, dtype=torch.float64)))
    torch.testing.assert_close(plain, given, rtol=0, atol=1e-15)


def test_newton_in_single_precision_reaches_its_default_and_takes_a_given_tolerance_as_it_is():
    x = torch.linspace(-2, 2, 50)[:, None]
    for dtype, expected in ((torch.float32, 3e-3), (torch.float64, 1e-8)):
        assert TridiagonalNewton().build([x.to(dtype, copy=True).requires_grad_(True)]).asked == expected
    assert TridiagonalNewton(tolerance=1e-5).build([x.clone().requires_grad_(True)]).asked == 1e-5
    assert solve(HALF_SQUARE, JKO(optim=TridiagonalNewton()), Particles(x), step_size=0.1, num_steps=3).status == "done"


def test_light_images_move_too():
    x = torch.randn(8, 1, 2, 2, generator=rng(), dtype=torch.float64)
    end = step(PotentialEnergy(lambda x: x.flatten(1).square().sum(1) / 2), JKO(), weighted(x))
    torch.testing.assert_close(end[:-1], x[:-1] / 2, rtol=1e-5, atol=0)
