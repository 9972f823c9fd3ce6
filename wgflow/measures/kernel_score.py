r"""The kernel score model: Gaussians around some of the data, whose precisions a network learns from the others."""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Positive
from wgflow.core.finite import require_finite
from wgflow.core.networks import called, copied
from wgflow.core.rng import build
from wgflow.core.typing import NetSource, Points
from wgflow.measures.base import Measure, MovingMeasure, register_measure
from wgflow.measures.factor_covariance import FactorCovariance
from wgflow.measures.local_gaussians import LocalGaussians
from wgflow.measures.particles import Particles
from wgflow.measures.precisions import FullPrecision, LocalPrecision
from wgflow.measures.successor import Successor

_FULL_UP_TO = 16
"""Dimensions in which a precision is a full matrix, where nobody has chosen."""
_RANK = 8
_ONE = 0.5413248546129181
"""Softplus of it is 1."""


@register_measure("kernel_score_model")
@dataclass(eq=False)
class KernelScoreModel(MovingMeasure):
    r"""The kernel score model :math:`\tfrac1K\sum_kN(Z_k,\Gamma_\theta(Z_k)^{-1})`: a network gives the precision at a center.

    Centers stay where they are (Zhang et al. 2024). With ``ImplicitScoreMatching`` under ``JKO`` and an infinite step size its
    parameters are fitted
    to data, which must not hold a center: there the loss is unbounded below, and ``solve`` refuses it. :func:`fit_kernel_score` does all
    that. At a finite step size it flows like any other measure.

    Parameters
    ----------
    centres : Tensor, shape (K, d)
        :math:`Z_k`, at least two that differ.
    net : nn.Module or callable, optional
        From centers (K, d), of mean 0 and mean variance 1, to (K, ``outputs``). By default five hidden layers of 64 with GELU.
    rank : int, "full" or "auto"
        ``"full"``: :math:`\Gamma=LL^\top` with the lower triangle from the network, d(d+1)/2 outputs. A number r: the covariance is a
        diagonal plus r columns, d(r+1) outputs and nothing of size K d². ``"auto"``: full up to 16 dimensions, 8 columns above.
    floor : float, optional
        Least eigenvalue of :math:`\Gamma`, times the mean variance of the centers: scale and place of the data do not matter. By
        default :math:`K^{2/(d+4)}`, Scott's rule: no kernel is wider than the best one for Gaussian data.
    ceiling : float
        Largest eigenvalue, in the same unit; 1e6 is a standard deviation of a thousandth of the data's. For both see
        :meth:`LocalPrecision.within`.

    Notes
    -----
    :attr:`law` is the model as a ``LocalGaussians``: density, score, exact heat evolution. Draws carry it as their source.

    Raises
    ------
    BadInput
        For fewer than two distinct centers, a floor that is not below the ceiling, or a network with another number of outputs.

    Examples
    --------
    Two centers and a network that has not been trained, which makes a law with a density:

    >>> import torch
    >>> import wgflow as wg
    >>> model = wg.KernelScoreModel(torch.tensor([[-1.0], [1.0]])).start(torch.Generator().manual_seed(0))
    >>> model.law.log_prob(torch.zeros(3, 1)).shape
    torch.Size([3])
    """

    centres: Tensor
    net: NetSource | None = None
    rank: Count | Literal["full", "auto"] = "auto"
    floor: Positive | None = None
    ceiling: Positive = 1e6

    parametric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.centres.dim() != 2 or len(self.centres) < 2:
            raise BadInput(
                f"KernelScoreModel: expected at least 2 centers, shape (K, d), got {tuple(self.centres.shape)}"
            )
        require_finite("KernelScoreModel", centres=self.centres)
        if not self.unit > 0:
            raise BadInput(
                f"KernelScoreModel: all {len(self.centres)} centers are one point: they have no scale to learn at"
            )
        if not self.least < self.ceiling:
            raise BadInput(
                f"KernelScoreModel(floor={self.least:g}, ceiling={self.ceiling:g}): expected a floor below the ceiling"
            )

    @classmethod
    def example(cls) -> "KernelScoreModel":
        """Return a tiny instance."""
        return cls(torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, 2.0]]), lambda: nn.Linear(2, 3))

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.centres.shape[1:]

    @property
    def device(self) -> torch.device:
        """Where the centers live."""
        return self.centres.device

    @property
    def made_of(self) -> Tensor:  # type: ignore[override]
        """The centers."""
        return self.centres

    @property
    def carries_density(self) -> bool:
        """It is a mixture of Gaussians."""
        return True

    @cached_property
    def unit(self) -> float:
        """Root of the mean variance of a coordinate of the centers, the unit of length of the network."""
        return float((self.centres - self.centres.mean(0)).detach().double().square().mean().sqrt())

    @property
    def least(self) -> float:
        """The floor in force."""
        K, d = self.centres.shape
        return K ** (2 / (d + 4)) if self.floor is None else self.floor

    @property
    def columns(self) -> int | None:
        """Columns of a local covariance; None for a full matrix."""
        if self.rank == "auto":
            return None if self.centres.shape[1] <= _FULL_UP_TO else _RANK
        return None if self.rank == "full" else cast(int, self.rank)

    @property
    def outputs(self) -> int:
        """Numbers that the network returns a center."""
        d, r = self.centres.shape[1], self.columns
        return d * (d + 1) // 2 if r is None else d * (r + 1)

    @property
    def law(self) -> LocalGaussians:
        """The mixture that it is now, with parameters held fixed."""
        with torch.no_grad():
            return self.law_of(self.built)

    @property
    def built(self) -> nn.Module:
        """The network; raises ``BadInput`` before :meth:`start` has built it."""
        if not isinstance(self.net, nn.Module):
            raise BadInput(
                "the network of this KernelScoreModel is not built yet: call start(rng), as solve() does, or fit_kernel_score(data)"
            )
        return self.net

    def law_of(self, net: nn.Module) -> LocalGaussians:
        """Return the mixture with the precisions of a network, differentiable in its weights."""
        v = called(net, "the network of a KernelScoreModel", (self.centres - self.centres.mean(0)) / self.unit)
        if not isinstance(v, Tensor) or v.shape != (len(self.centres), self.outputs):
            got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise BadInput(
                f"the network of this KernelScoreModel returned {got}: expected ({len(self.centres)}, {self.outputs}), "
                f"{'the lower triangle' if self.columns is None else 'a diagonal and columns'} a center"
            )
        scaled = self._precision(v).within(self.least, self.ceiling)
        return LocalGaussians(self.centres, scaled.noised(self.unit, 0.0))

    def _precision(self, v: Tensor) -> LocalPrecision:
        K, d = self.centres.shape
        r = self.columns
        if r is not None:
            return FactorCovariance(softplus(v[:, :d] + _ONE), v[:, d:].reshape(K, d, r))
        i, j = torch.tril_indices(d, d, device=v.device)
        entries = torch.where(i == j, softplus(v + _ONE), v)
        return FullPrecision(v.new_zeros(K, d, d).index_put((torch.arange(K, device=v.device)[:, None], i, j), entries))

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` independent points."""
        return self.law.draw(n, rng)

    def log_prob(self, x: Points) -> Tensor:
        """Normalized log density, shape (n,)."""
        return self.law.log_prob(x)

    def score(self, x: Points) -> Points:
        """Score of its law."""
        return self.law.score(x)

    def hyvarinen_score(self, x: Points) -> Tensor:
        """Return that of its law."""
        return self.law.hyvarinen_score(x)

    def noised(self, scale: float, variance: float) -> Measure:
        """Return that of its law."""
        return self.law.noised(scale, variance)

    def start(self, rng: torch.Generator) -> "KernelScoreModel":
        """Return a private copy with its network built."""
        net = self._default_net if self.net is None else self.net
        return replace(self, net=build(cast(NetSource, net), rng))

    def _default_net(self) -> nn.Module:
        widths = [self.centres.shape[1], *[64] * 5]
        layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.GELU())]
        return nn.Sequential(*layers, nn.Linear(64, self.outputs)).to(self.centres.dtype)

    def snapshot(self) -> "KernelScoreModel":
        """Return a copy that later steps leave as it is."""
        return replace(self, net=copied(self.built).requires_grad_(False))

    def propose(self, rng: torch.Generator, last: Successor | None = None) -> "KernelScoreSuccessor":
        """Return a network that starts at this one's weights, or ``last`` to be trained further."""
        if last is not None:
            assert isinstance(last, KernelScoreSuccessor)
            return last
        own = self.built
        net = copied(own)
        own.requires_grad_(False)
        return KernelScoreSuccessor(net)

    def state_dict(self) -> dict[str, Any]:
        """Plain form of what moves: the weights."""
        return {"net": self.built.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore in place."""
        self.built.load_state_dict(saved["net"])


@dataclass(eq=False)
class KernelScoreSuccessor(Successor):
    """The network in training: a point of the new law has the center and the normal numbers of one of the old law."""

    net: nn.Module

    persistent = True

    def parameters(self) -> list[Tensor]:
        """Weights of the network."""
        return list(self.net.parameters())

    def couple(
        self, rho: MovingMeasure, n: int, rng: torch.Generator, latent: str = "shared"
    ) -> tuple[Particles, Particles]:
        """One draw of centers and normal numbers under both precisions; the second points carry their density and their law."""
        old = cast(KernelScoreModel, rho)
        stood = rng.get_state()
        x = old.draw(n, rng)
        if latent == "shared":
            rng.set_state(stood)
        law = old.law_of(self.net)
        y = law.pushed(n, rng)
        return x, Particles(y, log_rho=law.log_prob(y), source=law)

    def draw(self, rho: MovingMeasure, n: int, rng: torch.Generator) -> Particles:
        """Draw without gradient."""
        with torch.no_grad():
            return cast(KernelScoreModel, rho).law_of(self.net).draw(n, rng)

    def accept(self, rho: MovingMeasure, snapshot: str = "raw") -> KernelScoreModel:
        """Copy the weights into the frozen network of ``rho``."""
        old = cast(KernelScoreModel, rho)
        old.built.load_state_dict(self.net.state_dict())
        return old

    def measure(self, rho: MovingMeasure) -> KernelScoreModel:
        """View the network in training as a measure."""
        return replace(cast(KernelScoreModel, rho), net=self.net)

    def state_dict(self) -> dict[str, Any]:
        """Plain form."""
        return self.net.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore in place: the optimizer holds the same weights."""
        self.net.load_state_dict(saved)
