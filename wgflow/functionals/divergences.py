r"""f-divergences :math:`D_f(\rho|\nu)=\int f(d\rho/d\nu)\,d\nu`, model first and data second.

The rows are the entropies of the S-JKO, UOTM and GWF papers. All are centered (:math:`f(1)=0`, :math:`f^*(0)=0`,
:math:`(f^*)'(0)=1`) unless a class says otherwise. :math:`f^*(u)=\sup_{p\ge0}(pu-f(p))` is nondecreasing, and its slope
at the optimal :math:`\varphi` is the density ratio :math:`d\rho/d\nu`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count, checked
from wgflow.core.typing import Info, Points, Scalar
from wgflow.functionals.base import FUNCTIONALS, Functional, Potential, drawn, register_functional
from wgflow.functionals.energies import PotentialEnergy
from wgflow.measures import Measure, Particles, StandardNormal

LOG2 = math.log(2)
# Above this log ratio the exponential conjugates go on along their tangent: the conjugate of the same f restricted to
# p <= e^20. One misranked data point then costs a large finite gradient instead of an overflow.
LOG_RATIO_CAP = 20.0


@dataclass(frozen=True)
class FDivergence(Functional):
    r"""An f-divergence to a target, by its conjugate (samples of the target) or by its density ratio.

    Parameters
    ----------
    target : Measure
        :math:`\nu`, the data.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).

    Examples
    --------
    A divergence of one's own, :math:`f(p)=2(\sqrt p-1)^2`:

    >>> import torch
    >>> import wgflow as wg
    >>> class Hellinger(wg.FDivergence):
    ...     def f(self, p):
    ...         return 2 * (p.sqrt() - 1) ** 2
    ...
    ...     def f_star(self, u):
    ...         return 2 * u / (2 - u)
    ...
    ...     def ratio(self, u):
    ...         return 4 / (2 - u) ** 2
    >>> F, u = Hellinger(wg.StandardNormal(1)), torch.tensor(1.0)
    >>> p = F.ratio(u)
    >>> p, p * u - F.f(p) == F.f_star(u)  # the supremum of the conjugate is reached there
    (tensor(4.), tensor(True))
    """

    target: Measure
    batch: Count | None = None

    needs_density = True
    reference = ("choi2024scalable", "caucheteux2026unifying")

    def f(self, p: Tensor) -> Tensor:
        """Entropy function at the density ratio ``p >= 0``, elementwise."""
        raise Unsupported(f"{type(self).__name__} must define f")

    def f_star(self, u: Tensor) -> Tensor:
        r"""Conjugate :math:`f^*(u)`, elementwise."""
        raise Unsupported(f"{type(self).__name__} must define f_star")

    def ratio(self, u: Tensor) -> Tensor:
        r"""Slope :math:`(f^*)'(u)`: the density ratio that the potential value ``u`` stands for, elementwise."""
        raise Unsupported(f"{type(self).__name__} must define ratio")

    def perspective(self, log_r: Tensor) -> Tensor:
        r"""Return a function of :math:`\log r`, elementwise, whose mean under :math:`\rho` is :math:`D_f`.

        Here :math:`f(r)/r`. Where :math:`f(0)` is finite, :math:`(f(r)-f(0))/r+f(0)` is better: the mean of :math:`f(0)/r` is a
        constant, but that of a sample is not, and a map fitted to the sample makes use of it.
        """
        r = log_r.exp()
        return self.f(r) / r

    def value(self, rho: Particles) -> Scalar:
        r"""Return the mean of :meth:`perspective`, :math:`r=\rho/\nu` from the densities.

        Raises
        ------
        Unsupported
            When ``rho.log_rho`` is missing or the target has no density: use ``Critic``, which needs neither.
        """
        if rho.log_rho is None:
            raise Unsupported(
                f"{type(self).__name__}.value needs the density of the particles (log_rho) and it is not known. Use the "
                "Critic estimator, which needs samples only."
            )
        return rho.mean(self.perspective(rho.log_rho - self.target.log_density(rho.x)))

    def conjugate(self, phi: Potential) -> Scalar:
        r"""Return :math:`F^*(\varphi)=E_\nu f^*(\varphi)` on the target points; computed in at least float32."""
        nu = drawn(self.target)
        return nu.mean(self.f_star(phi(nu.x)))

    def diagnostics(self, net: Potential) -> Info:
        r"""Return ``mass`` :math:`=E_\nu (f^*)'(\varphi)`: 1 at the optimum, so a cheap test of how good the critic is."""
        nu = drawn(self.target)
        return {"mass": nu.mean(self.ratio(self.witness(net(nu.x))))}

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "FDivergence":
        """Return the divergence to a standard normal."""
        return cls(StandardNormal(*event_shape), batch=64)


def capped_exp(u: Tensor) -> Tensor:
    """Return e^u, continued along its tangent above the cap."""
    low = u.clamp(max=LOG_RATIO_CAP)
    return low.exp() * (1 + u - low)


@register_functional("identity")
@dataclass(frozen=True)
class Identity(FDivergence):
    r"""Hard constraint :math:`\rho=\nu`: :math:`f=0` at 1, :math:`\infty` elsewhere; :math:`f^*(u)=u`.

    Under ``JKO`` with one step it is OTM (Rout et al. 2022). Constants in the critic are undetermined and nothing bounds
    it: train with R1.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F, u = wg.Identity(wg.StandardNormal(1)), torch.tensor(3.0)
    >>> F.f_star(u), F.ratio(u)
    (tensor(3.), tensor(1.))
    """

    def f(self, p: Tensor) -> Tensor:
        """Zero at 1, infinite elsewhere."""
        return torch.where(p == 1, 0.0, torch.inf)

    def f_star(self, u: Tensor) -> Tensor:
        """Return u."""
        return u

    def ratio(self, u: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(u)


@register_functional("kl")
@dataclass(frozen=True)
class KL(FDivergence):
    r"""Kullback–Leibler :math:`\mathrm{KL}(\rho|\nu)`: :math:`f(p)=p\log p-p+1`, :math:`f^*(u)=e^u-1`.

    The ratio is unbounded: a critic that misranks data meets :math:`e^u`. Above :math:`u=20` the conjugate continues
    along its tangent. :class:`KLDonskerVaradhan` has no such term.

    Examples
    --------
    :math:`\mathrm{KL}(N(1,1)|N(0,1))=\tfrac12`, by its value at points with a density, here at 10,000 draws:

    >>> import torch
    >>> import wgflow as wg
    >>> law = wg.Gaussian(torch.ones(1), torch.eye(1))
    >>> x = law.draw(10_000, torch.Generator().manual_seed(0)).x
    >>> F = wg.KL(wg.StandardNormal(1))
    >>> round(F.value(wg.Particles(x, log_rho=law.log_prob(x))).item(), 1)
    0.5
    """

    def f(self, p: Tensor) -> Tensor:
        """Return p log p - p + 1."""
        return torch.xlogy(p, p) - p + 1

    def f_star(self, u: Tensor) -> Tensor:
        """Return e^u - 1."""
        return torch.where(u < 1, torch.expm1(u.clamp(max=1)), capped_exp(u) - 1)

    def ratio(self, u: Tensor) -> Tensor:
        """Return e^u."""
        return u.clamp(max=LOG_RATIO_CAP).exp()

    def split_entropy(self) -> tuple[Functional | None, float]:
        r"""Return :math:`(-E_\rho\log\nu, 1)` where the target has a log density; otherwise itself, whole."""
        return (PotentialEnergy(self._minus_log), 1.0) if self.target.has_density else (self, 0.0)

    def _minus_log(self, x: Points) -> Tensor:
        return -self.target.log_density(x)

    def perspective(self, log_r: Tensor) -> Tensor:
        """Return log r."""
        return log_r


@register_functional("kl_uncentred")
@dataclass(frozen=True)
class KLUncentred(KL):
    r"""The same functional from :math:`f(p)=p\log p`, :math:`f^*(u)=e^{u-1}`: the critic is shifted by 1 (GWF's ``KL``).

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> wg.KLUncentred(wg.StandardNormal(1)).f_star(torch.tensor(1.0))
    tensor(1.)
    """

    def f(self, p: Tensor) -> Tensor:
        """Return p log p."""
        return torch.xlogy(p, p)

    def f_star(self, u: Tensor) -> Tensor:
        """Return e^(u-1)."""
        return capped_exp(u - 1)

    def ratio(self, u: Tensor) -> Tensor:
        """Return e^(u-1)."""
        return (u - 1).clamp(max=LOG_RATIO_CAP).exp()


@register_functional("kl_dv")
@dataclass(frozen=True)
class KLDonskerVaradhan(KL):
    r"""KL by Donsker and Varadhan: :math:`F^*(\varphi)=\log E_\nu e^{\varphi}`, the constant of the critic optimized out.

    Never below the bound of :class:`KL` for the same critic, invariant under :math:`\varphi\to\varphi+a`, free of
    overflow, but biased for a finite batch. Source: Caucheteux et al. (2026), Eq. 11.

    Examples
    --------
    The conjugate of a constant is the constant, where that of :class:`KL` is :math:`e^a-1`:

    >>> import torch
    >>> import wgflow as wg
    >>> nu = wg.Particles(torch.zeros(4, 1))
    >>> constant = lambda x: torch.ones(len(x))
    >>> wg.KLDonskerVaradhan(nu).conjugate(constant), wg.KL(nu).conjugate(constant)
    (tensor(1.), tensor(1.7183))
    """

    def conjugate(self, phi: Potential) -> Scalar:
        r"""Return :math:`\log\sum_j w_j e^{\varphi(y_j)}`."""
        nu = drawn(self.target)
        return torch.logsumexp(phi(nu.x) + nu.log_weights, 0)

    def diagnostics(self, net: Potential) -> Info:
        """Return nothing: the weights are a softmax, so their mass is always 1."""
        return {}


@checked
def entropy(name: str, target: Measure, batch: Count | None = None) -> FDivergence:
    r"""Return the f-divergence with a registered name.

    Parameters
    ----------
    name : str
        Such as ``"kl"``, ``"softplus"`` or ``"js_nonsat"``.
    target : Measure
        :math:`\nu`.
    batch : int, optional
        As for :class:`FDivergence`.

    Returns
    -------
    FDivergence
        From the registry ``FUNCTIONALS``.

    Raises
    ------
    BadInput
        For a name that nothing has, or a functional of another kind.

    Examples
    --------
    >>> import wgflow as wg
    >>> entropy("chi2", wg.StandardNormal(2))
    Chi2(target=StandardNormal(2))
    """
    cls = FUNCTIONALS[name]
    if not issubclass(cls, FDivergence):
        known = [n for n in FUNCTIONALS if issubclass(FUNCTIONALS[n], FDivergence)]
        raise BadInput(f"{name!r} is not an f-divergence; expected one of {', '.join(known)}")
    return cls(target, batch)
