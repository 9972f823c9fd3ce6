r"""The flow of a quadratic energy and the entropy on Gaussians: exact, and what every time discretization makes of it.

Everything is a formula in a mean and a covariance: no sampling, no training, float64 unless the tensors say otherwise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, NonNegative, checked
from wgflow.core.finite import require_finite
from wgflow.core.typing import Points, Scalar
from wgflow.measures import Gaussian
from wgflow.reference.gaussian import Moments, inverse, log_det, symmetric_root


@dataclass(frozen=True, eq=False)
class OrnsteinUhlenbeck(Checked):
    r"""The energy :math:`F(\rho)=\tfrac12E[(x-m_*)^\top A(x-m_*)]+\tau E\log\rho` on Gaussians.

    With :math:`\tau=1` and A positive definite it is :math:`\mathrm{KL}(\rho|N(m_*,A^{-1}))` up to a constant, with :math:`\tau=0` a
    potential alone, with A = 0 the heat flow. Its law at time t is that of :math:`dX=-A(X-m_*)dt+\sqrt{2\tau}\,dB`.

    Parameters
    ----------
    A : Tensor, shape (d, d)
        Symmetric, of any sign.
    center : Tensor, shape (d,)
        :math:`m_*`.
    temperature : float
        :math:`\tau\ge0`.

    Raises
    ------
    BadInput
        For mismatched shapes, an A that is not symmetric, or a negative temperature.

    Examples
    --------
    >>> import torch
    >>> flow = OrnsteinUhlenbeck.towards(Gaussian(torch.zeros(1), torch.eye(1)))
    >>> start = Moments(torch.tensor([2.0]), torch.tensor([[4.0]]))
    >>> flow.exact(start, 1.0).mean, flow.jko(start, 1.0).mean
    (tensor([0.7358]), tensor([1.]))
    """

    A: Tensor
    center: Tensor
    temperature: NonNegative = 1.0

    def __post_init__(self) -> None:
        require_finite("OrnsteinUhlenbeck", A=self.A, center=self.center)
        d = self.center.shape
        if (
            len(d) != 1
            or self.A.shape != (*d, *d)
            or not torch.allclose(self.A, self.A.mT, atol=1e-8 * float(self.A.abs().max()))
        ):
            raise BadInput(
                f"OrnsteinUhlenbeck: expected center (d,) and a symmetric A (d, d), got {tuple(d)} and {tuple(self.A.shape)}"
            )

    @classmethod
    def towards(cls, target: Gaussian) -> "OrnsteinUhlenbeck":
        """Return the flow of KL to a Gaussian."""
        A = torch.linalg.inv(target.cov)
        return cls((A + A.mT) / 2, target.mean)

    @checked
    def exact(self, p: Moments, t: NonNegative) -> Moments:
        r"""Return the law at time t: :math:`m=m_*+E(m_0-m_*)`, :math:`C=EC_0E+2\tau\int_0^te^{-2sA}ds`, :math:`E=e^{-tA}`."""
        a, U = torch.linalg.eigh(self.A)
        E = (U * (-t * a).exp()) @ U.mT
        grown = torch.where(a == 0, torch.full_like(a, t), -torch.expm1(-2 * t * a) / (2 * a))
        return Moments(
            self.center + E @ (p.mean - self.center), E @ p.cov @ E + 2 * self.temperature * (U * grown) @ U.mT
        )

    @checked
    def jko(self, p: Moments, h: NonNegative) -> Moments:
        r"""Return the exact JKO step, the minimizer over all measures.

        With :math:`B=I+hA`, :math:`M=B^{-1/2}CB^{-1/2}` and :math:`g=h\tau`: :math:`m^+=B^{-1}(m+hAm_*)` and
        :math:`C^+=\tfrac12B^{-1/2}(M+2gI+(M^2+4gM)^{1/2})B^{-1/2}`. A and C need not commute; C may be singular.

        Raises
        ------
        BadInput
            When B is not positive definite: then the step has no minimizer.
        """
        B = self._eye + h * self.A
        if not bool(torch.linalg.eigvalsh(B)[0] > 0):
            raise BadInput(f"h={h}: the JKO step needs I + h A positive definite; take a smaller step")
        inverse = torch.linalg.inv(symmetric_root(B))
        cov = inverse @ self._entropy_step(inverse @ p.cov @ inverse, h) @ inverse
        return Moments(torch.linalg.solve(B, p.mean + h * self.A @ self.center), cov)

    @checked
    def forward_backward(self, p: Moments, h: NonNegative) -> Moments:
        """Return the step that is explicit in the potential and exactly proximal in the entropy."""
        q = self._potential_step(p, h)
        return Moments(q.mean, self._entropy_step(q.cov, h))

    @checked
    def forward_euler(self, p: Moments, h: NonNegative) -> Moments:
        r"""Return the explicit step along the exact velocity, :math:`G=I-h(A-\tau C^{-1})`; unstable when :math:`h\lambda_{\max}(A)>1`."""
        G = self._eye - h * (self.A - self._thermal(p))
        return Moments(p.mean - h * self.A @ (p.mean - self.center), G @ p.cov @ G.mT)

    @checked
    def langevin(self, p: Moments, h: NonNegative) -> Moments:
        r"""Return the law after a step of the unadjusted Langevin algorithm; stationary at covariance :math:`\tau[A(I-hA/2)]^{-1}`."""
        q = self._potential_step(p, h)
        return Moments(q.mean, q.cov + 2 * h * self.temperature * self._eye)

    @checked
    def wasserstein_proximal(self, p: Moments, time: NonNegative, metric: Tensor | None = None) -> Moments:
        r"""Return the regularized Wasserstein proximal of the potential over a time T, with noise of the temperature.

        .. math:: m_T=m_*+P(m-m_*),\qquad C_T=PCP^\top+2\tau T\,PM,\qquad P=(I+TMA)^{-1},

        with M = I unless a metric is given. From the stationary law of :meth:`brwp` it leads to the target :math:`\tau A^{-1}` itself.

        Raises
        ------
        BadInput
            When :math:`M^{-1}+TA` is not positive definite: no kernel can be normalized then.
        """
        M = self._eye if metric is None else metric
        precision = inverse(M, "the metric of a proximal") + time * self.A
        if not bool(torch.linalg.eigvalsh(precision)[0] > 0):
            raise BadInput(f"time={time}: the proximal needs I + T A positive definite; take a shorter time")
        spread = torch.linalg.inv(precision)  # PM, symmetric
        P = self._eye - time * spread @ self.A
        return Moments(
            self.center + P @ (p.mean - self.center), P @ p.cov @ P.mT + 2 * self.temperature * time * spread
        )

    @checked
    def brwp(self, p: Moments, h: NonNegative, time: NonNegative, metric: Tensor | None = None) -> Moments:
        r"""Return the explicit step along :math:`-M(\nabla V+\tau\nabla\log\rho_T)`, the score taken from the proximal over a time T.

        Infinitely many particles of ``ForwardEuler(ProximalScore(time))`` go so. Stationary at the covariance
        :math:`\tau(A^{-1}-T^2MAM)` for every stable h; that is positive where T is below the inverse of every eigenvalue of MA.
        """
        q = self.wasserstein_proximal(p, time, metric)
        M = self._eye if metric is None else metric
        thermal = self._thermal(q)
        G = self._eye - h * M @ (self.A - thermal)
        mean = p.mean - h * M @ (self.A @ (p.mean - self.center) - thermal @ (p.mean - q.mean))
        return Moments(mean, G @ p.cov @ G.mT)

    def velocity(self, p: Moments, x: Points) -> Points:
        r"""Return :math:`-A(x-m_*)+\tau C^{-1}(x-m)`, (n, d)."""
        return -(x - self.center) @ self.A + (x - p.mean) @ self._thermal(p)

    def energy(self, p: Moments) -> Scalar:
        r"""Return :math:`F` of the Gaussian, without the constant :math:`\tau\log Z`."""
        r = p.mean - self.center
        quadratic = 0.5 * ((self.A @ p.cov).trace() + r @ self.A @ r)
        if self.temperature == 0:
            return quadratic
        log_2_pi_e = 2.8378770664093453
        return quadratic - 0.5 * self.temperature * (log_det(p.cov) + len(r) * log_2_pi_e)

    def fisher(self, p: Moments) -> Scalar:
        r"""Return the dissipation :math:`E|\nabla\frac{\delta F}{\delta\rho}|^2=-\frac{dF}{dt}`; for KL the relative Fisher information.

        After an exact JKO step it equals :math:`W_2^2(\rho_k,\rho_{k+1})/h^2`.
        """
        G = self.A - self._thermal(p)
        return (G @ p.cov @ G).trace() + (self.A @ (p.mean - self.center)).square().sum()

    @property
    def _eye(self) -> Tensor:
        return torch.eye(len(self.center)).to(self.A)

    def _thermal(self, p: Moments) -> Tensor:
        """Slope of minus the entropy's velocity: temperature over covariance."""
        if self.temperature == 0:
            return torch.zeros_like(p.cov)
        return self.temperature * inverse(p.cov, "the velocity of an entropy")

    def _potential_step(self, p: Moments, h: float) -> Moments:
        G = self._eye - h * self.A
        return Moments(p.mean - h * self.A @ (p.mean - self.center), G @ p.cov @ G)

    def _entropy_step(self, M: Tensor, h: float) -> Tensor:
        # Eigenvalue by eigenvalue: squares of M would lose its small ones.
        g = h * self.temperature
        values, vectors = torch.linalg.eigh((M + M.mT) / 2)
        values = values.clamp(min=0)
        return (vectors * (0.5 * (values + 2 * g + (values * (values + 4 * g)).sqrt()))) @ vectors.mT
