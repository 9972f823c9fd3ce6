"""Sums over blocks of coordinates, whose proximal kernel is a product."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count
from wgflow.core.outputs import per_point
from wgflow.core.typing import Points
from wgflow.measures.normalizers import Function, Normalizer, Tilt
from wgflow.measures.potentials import ExactPotential, diagonal_of
from wgflow.numerics.metric import Metric


@dataclass(frozen=True, eq=False)
class SeparablePotential(ExactPotential):
    r"""A sum over blocks of coordinates, :math:`V(x)=\sum_kV_k(x^{(k)})`: means multiply and draws are independent.

    Parameters
    ----------
    parts : tuple of (potential, int, Normalizer or None)
        Each :math:`V_k`, from (n, :math:`d_k`) to (n,), the number :math:`d_k` of its coordinates, and how its normalizer is found: None
        for a potential that knows it. The blocks lie one after the other in a flattened point.

    Raises
    ------
    BadInput
        For a part without a normalizer, or one that needs shared draws; for points of another number of coordinates.

    Examples
    --------
    >>> import torch
    >>> from wgflow import L1Potential, QuadratureNormalizer
    >>> well = lambda x: (x[:, 0] ** 2 - 1) ** 2
    >>> V = SeparablePotential(((L1Potential(2.0), 1, None), (well, 1, QuadratureNormalizer(-5.0, 5.0))))
    >>> V(torch.tensor([[1.0, 0.0]]))
    tensor([3.])
    """

    parts: tuple[tuple[Callable[[Points], Tensor], Count, Normalizer | None], ...]

    def __post_init__(self) -> None:
        for V, _, rule in self.parts:
            if rule is None and not isinstance(V, ExactPotential):
                raise BadInput(
                    "SeparablePotential: a part is no QuadraticPotential or L1Potential, and needs a normalizer such as "
                    "QuadratureNormalizer(low, high)"
                )
            if rule is not None and rule.draws:
                raise BadInput(
                    f"SeparablePotential: {rule} is no exact normalizer of a part. Give it to all of V instead"
                )

    def _blocks(self, tilt: Tilt | None, x: Points) -> Iterator[tuple[Tensor, Tilt, Normalizer]]:
        flat, start = x.flatten(1), 0
        if flat.shape[1] != sum(size for _, size, _ in self.parts):
            sizes = "+".join(str(size) for _, size, _ in self.parts)
            raise BadInput(f"SeparablePotential: its parts have {sizes} coordinates, and points {flat.shape[1]}")
        for V, size, rule in self.parts:
            at_points = lambda z, V=V: per_point(V, z, "a part of a potential")  # noqa: E731
            inside = Tilt(at_points, *((1.0, 1.0) if tilt is None else (tilt.time, tilt.temperature)))
            yield flat[:, start : start + size], inside, V if rule is None else rule  # type: ignore[misc]
            start += size

    def __call__(self, x: Points) -> Tensor:
        """Return the sum of the parts, shape (n,)."""
        return torch.stack([inside.potential(z) for z, inside, _ in self._blocks(None, x)]).sum(0)

    def prox(self, x: Points, h: float) -> Points:
        """Return the proximal points of parts that know theirs, side by side."""
        if not all(isinstance(V, ExactPotential) for V, _, _ in self.parts):
            return super().prox(x, h)
        found = [V.prox(z, h) for (z, _, _), (V, _, _) in zip(self._blocks(None, x), self.parts, strict=True)]  # type: ignore[attr-defined]
        return torch.cat(found, 1).view_as(x)

    def log_mean(self, tilt: Tilt, y: Points, noise: Tensor | None = None) -> Tensor:
        """Return the sum over the parts."""
        return torch.stack([rule.log_mean(inside, z, None) for z, inside, rule in self._blocks(tilt, y)]).sum(0)

    def draw(self, tilt: Tilt, y: Points, rng: torch.Generator) -> Points:
        """Return draws of all parts, side by side."""
        drawn = [rule.draw(inside, z, rng) for z, inside, rule in self._blocks(tilt, y)]
        return torch.cat(drawn, 1).view_as(y)

    def whitened(self, metric: Metric) -> "SeparablePotential":
        """Return the sum of the parts in those coordinates; raises ``BadInput`` for a metric that mixes coordinates."""
        matrix, start = diagonal_of(metric, self).square(), 0
        parts: list[tuple[Function, int, Normalizer | None]] = []
        for V, size, rule in self.parts:
            own = Metric(matrix[start : start + size])
            inside = V.whitened(own) if isinstance(V, ExactPotential) else _colored(V, own)
            parts.append((inside, size, None if rule is None else rule.whitened(own)))
            start += size
        return SeparablePotential(tuple(parts))


def _colored(V: Function, metric: Metric) -> Function:
    return lambda u: V(metric.color(u))
