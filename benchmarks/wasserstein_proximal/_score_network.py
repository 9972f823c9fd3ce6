"""The baseline: a score network trained by denoising at all noise levels, as a law that is known by its scores alone."""

import itertools
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wgflow import Adam, Measure, Particles

WIDTH, BATCH = 128, 256


class Denoiser(nn.Module):
    r"""The noise :math:`\xi` of :math:`x+\sqrt v\,\xi`, from the point and the variance; score :math:`-\xi/\sqrt v`."""

    def __init__(self, d: int, unit: float) -> None:
        super().__init__()
        widths = [d + 1, WIDTH, WIDTH, WIDTH]
        hidden = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.SiLU())]
        self.net, self.unit = nn.Sequential(*hidden, nn.Linear(WIDTH, d)), unit

    def forward(self, x: Tensor, variance: Tensor) -> Tensor:
        scaled = x / (self.unit**2 + variance).sqrt()
        return self.net(torch.cat([scaled, variance.log() / 4], 1))


def trained(x: Tensor, variances: tuple[float, float], seconds: float, seed: int) -> tuple[Denoiser, int]:
    """Train on points for so many CPU seconds; return the network and its updates."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Denoiser(x.shape[1], float(x.std(0).square().mean().sqrt()))
    rng = torch.Generator().manual_seed(seed)
    descent = Adam(1e-3, (0.9, 0.999)).build(net.parameters())
    low, high = (torch.tensor(v).log() for v in variances)
    begin, updates = time.process_time(), 0
    while time.process_time() - begin < seconds:
        points = x[torch.randint(len(x), (BATCH,), generator=rng)]
        v = (low + (high - low) * torch.rand(BATCH, 1, generator=rng)).exp()
        xi = torch.randn(points.shape, generator=rng)
        descent.minimise(lambda p=points, v=v, xi=xi: (net(p + v.sqrt() * xi, v) - xi).square().sum(1).mean())
        updates += 1
    return net, updates


@dataclass(frozen=True, eq=False)
class Denoised(Measure):
    """A law known by the scores of its noised versions."""

    net: Denoiser
    data: Measure
    variance: float = 0.0

    can_draw = False

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        return self.data.event_shape

    def noised(self, scale: float, variance: float) -> "Denoised":
        assert scale == 1
        return Denoised(self.net, self.data, variance)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        return self.data.noised(1.0, self.variance).draw(n, rng)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return a linear function with the slope of the score: a flow that goes by gradients asks for nothing else."""
        v = torch.full_like(x[:, :1], self.variance)
        with torch.no_grad():
            slope = -self.net(x, v) / v.sqrt()
        return (x * slope).sum(1)
