"""Masses on the cells of a regular grid: a measure whose density is known everywhere, for one, two or three dimensions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Device, checked
from wgflow.core.outputs import per_point
from wgflow.core.typing import Points
from wgflow.measures._by_weight import at_levels
from wgflow.measures.base import Measure, MovingMeasure, register_measure
from wgflow.measures.particles import Particles


@register_measure("grid")
@dataclass(frozen=True, eq=False)
class Grid(MovingMeasure):
    r"""Masses on the cells of a box; the density is constant on each cell. ``EntropicJKO`` moves it.

    Parameters
    ----------
    mass : Tensor, shape (n_1, ..., n_d)
        Masses, nonnegative; they are divided by their sum. Axis i of the tensor is coordinate i.
    low, high : sequence of float
        Corners of the box, d numbers each. Nodes are the centers of the cells.

    Raises
    ------
    BadInput
        For masses that are negative, not finite or all 0, or corners that do not match.

    Examples
    --------
    >>> import torch
    >>> rho = Grid.of(lambda x: -0.5 * x.square().sum(1), low=[-6.0], high=[6.0], shape=[100])
    >>> p = rho.nodes()
    >>> round(float(p.mean(p.x[:, 0].square())), 6)
    1.0
    """

    mass: Tensor
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        d = self.mass.dim()
        object.__setattr__(self, "low", tuple(map(float, self.low)))
        object.__setattr__(self, "high", tuple(map(float, self.high)))
        if (
            not self.mass.is_floating_point()
            or d == 0
            or self.mass.numel() == 0
            or len(self.low) != d
            or len(self.high) != d
        ):
            raise BadInput(
                f"a Grid needs floating-point masses with one axis a coordinate, got {self.mass.dtype} of shape "
                f"{tuple(self.mass.shape)} for the box from {self.low} to {self.high}"
            )
        if not all(a < b and math.isfinite(b - a) for a, b in zip(self.low, self.high, strict=True)):
            raise BadInput(f"a Grid needs a box with low < high, got {self.low} and {self.high}")
        mass = self.mass.detach()
        least, total = float(mass.min()), float(mass.sum())
        if not (least >= 0 and 0 < total < math.inf):
            raise BadInput(f"masses must be nonnegative and not all 0: the least is {least:g}, their sum {total:g}")
        if abs(total - 1) > 64 * torch.finfo(self.mass.dtype).eps:  # not again when a saved one is loaded: bit for bit
            object.__setattr__(self, "mass", self.mass / total)

    @classmethod
    @checked
    def of(
        cls,
        density: Measure | Callable[[Points], Tensor],
        low: Sequence[float],
        high: Sequence[float],
        shape: Sequence[Count],
        *,
        dtype: torch.dtype = torch.float64,
        device: Device = "cpu",
    ) -> "Grid":
        """Return the grid with masses proportional to a density at the nodes.

        Parameters
        ----------
        density : Measure or callable
            A measure with ``log_prob``, or the log density itself, from (n, d) to (n,); a constant does not matter.
        low, high, shape : sequences
            The box and the number of cells, one entry a coordinate.
        dtype, device
            Of the masses. float64 is the default: masses span hundreds of orders of magnitude.
        """
        blank = cls(torch.ones(*shape, dtype=dtype, device=device), tuple(low), tuple(high))
        log_rho = per_point(
            density.log_prob if isinstance(density, Measure) else density, blank.points, "a log density"
        )
        log_rho = log_rho.detach().to(dtype)
        if not math.isfinite(float(log_rho.max())):  # NaN is the largest
            bad = int(log_rho.argmax())
            raise BadInput(
                f"a log density for a Grid needs numbers or minus infinity at its nodes, a number at one of them at least: it is "
                f"{float(log_rho[bad])} at {blank.points[bad].tolist()}"
            )
        return replace(blank, mass=(log_rho - log_rho.max()).exp().view(blank.mass.shape))

    @classmethod
    def example(cls) -> "Grid":
        """Return a tiny instance."""
        return cls(torch.arange(1.0, 13.0).view(3, 4), (-1.0, 0.0), (2.0, 2.0))

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point, (d,)."""
        return torch.Size((self.mass.dim(),))

    @property
    def device(self) -> torch.device:
        """Where the masses live."""
        return self.mass.device

    @property
    def spacing(self) -> tuple[float, ...]:
        """Edges of a cell."""
        box = zip(self.low, self.high, self.mass.shape, strict=True)
        return tuple((b - a) / n for a, b, n in box)

    @property
    def volume(self) -> float:
        """Volume of a cell."""
        return math.prod(self.spacing)

    @property
    def axes(self) -> list[Tensor]:
        """Coordinates of the nodes, one tensor (n_i,) an axis."""
        cells = zip(self.low, self.spacing, self.mass.shape, strict=True)
        return [a + dx * (torch.arange(n).to(self.mass) + 0.5) for a, dx, n in cells]

    @property
    def points(self) -> Tensor:
        """Nodes, (n, d), in the order of ``mass.flatten()``."""
        return torch.cartesian_prod(*self.axes).view(self.mass.numel(), -1)

    @property
    def log_rho(self) -> Tensor:
        """Log density at the nodes, (n,)."""
        return self.mass.flatten().log() - sum(map(math.log, self.spacing))

    def nodes(self) -> Particles:
        """Return the nodes as weighted particles that know their density: functionals and moments become sums over cells."""
        return Particles(self.points, self.mass.flatten().log(), self.log_rho, self)

    def log_prob(self, x: Points) -> Tensor:
        """Log density of the cell that a point lies in, (n,); minus infinity outside of the box."""
        index, inside = torch.zeros(len(x), dtype=torch.long, device=x.device), torch.ones(len(x), device=x.device) > 0
        for i, (a, b, dx, n) in enumerate(zip(self.low, self.high, self.spacing, self.mass.shape, strict=True)):
            cell = ((x[:, i] - a) / dx).floor().long()
            inside &= (x[:, i] >= a) & (x[:, i] <= b)  # with its edge, to which the last draws may be rounded
            index = index * n + cell.clamp(0, n - 1)
        return torch.where(inside, self.log_rho[index], -torch.inf)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return n independent points, uniform within their cells."""
        u = torch.rand(n, generator=rng, device=self.device, dtype=torch.float64)
        index = at_levels(self.mass.flatten(), u)
        jitter = torch.rand(n, self.mass.dim(), generator=rng, device=self.device, dtype=self.mass.dtype) - 0.5
        return Particles(self.points[index] + jitter * torch.tensor(self.spacing).to(self.mass), source=self)

    def start(self, rng: torch.Generator) -> "Grid":
        """Return a private copy."""
        return replace(self, mass=self.mass.detach().clone())
