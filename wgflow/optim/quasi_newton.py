"""The live form of ``LBFGS``: a whole minimization in one update."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from wgflow.core.ranks import averaged
from wgflow.core.typing import Info, Scalar
from wgflow.optim.descent import Descent, rows

if TYPE_CHECKING:
    from wgflow.optim.minimizers import LBFGS

_VISIBLE = 0.01
"""Relative weight above which the objective's value tells of a particle, at any tolerance."""
_LIGHTEST = 1e-8
"""Relative weight below which a particle's effect on the others is left out of a joint search."""
_SWEEPS = 4
"""Turns of the search over light particles and over all."""


class QuasiNewton(Descent):
    """A minimizer that starts anew in every update, and so has no state but the count."""

    def __init__(self, parameters: list[Tensor], settings: "LBFGS") -> None:
        super().__init__(torch.optim.SGD(parameters, 1.0), 1.0, None)
        self.settings = settings
        self.asked: float = reachable(parameters[0]) if settings.tolerance is None else settings.tolerance

    def minimise(self, objective: Callable[[], Scalar]) -> Info:
        """Minimize; reports the evaluations and the fraction of the first gradient that is left (``residual``)."""
        self.updates += 1
        self.differentiate(objective)
        self.first = first = self._largest()
        if first == 0 or not math.isfinite(first):
            return {"residual": first, "evaluations": 1}
        if self.mass is None:
            evaluations = 1 + self._search(objective, None)
            return {"residual": self._largest() / first, "evaluations": evaluations}
        # Values end at a gradient of the root of the machine precision, and show the root of the weight of what is left in it.
        visible = self.mass >= min(torch.finfo(self.mass.dtype).eps / self.asked**2, _VISIBLE)
        light = ~visible & (self.mass > 0)
        evaluations = 1 + self._search(objective, self.mass.where(visible, 0.0))
        for _ in range(_SWEEPS):
            if bool(light.any()):
                among = (self.mass / self.mass[light].max()).clamp(min=_VISIBLE).where(light, 0.0)
                evaluations += self._search(objective, among, values=False)
            if self._largest() <= self.asked * first:
                break
            joint = self.mass.clamp(min=_LIGHTEST).where(self.mass > 0, 0.0)
            evaluations += self._search(objective, joint, values=False)
        return {"residual": self._largest() / first, "evaluations": evaluations}

    def _search(self, objective: Callable[[], Scalar], metric: Tensor | None, values: bool = True) -> int:
        """Minimize over the rows with a metric above 0, given values or by gradients alone; return the evaluations."""
        # The search has numbers of its own for what is small, and begins with a step of 1 at most: it sees parameters of size 4
        # to 8 and a gradient of size 1, whatever their units.
        size = max(float(p.detach().abs().max()) for p in self.parameters)
        unit = 2.0 ** (math.floor(math.log2(size)) - 2) if 0 < size < math.inf else 1.0
        scale, asked = self.first, self.asked
        if metric is not None:
            (p,) = self.parameters
            asked *= math.sqrt(float(metric[metric > 0].min()))
            left = float(_times_root(self.per_mass(cast(Tensor, p.grad)), metric).abs().max()) / self.first
            if not asked < left < math.inf:
                return 0
            shrunk = 2.0 ** math.floor(math.log2(left))
            unit, scale, asked = unit * shrunk, scale * shrunk, asked / shrunk
        fixed = [p.detach().clone() for p in self.parameters]
        seen = [(_times_root(p, metric) / unit).requires_grad_(True) for p in fixed]
        evaluations, path = 0, _Path()

        def scaled() -> Scalar:
            nonlocal evaluations
            evaluations += 1
            with torch.no_grad():
                for p, z, x in zip(self.parameters, seen, fixed, strict=True):
                    p.copy_(
                        z * unit
                        if metric is None
                        else (z * unit / rows(metric, z).sqrt()).where(rows(metric, z) > 0, x)
                    )
            loss = averaged(self.differentiate(objective))
            inside = math.isfinite(loss)
            # Outside of the domain without a slope: the line search then bisects, with one it would interpolate to nan.
            by = scale if inside else math.nan
            for p, z in zip(self.parameters, seen, strict=True):
                z.grad = None if p.grad is None else _times_root(self.per_mass(p.grad), metric) / by
            if not inside:
                return torch.full_like(loss, math.inf)
            return loss / scale / unit if values else path.value(seen)

        torch.optim.LBFGS(
            seen,
            max_iter=self.settings.max_iter,
            tolerance_grad=asked,
            tolerance_change=torch.finfo(seen[0].dtype).eps,
            history_size=self.settings.history,
            line_search_fn="strong_wolfe",
        ).step(scaled)
        scaled()  # the line search may have looked beyond the point that it took
        return evaluations

    def _largest(self) -> float:
        return float(
            torch.stack([self.per_mass(p.grad).abs().max() for p in self.parameters if p.grad is not None]).max()
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain form: the count."""
        return {"updates": self.updates}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the count."""
        self.updates = saved["updates"]


class _Path:
    """Values of a function at the points that a search visits, from gradients by the trapezoidal rule between them."""

    def __init__(self) -> None:
        self.last: list[tuple[Tensor, Tensor]] = []
        self.total: Tensor | float = 0.0

    def value(self, points: list[Tensor]) -> Tensor:
        """Return the value at the points, which hold their gradients, less that at the first ones."""
        here = [(z.detach().clone(), cast(Tensor, z.grad)) for z in points]
        for (z, g), (last, slope) in zip(here, self.last or here, strict=True):
            self.total = self.total + ((g + slope) * (z - last)).sum() / 2
        self.last = here
        return cast(Tensor, self.total)


def reachable(x: Tensor) -> float:
    """Return the default tolerance of a minimizer that compares values, as a fraction of the first gradient."""
    return 3e-3 if torch.finfo(x.dtype).eps > 1e-10 else 1e-6


def _times_root(x: Tensor, metric: Tensor | None) -> Tensor:
    return x if metric is None else x * rows(metric, x).sqrt()
