"""Energies that need no target: potential, interaction and internal energy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Positive, checked
from wgflow.core.networks import called
from wgflow.core.outputs import per_point, same_shape
from wgflow.core.typing import Points, Scalar
from wgflow.functionals.base import Functional, register_functional
from wgflow.kernels import Kernel, PowerLaw
from wgflow.kernels.densities import DensityModel
from wgflow.kernels.sums import kernel_energy
from wgflow.measures import Particles
from wgflow.numerics.once import known_slope
from wgflow.numerics.pairs import pair_energy


@register_functional("potential")
@dataclass(frozen=True)
class PotentialEnergy(Functional):
    r"""The potential energy :math:`F(\rho)=\int V\,d\rho`; its first variation is :math:`V`.

    Parameters
    ----------
    potential : callable
        :math:`V`, from (n, \*event) to (n,), differentiable.
    proximal : callable, optional
        :math:`(x,h)\mapsto\operatorname*{argmin}_y|x-y|^2/2h+V(y)`, from (n, \*event) to the same, for ``Proximal``.

    Examples
    --------
    >>> import torch
    >>> V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> V.value(Particles(torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
    tensor(2.5000)
    """

    potential: Callable[[Points], Tensor]
    proximal: Callable[[Points, float], Points] | None = None

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`\sum_i w_i V(x_i)`.

        Raises
        ------
        BadInput
            When the potential does not return one number a particle.
        """
        return rho.mean(self.at_points(rho.x))

    def at_points(self, x: Points) -> Tensor:
        """Return :math:`V` at points, shape (n,); raises ``BadInput`` when the potential returns anything else."""
        if isinstance(getattr(self.potential, "__self__", None), Functional):
            return self.potential(x)  # one of ours, such as -log π, has been checked where it was asked for
        return per_point(self.potential, x, "a potential")

    def can(self, method: str) -> bool:
        """Whether this one does: a proximal map must have been given."""
        return super().can(method) and (method != "prox" or self.proximal is not None)

    def prox(self, rho: Particles, h: float) -> Points:
        """Return the given proximal map; every particle by itself.

        Raises
        ------
        BadInput
            When it returns another shape, or changes the points in place.
        """
        proximal = self.proximal
        if proximal is None:
            return super().prox(rho, h)
        with torch.no_grad():
            y = called(lambda x: proximal(x, h), "a proximal map", rho.x)
        return same_shape(y, rho.x, "a proximal map")

    @checked
    def envelope(self, time: Positive) -> "PotentialEnergy":
        r"""Return the Moreau envelope, smooth also where V has kinks: the energy of :math:`V_T(x)=\min_yV(y)+|x-y|^2/2T`.

        Its slope is :math:`(x-\operatorname{prox}_{TV}(x))/T`; a second derivative is refused. A sampler that needs gradients takes it
        in the place of V; with ``Langevin`` that is MYULA, under ``ProximalScore(T)`` it is the proximal term of the splitting of Han,
        Osher and Li (2025).

        Parameters
        ----------
        time : float
            T. The envelope is at most V, and for a V with the Lipschitz constant L within :math:`TL^2/2` of it.

        Raises
        ------
        Unsupported
            Without a proximal map.

        Examples
        --------
        >>> import torch
        >>> g = PotentialEnergy(lambda x: x.abs().sum(1), proximal=lambda x, h: x.sign() * (x.abs() - h).clamp(min=0))
        >>> g.envelope(0.5).at_points(torch.tensor([[2.0], [0.1]]))  # |x| - T/2 away from the kink, x²/2T at it
        tensor([1.7500, 0.0100])
        """
        if self.proximal is None:
            raise Unsupported("an envelope is made of the proximal map: PotentialEnergy(V, proximal=...)")

        def near(x: Points, h: float) -> Points:
            return self.prox(Particles(x.detach()), h)

        def potential(x: Points) -> Tensor:
            y = near(x, time)
            with torch.no_grad():
                value = self.at_points(y) + (x - y).square().flatten(1).sum(1) / (2 * time)
            return known_slope(x, value, (x - y).detach() / time)

        return PotentialEnergy(potential, lambda x, h: x + h / (h + time) * (near(x, h + time) - x))

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "PotentialEnergy":
        """Return the quadratic potential."""
        return cls(lambda x: 0.5 * x.flatten(1).square().sum(1))


@register_functional("interaction")
@dataclass(frozen=True)
class InteractionEnergy(Functional):
    r"""The interaction energy :math:`F(\rho)=\tfrac12\iint W(x-y)\,d\rho\,d\rho`; its first variation is :math:`W*\rho`.

    Parameters
    ----------
    potential : Kernel or callable
        :math:`W`: a radial one (``PowerLaw``, ``Logarithmic``, ``Morse``, sums of them), or any even function from
        differences (n, m, \*event) to (n, m).

    Notes
    -----
    The ½ is in: with :math:`W=\tfrac c2|z|^2`, that is ``c * PowerLaw(2)``, the velocity is :math:`-c(x-\bar x)`. A pair at the
    same place contributes :math:`W(0)`, which is 0 for a kernel that is singular there, and no force.

    Cost: n²/2 kernel values, memory O(n); n² and one block of W's graph for a callable. Source: McCann (1997).

    Raises
    ------
    BadInput
        When a callable does not return one number a pair.

    Examples
    --------
    Of the ordered pairs of two particles two are at distance 3, each of weight 1/4: :math:`\tfrac12\cdot\tfrac12\cdot\tfrac92`.

    >>> import torch
    >>> import wgflow as wg
    >>> rho = wg.Particles(torch.tensor([[0.0], [3.0]]))
    >>> InteractionEnergy(wg.PowerLaw(2.0)).value(rho)
    tensor(1.1250)
    """

    potential: Kernel | Callable[[Tensor], Tensor]
    reference = ("mccann1997convexity",)

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`\tfrac12\sum_{ij}w_iw_jW(x_i-x_j)`."""
        if isinstance(self.potential, Kernel):
            return 0.5 * kernel_energy(self.potential.fit(rho.x, rho.log_w), rho.x, rho.w).to(rho.x.dtype)
        return 0.5 * pair_energy(self._block, [rho.x], rho.w, [rho.x], rho.w)

    def _block(self, x: Points, y: Points) -> Tensor:
        # A Kernel does not come here.
        return per_point(self.potential, x[:, None] - y, "an interaction", axes=2)  # type: ignore[arg-type]

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "InteractionEnergy":
        """Return attraction and repulsion, without a singularity."""
        return cls(PowerLaw(4) + (-1.0) * PowerLaw(2))


@dataclass(frozen=True)
class _Internal(Functional):
    density: DensityModel | None = None

    @property
    def needs_density(self) -> bool:  # type: ignore[override]
        """Whether the particles must carry their density."""
        return self.density is None

    def _expect(self, rho: Particles, f: Callable[[Tensor], Tensor]) -> Scalar:
        if self.density is not None:
            return self.density.expect(rho, f)
        if rho.log_rho is None:
            raise Unsupported(
                f"{type(self).__name__} needs the density of the particles (log_rho) and it is not known. Give it a model, "
                "density=KernelDensity(RBF(bandwidth)), or use Blob, KDEScore, Stein or Langevin, which handle an entropy."
            )
        return rho.mean(f(rho.log_rho))


@register_functional("entropy")
@dataclass(frozen=True)
class Entropy(_Internal):
    r"""The (negative) entropy :math:`F(\rho)=\int\rho\log\rho`; its flow is the heat equation :math:`\partial_t\rho=\Delta\rho`.

    Parameters
    ----------
    density : DensityModel, optional
        Where the log density comes from: ``KernelDensity(kernel)`` (the mollified entropy
        :math:`\int\log(K_\varepsilon*\rho)\,d\rho` of blob methods) or ``Spacings()`` (one dimension). None reads ``rho.log_rho``.

    Notes
    -----
    Without a density model, ``Langevin``, ``Stein``, ``Blob``, ``KDEScore`` and ``LearnedScore`` treat it by other means. With
    one, its value is an exact function of the particles, so that every solver minimizes it.

    Examples
    --------
    The uniform law on [0, 2] has :math:`\int\rho\log\rho=-\log2`:

    >>> import torch
    >>> import wgflow as wg
    >>> x = torch.linspace(0, 2, 100)[:, None]
    >>> Entropy(wg.Spacings()).value(wg.Particles(x))
    tensor(-0.6931)
    """

    reference = ("jordan1998variational", "carrillo2019blob")

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`E_\rho\log\rho`."""
        return self._expect(rho, lambda log_rho: log_rho)

    def split_entropy(self) -> tuple[Functional | None, float]:
        """Return (None, 1): nothing but entropy; itself, when the density is modeled."""
        return (None, 1.0) if self.density is None else (self, 0.0)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "Entropy":
        """Return the entropy of a known density."""
        return cls()


@register_functional("power_entropy")
@dataclass(frozen=True)
class PowerEntropy(_Internal):
    r"""The power-law internal energy :math:`F(\rho)=\frac1{m-1}\int\rho^m`; its flow is :math:`\partial_t\rho=\Delta\rho^m`.

    Porous medium for :math:`m>1`, fast diffusion for :math:`m<1`; :math:`m\to1` is :class:`Entropy` up to a constant.

    Parameters
    ----------
    density : DensityModel, optional
        As for :class:`Entropy`.
    m : float
        The exponent, positive and not 1.

    Raises
    ------
    BadInput
        For another exponent.

    Examples
    --------
    The uniform law on [0, 2] has :math:`\int\rho^2=\tfrac12`:

    >>> import torch
    >>> import wgflow as wg
    >>> x = torch.linspace(0, 2, 100)[:, None]
    >>> PowerEntropy(wg.Spacings(), m=2.0).value(wg.Particles(x))
    tensor(0.5000)
    """

    m: Positive = 2.0
    reference: ClassVar[tuple[str, ...]] = ("otto2001geometry", "carrillo2019blob")

    def __post_init__(self) -> None:
        if self.m == 1:
            raise BadInput(
                f"PowerEntropy(m={self.m}): expected a positive exponent other than 1 (that limit is Entropy)"
            )

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`\frac1{m-1}E_\rho[\rho^{m-1}]`."""
        return self._expect(rho, lambda log_rho: ((self.m - 1) * log_rho).exp()) / (self.m - 1)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "PowerEntropy":
        """Return the porous medium energy of a known density."""
        return cls()
