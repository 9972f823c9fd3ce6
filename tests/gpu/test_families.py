"""Every family of flows once on the device under test, in float32, against the same flow on a CPU in float64.

``python -m pytest -m gpu --device cuda`` runs them on a GPU; on a CPU they compare the two precisions.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wgflow as wg
from wgflow.generative import Recipe, Runtime
from wgflow.generative.data import ImageData
from wgflow.maps import Affine, ICNNGradient
from wgflow.optim import TridiagonalNewton

pytestmark = pytest.mark.gpu

Place = dict[str, Any]
Flow = tuple[wg.Functional, wg.Solver, wg.MovingMeasure]
REFERENCE: Place = {"device": torch.device("cpu"), "dtype": torch.float64}


def points(n: int, seed: int, d: int = 2, shift: float = 0.0, **place: Any) -> Tensor:
    """The same points everywhere: drawn on the CPU in float32."""
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift).to(**place)


def cloud(d: int = 2, **place: Any) -> wg.Particles:
    return wg.Particles(points(40, 1, d, **place))


def weighted(**place: Any) -> wg.Particles:
    return wg.Particles(points(30, 2, shift=0.7, **place), points(30, 3, 1, **place)[:, 0])


def gaussian(**place: Any) -> wg.Gaussian:
    return wg.Gaussian(torch.tensor([0.5, -0.5], **place), torch.tensor([[1.0, 0.3], [0.3, 0.8]], **place))


def by_autograd(make: Callable[[wg.Particles], wg.Functional]) -> Callable[[Place], Flow]:
    return lambda place: (make(weighted(**place)), wg.ForwardEuler(), cloud(**place))


def by(solver: Callable[[], wg.Solver]) -> Callable[[Place], Flow]:
    return lambda place: (wg.KL(gaussian(**place)), solver(), cloud(**place))


DIRECTIONS = nn.functional.normalize(points(20, 4), dim=1)
DETERMINISTIC: dict[str, Callable[[Place], Flow]] = {
    "MMD": by_autograd(lambda y: wg.SquaredMMD(y, wg.RBF(1.0))),
    "MMD, inverse multiquadric": by_autograd(lambda y: wg.SquaredMMD(y, wg.InverseMultiquadric(1.0))),
    "MMD, random features": by_autograd(lambda y: wg.SquaredMMD(y, wg.RandomFourierFeatures(wg.RBF(1.0), 100))),
    "MMD, random features of a sum": by_autograd(
        lambda y: wg.SquaredMMD(y, wg.RandomFourierFeatures(wg.RBF(1.0) + wg.RBF(y.x.new_tensor(2.0)), 100))
    ),
    "MMD, Nyström": by_autograd(lambda y: wg.SquaredMMD(y, wg.Nystrom(wg.RBF(1.0), y.x[:15]))),
    "energy distance": by_autograd(wg.EnergyDistance),
    "energy distance, 16 coordinates": lambda place: (
        wg.EnergyDistance(wg.Particles(points(30, 5, 16, **place))),
        wg.ForwardEuler(),
        cloud(16, **place),
    ),
    "energy distance on a line": lambda place: (
        wg.EnergyDistance(wg.Particles(points(30, 5, 1, **place))),
        wg.ForwardEuler(),
        cloud(1, **place),
    ),
    "sliced": by_autograd(lambda y: wg.SlicedWasserstein(y, directions=DIRECTIONS.to(y.x))),
    "Sinkhorn": by_autograd(lambda y: wg.SinkhornDivergence(y, blur=0.5, tol=1e-4)),
    "KALE": by_autograd(lambda y: wg.KALE(y, wg.RBF(1.0), 0.5)),
    "W2": by_autograd(wg.SquaredW2),
    "W1": by_autograd(wg.W1),
    "Stein discrepancy": lambda place: (
        wg.SquaredKSD(gaussian(**place), wg.RBF(1.0)),
        wg.ForwardEuler(),
        cloud(**place),
    ),
    "interaction": lambda place: (
        wg.InteractionEnergy(wg.PowerLaw(4) + (-1.0) * wg.PowerLaw(2)),
        wg.RK4(),
        cloud(**place),
    ),
    "own interaction": lambda place: (
        wg.InteractionEnergy(lambda z: z.square().sum(-1) / 2),
        wg.Heun(),
        cloud(**place),
    ),
    "SVGD": by(lambda: wg.ForwardEuler(wg.Stein(wg.RBF(1.0)))),
    "SVGD, median rule": by(lambda: wg.ForwardEuler(wg.Stein(wg.MedianRBF()))),
    "blob": by(lambda: wg.Heun(wg.Blob(wg.KernelDensity(wg.RBF(0.7))))),
    "kernel score": by(lambda: wg.ForwardEuler(wg.KDEScore(wg.RBF(0.7)))),
    "momentum": by(lambda: wg.Accelerated(wg.Blob(wg.KernelDensity(wg.RBF(0.7))))),
    "dopri5": by(lambda: wg.ODE(wg.Blob(wg.KernelDensity(wg.RBF(0.7))), method="dopri5", rtol=1e-4, atol=1e-4)),
    "reaction": by(lambda: wg.WithReaction(wg.ForwardEuler(wg.Blob(wg.KernelDensity(wg.RBF(0.7)))), wg.Reweight())),
    "JKO of particles": by(lambda: wg.JKO(wg.Blob(wg.KernelDensity(wg.RBF(0.7))), wg.LBFGS(tolerance=1e-3), iters=1)),
    "JKO of quantiles": lambda place: (
        wg.KL(wg.Gaussian(torch.tensor([0.5], **place), torch.tensor([[1.0]], **place))),
        wg.JKO(wg.Blob(wg.Spacings()), TridiagonalNewton(tolerance=1e-3), iters=1),
        cloud(1, **place),
    ),
    "closed-form implicit steps": lambda place: (
        0.5 * wg.SquaredW2(wg.Particles(points(40, 6, **place))),
        wg.Proximal(),
        cloud(**place),
    ),
    "grid": lambda place: (
        wg.KL(gaussian(**place)),
        wg.EntropicJKO(blur=0.5, tolerance=1e-3),
        wg.Grid.of(wg.StandardNormal(2, **place), [-4.0, -4.0], [4.0, 4.0], [16, 16], **place),
    ),
}


def end(make: Callable[[Place], Flow], place: Place) -> Tensor:
    solution = wg.solve(*make(place), step_size=0.1, num_steps=3)
    assert solution.status == "done"
    measure = solution.measure
    moved = measure.mass if isinstance(measure, wg.Grid) else torch.cat([measure.x, measure.w[:, None]], 1)
    assert (moved.device.type, moved.dtype) == (place["device"].type, place["dtype"])
    return moved.cpu().double()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_flow_is_that_of_float64_on_a_cpu(name: str, device: torch.device) -> None:
    place = {"device": device, "dtype": torch.float32}
    found, exact = end(DETERMINISTIC[name], place), end(DETERMINISTIC[name], REFERENCE)
    torch.testing.assert_close(found, exact, rtol=2e-3, atol=2e-3 * float(exact.abs().max()))


class Net(nn.Module):
    """G(x, z) of points in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.net(torch.cat([x, z], 1))


def pushforward(device: torch.device, **options: Any) -> wg.Pushforward:
    z = wg.StandardNormal(2, device=device)
    return wg.Pushforward(z, Net, noise=z, **options)


def critic() -> wg.Critic:
    net = lambda: nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))  # noqa: E731
    return wg.Critic(net, wg.Adam(1e-3), r1=wg.R1(0.1, every=2))


def images(device: torch.device) -> Flow:
    pixels = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(network="conv", channels=8, batch=16, instance_noise=True, flip=True)
    flow = recipe.flow(ImageData(pixels.to(device), flip=True), Runtime(device))
    return (
        flow.functional,
        wg.JKO(flow.solver.estimator, flow.solver.optim, iters=2, batch=16, cost="mean"),
        flow.initial,
    )


f32 = lambda device: {"device": device, "dtype": torch.float32}  # noqa: E731
RANDOM: dict[str, Callable[[torch.device], Flow]] = {
    "Langevin": lambda device: (wg.KL(gaussian(**f32(device))), wg.Langevin(), cloud(**f32(device))),
    "MALA": lambda device: (wg.KL(gaussian(**f32(device))), wg.MetropolisLangevin(), cloud(**f32(device))),
    "birth and death": lambda device: (
        wg.KL(gaussian(**f32(device))),
        wg.WithReaction(wg.ForwardEuler(wg.Blob(wg.KernelDensity(wg.RBF(0.7)))), wg.BirthDeath()),
        cloud(**f32(device)),
    ),
    "proximal score": lambda device: (
        wg.KL(gaussian(**f32(device))),
        wg.ForwardEuler(wg.ProximalScore(0.2, samples=8)),
        cloud(**f32(device)),
    ),
    "learned score": lambda device: (
        wg.KL(gaussian(**f32(device))),
        wg.ForwardEuler(wg.LearnedScore(lambda: nn.Linear(2, 2), iters=2)),
        cloud(**f32(device)),
    ),
    "S-JKO": lambda device: (
        wg.Softplus(weighted(**f32(device)), batch=16),
        wg.JKO(critic(), iters=3, batch=16),
        pushforward(device, ema=0.9),
    ),
    "critic, explicit steps": lambda device: (
        wg.Softplus(weighted(**f32(device)), batch=16),
        wg.ForwardEuler(critic()),
        pushforward(device, regression=wg.Regression(wg.Adam(1e-3), persistent=2, batch=16)),
    ),
    "chain of affine maps": lambda device: (
        wg.KL(gaussian(**f32(device))),
        wg.JKO(iters=3, batch=16),
        wg.Chain(wg.StandardNormal(2, device=device), lambda: Affine(2), cached=20),
    ),
    "chain of convex gradients": lambda device: (
        wg.KL(gaussian(**f32(device))),
        wg.JKO(iters=3, batch=16),
        wg.Chain(wg.StandardNormal(2, device=device), lambda: ICNNGradient(2, width=4)),
    ),
    "images": images,
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_flow_repeats_on_the_device_from_its_checkpoint(
    name: str, device: torch.device, tmp_path: Any
) -> None:
    def run(num_steps: int, **options: Any) -> Tensor:
        F, solver, initial = RANDOM[name](device)
        solution = wg.solve(F, solver, initial, step_size=0.1, num_steps=num_steps, **options)
        drawn = solution.measure.draw(32, torch.Generator(device).manual_seed(1)).x
        assert drawn.device.type == device.type
        return drawn.cpu()

    whole = run(2)
    assert bool(torch.isfinite(whole).all())
    run(1, checkpoint=wg.Checkpoint(tmp_path))
    # On a GPU kernels may add in another order; on a CPU the numbers are the same to the last bit.
    exact = {} if device.type == "cpu" else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(run(2, checkpoint=wg.Checkpoint(tmp_path)), whole, **({"rtol": 0, "atol": 0} | exact))


MOVED = ("MMD", "Sinkhorn", "sliced", "SVGD", "blob", "JKO of particles", "grid")


@pytest.mark.parametrize("name", MOVED)
def test_a_flow_that_was_made_on_a_cpu_moves_to_the_device_and_back(name: str, device: torch.device) -> None:
    parts = DETERMINISTIC[name]({"device": torch.device("cpu"), "dtype": torch.float32})
    solution = wg.solve(*(part.to(device) for part in parts), step_size=0.1, num_steps=3)
    here = solution.to("cpu").measure
    moved = here.mass if isinstance(here, wg.Grid) else torch.cat([here.x, here.w[:, None]], 1)
    exact = end(DETERMINISTIC[name], REFERENCE)
    torch.testing.assert_close(moved.double(), exact, rtol=2e-3, atol=2e-3 * float(exact.abs().max()))


@pytest.mark.parametrize("name", ["S-JKO", "critic, explicit steps", "Langevin"])
def test_a_random_flow_that_was_made_on_a_cpu_goes_on_on_the_device(name: str, device: torch.device) -> None:
    parts = RANDOM[name](torch.device("cpu"))
    begun = wg.solve(*parts, step_size=0.1, num_steps=1)
    F, solver, initial = (part.to(device) for part in parts)
    ended = wg.solve(F, solver, initial, step_size=0.1, num_steps=2, state=begun.to(device).state)
    drawn = ended.to("cpu").measure.draw(8, torch.Generator().manual_seed(0)).x
    assert drawn.device.type == "cpu"
    assert bool(drawn.isfinite().all())
