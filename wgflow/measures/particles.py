"""Weighted particles: the only thing that travels between components, and the simplest measure that moves."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import checked
from wgflow.core.finite import first_nonfinite
from wgflow.core.instead import as_tensor, shown, suggest
from wgflow.core.rules import take
from wgflow.core.typing import Points, Scalar
from wgflow.measures._by_weight import picks
from wgflow.measures.base import NOT_POINTS, Measure, MovingMeasure, register_measure
from wgflow.measures.successor import Successor


@register_measure("particles")
@dataclass(frozen=True, eq=False)
class Particles(MovingMeasure, checks=False):
    r"""The empirical measure :math:`\sum_i w_i \delta_{x_i}`.

    Parameters
    ----------
    x : Tensor, shape (n, \*event)
        Positions.
    log_w : Tensor, shape (n,), optional
        Logarithms of the weights, which need not sum to one: :attr:`w` normalizes. None means :math:`1/n`. They take the
        floating-point type of ``x``, as ``log_rho`` does.
    log_rho : Tensor, shape (n,), optional
        Log density of the underlying measure at ``x``, where it is known.
    source : Measure, optional
        The measure this is a draw of; a draw answers :meth:`log_prob` through it.

    Raises
    ------
    BadInput
        For no particles, a scalar ``x``, an integer dtype or a mismatch of shapes.

    Examples
    --------
    >>> import torch
    >>> p = Particles(torch.tensor([[0.0], [1.0]]), log_w=torch.tensor([0.25, 0.75]).log())
    >>> p.mean(p.x[:, 0])
    tensor(0.7500)
    """

    x: Points
    log_w: Tensor | None = None
    log_rho: Tensor | None = None
    source: Measure | None = field(default=None, repr=False)

    tracks_points: ClassVar[bool] = True

    def __post_init__(self) -> None:
        x = self.x
        if not isinstance(x, Tensor) or x.dim() < 2 or x.numel() == 0:
            shape = tuple(x.shape) if isinstance(x, Tensor) else f"{type(x).__name__}. Convert it: {as_tensor(x)}"
            raise BadInput(f"particles need positions of shape (n, *event) with n >= 1, got {shape}")
        if not x.is_floating_point():
            raise BadInput(f"particles need floating-point positions, got {x.dtype}: convert with x.float()")
        if self.source is not None and not isinstance(self.source, Measure):
            raise BadInput(
                f"source={shown(self.source)}: expected the Measure that these particles are a draw of, or None"
            )
        for name in ("log_w", "log_rho"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Tensor) or value.shape != x.shape[:1]):
                got = (
                    tuple(value.shape)
                    if isinstance(value, Tensor)
                    else f"{shown(value)}. Convert it: {as_tensor(value, name)}"
                )
                raise BadInput(f"{name} must have shape ({len(x)},), one entry a particle, got {got}")
            if value is not None and value.dtype != x.dtype:
                if not value.is_floating_point():
                    raise BadInput(
                        f"{name} must be floating-point logarithms, got {value.dtype}: convert with .float()"
                    )
                object.__setattr__(self, name, value.to(x.dtype))  # or a step would give the positions its type

    @classmethod
    @checked
    def weighted(cls, x: Points, w: Tensor) -> "Particles":
        r"""Return particles with weights ``w`` (n,) instead of their logarithms.

        Raises
        ------
        BadInput
            When a weight is negative or not finite, or they do not sum to one (divide by the sum first, if that is meant).
        """
        if w.shape != x.shape[:1]:
            raise BadInput(f"w must have shape ({len(x)},), one weight a particle, got {tuple(w.shape)}")
        least, total = float(w.min()), float(w.double().sum())
        if not (least >= 0 and abs(total - 1) <= 1e-5):
            raise BadInput(f"weights must be nonnegative and sum to 1: the least is {least:g}, their sum {total:g}")
        return cls(x, w.log())

    @classmethod
    def example(cls) -> "Particles":
        """Return a tiny instance."""
        return cls(torch.eye(2).repeat(4, 1).cumsum(0), torch.linspace(-1.0, 1.0, 8))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.x.shape[1:]

    @property
    def device(self) -> torch.device:
        """Where the positions live."""
        return self.x.device

    @property
    def w(self) -> Tensor:
        r"""Normalized weights, shape (n,): :math:`w_i = e^{\ell_i}/\sum_j e^{\ell_j}`."""
        if self.log_w is None:
            return self.x.new_full((len(self),), 1 / len(self))
        return self.log_w.softmax(0)

    @property
    def log_weights(self) -> Tensor:
        r"""Logarithms of :attr:`w`, shape (n,), also where that underflows."""
        return self.w.log() if self.log_w is None else self.log_w.log_softmax(0)

    def mean(self, f: Tensor) -> Scalar:
        r"""Return :math:`\sum_i w_i f_i` for ``f`` of shape (n,).

        Raises
        ------
        BadInput
            When ``f`` is not one number a particle: an ``(n, 1)`` would broadcast silently.
        """
        if f.shape != self.x.shape[:1]:
            raise BadInput(f"expected one value a particle, shape ({len(self)},), got {tuple(f.shape)}")
        return f.mean() if self.log_w is None else (self.w * f).sum()

    @property
    def num_atoms(self) -> int | None:
        """Number of the particles where they have no weights."""
        return len(self) if self.log_w is None else None

    def take(self, index: Tensor, rng: torch.Generator) -> "Particles":
        """Return the particles of these numbers."""
        return Particles(self.x.detach()[index.to(self.device)])

    @property
    def num_points(self) -> int:
        """Number of the particles."""
        return len(self)

    def whole(self, rng: torch.Generator) -> "Particles":
        """Return all of them, with their weights."""
        return self.draw(len(self), rng)

    def draw(self, n: int, rng: torch.Generator) -> "Particles":
        """Return ``n`` particles as :meth:`resampled` does, distinct at equal weights; all, with their weights, when ``n`` is as many."""
        if n >= len(self):
            return replace(self, x=self.x.detach())  # a gradient penalty marks the points of a draw, never these
        return self.resampled(n, rng)

    def resampled(self, n: int, rng: torch.Generator) -> "Particles":
        r"""Return ``n`` particles of equal weight in random order; the i-th comes :math:`nw_i` times, rounded up or down.

        On average it comes :math:`nw_i` times, so that means over them are unbiased (systematic resampling over a random order).
        """
        index = picks(self.log_w, len(self), n, rng).to(self.device)
        log_rho = None if self.log_rho is None else self.log_rho[index]
        return replace(self, x=self.x[index], log_w=None, log_rho=log_rho)

    def log_prob(self, x: Points) -> Tensor:
        """Log density of the measure that this is a draw of."""
        if self.source is None:
            return super().log_prob(x)
        return self.source.log_prob(x)

    @property
    def has_density(self) -> bool:
        """Whether these are a draw of a measure that knows its log density."""
        return self.source is not None and self.source.has_density

    def start(self, rng: torch.Generator) -> "Particles":
        """Return a private copy of the positions, weights and log densities."""
        copy = lambda t: None if t is None else t.detach().clone()  # noqa: E731
        return Particles(self.x.detach().clone(), copy(self.log_w), copy(self.log_rho))

    def follow(self, move: Callable[["Particles"], Points], rng: torch.Generator) -> "Particles":
        """Move every particle; the density is no longer known afterwards."""
        return replace(self, x=move(self).detach(), log_rho=None)

    def propose(self, rng: torch.Generator, last: Successor | None = None) -> "ParticlesSuccessor":
        """Positions that start where the particles are."""
        return ParticlesSuccessor(self.x.clone().requires_grad_(True))


def of_points(x: Tensor | np.ndarray) -> Particles:
    r"""Return the particles that a tensor or an array of points (n, \*event) stands for, of equal weight.

    A tensor keeps its type. The numbers of an array are copied and take PyTorch's default type, as those of a Python list do.
    Raises ``BadInput`` for what :class:`Particles` refuses, entries that are not finite, and masked arrays.
    """
    if isinstance(x, Tensor):
        if x.layout != torch.strided or x.is_meta:
            raise BadInput(f"particles need dense positions with values, got {shown(x)}")
    else:
        if x.dtype.kind != "f" or isinstance(x, np.ma.MaskedArray):
            raise BadInput(f"particles need floating-point positions, got {shown(x)}")
        x = torch.from_numpy(np.array(x, dtype=np.float64)).to(torch.get_default_dtype())
    p = Particles(x)
    if not bool(torch.isfinite(x).all()):
        raise BadInput(f"particles need finite positions, {first_nonfinite('x', x)}")
    return p


take((Tensor, np.ndarray), of_points, Measure, MovingMeasure, Particles)
suggest(Particles, *NOT_POINTS, (Measure, "Draw points from it: draw(n, rng)"))


@dataclass(eq=False)
class ParticlesSuccessor(Successor):
    """The positions themselves are the parameters: a proximal-point step of every particle."""

    y: Tensor

    def parameters(self) -> list[Tensor]:
        """The positions."""
        return [self.y]

    def couple(
        self, rho: MovingMeasure, n: int, rng: torch.Generator, latent: str = "shared"
    ) -> tuple[Particles, Particles]:
        """All particles before and after, in the same order and with the same weights."""
        assert isinstance(rho, Particles)
        return rho, replace(rho, x=self.y, log_rho=None)

    def draw(self, rho: MovingMeasure, n: int, rng: torch.Generator) -> Particles:
        """At most ``n`` of the particles at their present trial positions."""
        return self.measure(rho).draw(n, rng)

    def accept(self, rho: MovingMeasure, snapshot: str = "raw") -> Particles:
        """Particles at the trial positions."""
        return self.measure(rho)

    def measure(self, rho: MovingMeasure) -> Particles:
        """Particles at the trial positions, detached."""
        assert isinstance(rho, Particles)
        return replace(rho, x=self.y.detach().clone(), log_rho=None)

    def state_dict(self) -> dict[str, Tensor]:
        """Plain form."""
        return {"y": self.y.detach()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Restore in place: the optimizer holds the same tensor."""
        with torch.no_grad():
            self.y.copy_(saved["y"])
