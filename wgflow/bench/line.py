r"""The flow of an f-divergence on a line, solved on a grid: the reference where no closed form exists.

With :math:`r=\rho/\nu` the flow :math:`\partial_t\rho=\partial_x(\rho\,\partial_xf'(r))` is :math:`\partial_x(\nu\,\partial_xG(r))`,
:math:`G(r)=rf'(r)-f(r)`. Finite volumes of second order, an implicit solver of high order in time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wgflow import Measure

Pressure = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Line:
    """Cells of equal length between two ends that are far enough out to hold all of the mass."""

    low: float
    high: float
    cells: int = 4000

    @property
    def faces(self) -> np.ndarray:
        """Ends of the cells."""
        return np.linspace(self.low, self.high, self.cells + 1)

    def density(self, law: Measure, at: np.ndarray) -> np.ndarray:
        """Return the density of a law."""
        return law.log_prob(torch.from_numpy(at)[:, None].double()).exp().numpy()

    def flow(
        self, start: Measure, target: Measure, pressure: Pressure, t: float, tolerance: float = 1e-8
    ) -> np.ndarray:
        """Return the mass of every cell at time t."""
        from scipy.integrate import solve_ivp

        faces = self.faces
        length, centres = faces[1] - faces[0], (faces[1:] + faces[:-1]) / 2
        nu, inner = self.density(target, centres), self.density(target, faces[1:-1])

        def rate(_: float, r: np.ndarray) -> np.ndarray:
            """Of the ratio, which has no tails."""
            flux = np.concatenate([[0.0], -inner * np.diff(pressure(r)) / length, [0.0]])
            return -np.diff(flux) / (length * nu)

        first = self.density(start, centres) / nu
        if t == 0:
            return nu * first * length / (nu * first * length).sum()
        found = solve_ivp(rate, (0, t), first, "LSODA", (t,), rtol=tolerance, atol=tolerance, lband=1, uband=1)
        if not found.success:
            raise RuntimeError(f"the reference flow on the line failed: {found.message}")
        mass = nu * found.y[:, -1] * length
        return mass / mass.sum()

    def quantiles(self, mass: np.ndarray, n: int) -> Tensor:
        """Return n quantiles, at levels (i + 1/2) / n, of a density that is constant in each cell."""
        levels = (np.arange(n) + 0.5) / n
        cdf = np.concatenate([[0.0], np.cumsum(mass)])
        kept = np.concatenate([[True], np.diff(cdf) > 1e-15])
        return torch.from_numpy(np.interp(levels, cdf[kept], self.faces[kept]))
