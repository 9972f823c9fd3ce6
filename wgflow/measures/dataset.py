"""Points in memory as a measure, with their classes where these are known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Whole, checked
from wgflow.core.finite import first_nonfinite, require_log_weights
from wgflow.core.labels import check_labels, members
from wgflow.core.typing import Points
from wgflow.measures._by_weight import at_levels
from wgflow.measures.base import Measure, register_measure
from wgflow.measures.particles import Particles

_PART = 2**24


@register_measure("dataset")
@dataclass(frozen=True, eq=False)
class Dataset(Measure):
    r"""The empirical measure of a tensor of points; a draw takes independent points with replacement, :meth:`whole` all of them.

    Parameters
    ----------
    x : Tensor, shape (n, \*event), floating point
        The points. They stay on their device, so a draw is an index, not a transfer; :class:`Streamed` draws from larger ones.
    log_w : Tensor, shape (n,), optional
        Logarithms of their weights, up to a constant, as for :class:`Particles`; draws go by them and have equal weights.
    labels : Tensor, int64, shape (n,), optional
        Classes of the points, from 0. A draw does not show them: :class:`Labelled` does.

    Raises
    ------
    BadInput
        For points or weights that are not finite, or shapes that do not fit.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> data = wg.Dataset(torch.tensor([[0.0], [1.0], [2.0]]))
    >>> data.whole(torch.Generator()).x.mean(), len(data.draw(10, torch.Generator()))
    (tensor(1.), 10)
    """

    x: Points
    log_w: Tensor | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        Particles(self.x, self.log_w)  # checks the shapes and the dtype
        if not all(bool(torch.isfinite(part).all()) for part in self._parts()):
            bad = sum(int((~torch.isfinite(part.flatten(1))).any(1).sum()) for part in self._parts())
            raise BadInput(
                f"{bad} of the {len(self.x)} points of this Dataset are not finite, {first_nonfinite('x', self.x)}: drop or repair "
                "them first"
            )
        if self.log_w is not None:
            require_log_weights(self.log_w, "this Dataset")
        if self.labels is not None:
            check_labels(self.labels, len(self.x), "a point")

    def _parts(self) -> tuple[Tensor, ...]:
        """Return the points in parts, so that of a file that is mapped one at a time is in memory."""
        return self.x.split(max(1, _PART // self.x[0].numel()))

    @classmethod
    def example(cls) -> "Dataset":
        """Return a tiny instance."""
        return cls(torch.eye(2).repeat(4, 1).cumsum(0))

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.x.shape[1:]

    @property
    def device(self) -> torch.device:
        """Where the points live."""
        return self.x.device

    @property
    def num_atoms(self) -> int | None:
        """Number of the points; None with weights."""
        return len(self.x) if self.log_w is None else None

    @property
    def num_points(self) -> int:
        """Number of the points, also with weights."""
        return len(self.x)

    def whole(self, rng: torch.Generator) -> Particles:
        """Return all points with their weights."""
        return Particles(self.x.detach(), self.log_w)

    def take(self, index: Tensor, rng: torch.Generator) -> Particles:
        """Return the points of these numbers."""
        return Particles(self.x[index.to(self.device)])

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points drawn with replacement."""
        if self.log_w is None:
            return self.take(torch.randint(len(self.x), (n,), generator=rng, device=rng.device), rng)
        levels = torch.rand(n, generator=rng, device=rng.device, dtype=torch.float64)
        return self.take(at_levels(self.log_w.detach().to(rng.device).double().softmax(0), levels), rng)

    @checked
    def of_class(self, label: Whole) -> "Dataset":
        """Return the measure on the points of one class; raises ``BadInput`` where there are none."""
        index = members(self.labels, label, "this Dataset")
        return Dataset(self.x[index], None if self.log_w is None else self.log_w[index])
