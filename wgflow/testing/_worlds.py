"""Small worlds that checks look at objects in: a few weighted points, a critic, atoms with known probabilities."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wgflow import Gaussian, Measure, Particles
from wgflow.core.errors import BadInput
from wgflow.core.rng import generator, seeded
from wgflow.core.typing import Points
from wgflow.storage.describe import describe, differences
from wgflow.storage.state import state_dict
from wgflow.testing._precision import cast, tensors_in

N = 7


def points(event_shape: tuple[int, ...], n: int = N, seed: int = 2, dtype: torch.dtype = torch.float64) -> Points:
    """Return normal points (n, *event), the same numbers for every shape of as many coordinates."""
    flat = torch.randn(n, math.prod(event_shape), generator=generator(seed), dtype=torch.float64)
    return flat.reshape(n, *event_shape).to(dtype)


def near_normal(x: Points) -> Tensor:
    """Return the log density of a Gaussian whose ratio to the standard normal stays below 2, where every entropy is finite."""
    d = x[0].numel()
    mean, cov = torch.full((d,), 0.1, dtype=x.dtype), 0.81 * torch.eye(d, dtype=x.dtype)
    return Gaussian(mean, cov).log_prob(x.flatten(1))


def world(measure: Measure | None, event_shape: tuple[int, ...]) -> tuple[Particles, Callable[[Points], Tensor] | None]:
    """Return a few weighted particles in float64, and the log density that they are to know as a function of points.

    Particles are taken as they are; of another measure some points are drawn. Without one, the points are normal.
    """
    log_w = lambda n: torch.randn(n, generator=generator(3), dtype=torch.float64)  # noqa: E731
    if measure is None:
        x = points(event_shape)
        return Particles(x, log_w(len(x)), near_normal(x)), near_normal
    if not measure.can_draw:
        raise BadInput(f"measure={type(measure).__name__}: expected one that can be drawn from")
    held = cast(measure, torch.float64)
    density = held.log_density if held.has_density else None
    p = held if isinstance(held, Particles) else held.draw(N, generator(2))
    log_rho = p.log_rho if density is None else density(p.x)
    return Particles(p.x, log_w(len(p)) if p.log_w is None else p.log_w, log_rho), density


def critic(event_shape: tuple[int, ...], seed: int = 1) -> nn.Module:
    """Return a smooth network from points to numbers (n,)."""
    d = math.prod(event_shape)
    make = lambda: nn.Sequential(nn.Flatten(1), nn.Linear(d, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))  # noqa: E731
    return seeded(make, generator(seed)).double()


class Atoms(Measure):
    """A measure on given points that knows its density against the counting measure."""

    def __init__(self, x: Points, w: Tensor) -> None:
        self.x, self.probability, self.event_shape = x, w / w.sum(), x.shape[1:]

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return all atoms."""
        return Particles(self.x, self.probability.log(), source=self)

    def log_prob(self, x: Points) -> Tensor:
        """Return the logarithms of the probabilities."""
        return self.probability.log()[nearest(x, self.x)]


def nearest(x: Points, atoms: Points) -> Tensor:
    """Return the number of the atom that each point is at, (n,)."""
    return torch.cdist(x.detach().flatten(1), atoms.flatten(1)).argmin(1)


def shuffled(p: Particles, order: Tensor) -> Particles:
    """Return the particles in another order."""
    take = lambda t: None if t is None else t[order]  # noqa: E731
    return Particles(p.x[order], take(p.log_w), take(p.log_rho))


def split(p: Particles) -> Particles:
    """Return the particles with the first one as two, the last and the first, of half the weight."""
    half = p.log_weights
    half = torch.cat([half, half[:1]])
    half[[0, len(p)]] -= math.log(2)
    double = lambda t: None if t is None else torch.cat([t, t[:1]])  # noqa: E731
    return Particles(torch.cat([p.x, p.x[:1]]), half, double(p.log_rho))


def rescaled(p: Particles) -> list[tuple[str, Particles, Particles]]:
    """Return pairs of particles that are the same law, with the words for why."""
    equal = replace(p, log_w=torch.full_like(p.x.flatten(1)[:, 0], 0.7))
    return [
        ("with weights that do not sum to one", replace(p, log_w=p.log_weights + 3), p),
        ("with no weights in the place of equal ones", replace(p, log_w=None), equal),
    ]


def central(f: Callable[..., Tensor], inputs: list[Tensor], h: float = 1e-6) -> list[Tensor]:
    """Return the central differences of a scalar function in each entry of its inputs."""
    found = []
    for number, t in enumerate(inputs):
        slope = torch.zeros_like(t).flatten()
        for i in range(t.numel()):
            ends = []
            for sign in (1, -1):
                moved = t.detach().clone().flatten()
                moved[i] += sign * h
                ends.append(float(f(*inputs[:number], moved.view_as(t), *inputs[number + 1 :]).detach()))
            slope[i] = (ends[0] - ends[1]) / (2 * h)
        found.append(slope.view_as(t))
    return found


def untouched(held: Any, act: Callable[[], Any], claim: str) -> None:
    """Run ``act`` and raise ``AssertionError`` if it changed anything in ``held``.

    Settings, tensors, networks and their modes, and what is noted for gradients.
    """
    before, kept = describe(held), [(t, t.requires_grad, t.grad) for t in tensors_in(held)]
    act()
    found = differences(before, describe(held))
    assert not found, f"{claim}: {found[0]}"
    for t, required, grad in kept:
        shape = tuple(t.shape)
        assert t.requires_grad == required, (
            f"{claim}: a tensor of shape {shape} has requires_grad = {t.requires_grad} now"
        )
        assert t.grad is grad, f"{claim}: a tensor of shape {shape} has a gradient now"


def through_a_file(obj: Any) -> Any:
    """Return the plain form of an object, written and read as a checkpoint is."""
    file = io.BytesIO()
    torch.save(state_dict(obj), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def global_state_kept(act: Callable[[], Any], claim: str) -> None:
    """Run ``act`` and raise ``AssertionError`` if it drew from the global generator."""
    before = torch.get_rng_state()
    act()
    kept = torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(before)
    assert kept, f"{claim}: it drew from the global generator; draw with the generator that is given"
