r"""The mean-field game of the regularized Wasserstein proximal, solved on a grid by two convolutions with Gaussians."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Positive
from wgflow.core.outputs import number, per_point
from wgflow.core.typing import Points
from wgflow.measures.grid import Grid
from wgflow.numerics.softmin import displacement, softmin

# Sums over cells of width dx are integrals up to 2 exp(-2 (pi s / dx)²), where s is the standard deviation of the kernel.
_CELLS = 1.25
_LEAK = 1e-6
_NOTHING = -1e30  # the log of no mass: finite, so that differences of two of them are numbers


@dataclass(frozen=True, eq=False)
class MeanFieldGame(Checked):
    r"""The regularized Wasserstein proximal of a potential energy as what it is: the end of an optimal control of laws.

    .. math:: \min_{\rho,v}\int_0^T\!\!\int\tfrac12|v|^2\rho\,dx\,dt+\int V\rho_T\,dx,\qquad
       \partial_t\rho+\nabla\cdot(\rho v)=\tau\Delta\rho,\quad\rho_0\text{ given}.

    Its optimum is :math:`v=\nabla\Phi`, where :math:`\Phi` solves the backward Hamilton–Jacobi–Bellman equation
    :math:`\partial_t\Phi+\tfrac12|\nabla\Phi|^2=-\tau\Delta\Phi` from :math:`\Phi_T=-V`. The substitution of Cole and Hopf makes heat
    equations of both, :math:`\rho=\eta\hat\eta` with

    .. math:: \eta_t=e^{\Phi_t/2\tau}=G_{T-t}*e^{-V/2\tau},\qquad\hat\eta_t=G_t*\frac{\rho_0}{\eta_0},\qquad G_s=N(0,2\tau sI).

    Parameters
    ----------
    potential : callable
        :math:`V`, the cost of the end, from (n, d) to (n,). Infinity is allowed: no mass ends there. Differentiable where the
        velocity at T is asked for.
    start : Grid
        :math:`\rho_0`, with one, two or three coordinates. Its box must hold the flow: V counts as infinite outside.
    time : float
        :math:`T`.
    temperature : float
        :math:`\tau`, the papers' :math:`\beta`: half the variance of the noise in a unit of time. The flow that this is near to, for
        small T, goes to :math:`e^{-V/\tau}`.

    Raises
    ------
    BadInput
        When cells are wider than the noise, or more than 1e-6 of the mass is outside of the box at half time.

    Notes
    -----
    All in logarithms and in float64, so tails keep their relative precision. The kernel of the heat equation is a product over
    coordinates: a convolution costs n numbers times the number of cells along each axis. For smooth V and :math:`\rho_0` the error in space
    falls faster than any power of the spacing; there is none in time. Sources: Li, Liu and Osher (2023); the substitution is by
    Cole and Hopf.

    With :math:`V=-2\tau\log\pi` this is the mean-field game of score-based generation (Zhang et al. 2024): from the smoothed law
    :math:`\pi*G_T` it ends at :math:`\pi`, and :math:`\nabla\Phi_t=2\tau\nabla\log(\pi*G_{T-t})`, the drift of the reverse-time SDE.

    Examples
    --------
    >>> import torch
    >>> start = Grid.of(lambda x: -x[:, 0].square() / 5, low=[-12.0], high=[12.0], shape=[200])
    >>> game = MeanFieldGame(lambda x: 0.65 * x[:, 0].square(), start, time=0.4, temperature=0.7)
    >>> end = game.law(0.4).nodes()
    >>> round(float(end.mean(end.x[:, 0].square())), 6)  # 2.5 / 1.52² + 0.56 / 1.52
    1.450485
    """

    potential: Callable[[Points], Tensor]
    start: Grid
    time: Positive
    temperature: Positive

    def __post_init__(self) -> None:
        self._resolved(self.time / 2)
        leak = abs(1 - self.mass(self.time / 2))
        if not leak < _LEAK:
            raise BadInput(
                f"MeanFieldGame: at half time {leak:.2g} of the mass is outside of the box from {self.start.low} to {self.start.high}, "
                f"allowed is {_LEAK:g}: paths of standard deviation {self._width(self.time / 2):.3g} leave it. Use a wider box"
            )

    def density(self, t: float) -> Tensor:
        r"""Return :math:`\rho_t` at the nodes, in the shape of the grid."""
        at_end = self.time - self._admitted(t)
        return (self._heated(self._log_terminal, at_end) + self._heated(self._log_initial, t)).exp()

    def law(self, t: float) -> Grid:
        r"""Return :math:`\rho_t` as a measure; :math:`\rho_T` is the regularized Wasserstein proximal of the start."""
        return Grid(self.density(t), self.start.low, self.start.high)

    def mass(self, t: float) -> float:
        """Return the mass in the box at time t: 1 at both ends, in between 1 up to what makes an excursion."""
        return float(self.density(t).sum()) * self.start.volume

    def value_function(self, t: float) -> Tensor:
        r"""Return :math:`\Phi_t` at the nodes, in the shape of the grid; :math:`-\Phi_t(x)` is the cost still to come from x."""
        return 2 * self.temperature * self._heated(self._log_terminal, self.time - self._admitted(t))

    def velocity(self, x: Points, t: float) -> Points:
        r"""Return the optimal control :math:`\nabla\Phi_t` at any points (n, d): a mean of places of arrival, no differences.

        .. math:: \nabla\Phi_t(x)=\frac{E[X_T|X_t=x]-x}{T-t}.
        """
        left = self.time - self._admitted(t)
        if x.shape[1:] != self.start.event_shape:
            raise BadInput(
                f"MeanFieldGame: the grid has points of shape {tuple(self.start.event_shape)}, and these are {tuple(x.shape)}"
            )
        if left == 0:
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                V = per_point(self.potential, x, "a potential")
                return -torch.autograd.grad(V.sum(), x)[0]
        nodes, h = self.start.points.double(), self._log_terminal.reshape(1, -1)
        away = displacement(2 * self.temperature * left, x.detach().double()[None], nodes[None], h)[0]
        return (-away / left).to(x)

    @cached_property
    def cost(self) -> float:
        r"""The optimal value, :math:`-\int\Phi_0\rho_0=-2\tau\int\rho_0(y)\log E_{z\sim N(y,2\tau TI)}e^{-V(z)/2\tau}\,dy`."""
        return -float((self.start.mass.double() * self.value_function(0.0)).sum())

    @cached_property
    def _log_terminal(self) -> Tensor:
        """Log of exp(-V / 2 temperature) at the nodes."""
        x = self.start.points.double()
        V = per_point(self.potential, x, "a potential").detach().double()
        if not float(V.min()) < math.inf:  # NaN is not, nor is a V that is infinite everywhere
            raise BadInput(
                f"MeanFieldGame: the potential must be a number at one node at least, its least value is {float(V.min())}"
            )
        return (-V / (2 * self.temperature)).clamp(min=_NOTHING).view(self.start.mass.shape)

    @cached_property
    def _log_initial(self) -> Tensor:
        """Log of the start over eta at time 0."""
        log_rho = self.start.log_rho.double().clamp(min=_NOTHING).view(self.start.mass.shape)
        return log_rho - self._heated(self._log_terminal, self.time)

    def _heated(self, log_f: Tensor, s: float) -> Tensor:
        r"""Return :math:`\log(G_s*f)` at the nodes, one axis after the other."""
        if s == 0:
            return log_f
        eps = 2 * self.temperature * s
        for i, (axis, dx) in enumerate(zip(self.start.axes, self.start.spacing, strict=True)):
            x = (axis - axis.mean()).double()[None, :, None]
            lines = log_f.movedim(i, -1)
            flat = lines.reshape(-1, len(axis))
            x = x.expand(len(flat), -1, -1)
            out = -softmin(eps, x, x, flat) / eps + math.log(dx) - 0.5 * math.log(2 * math.pi * eps)
            log_f = out.view(lines.shape).movedim(-1, i)
        return log_f

    def _admitted(self, t: float) -> float:
        """Check a time."""
        t = number(t, "MeanFieldGame: a time")
        if not 0 <= t <= self.time:
            raise BadInput(f"MeanFieldGame: t={t} is not between 0 and the time {self.time}")
        for s in (t, self.time - t):
            if s > 0:
                self._resolved(s)
        return t

    def _width(self, s: float) -> float:
        return math.sqrt(2 * self.temperature * s)

    def _resolved(self, s: float) -> None:
        widest = max(self.start.spacing)
        if not self._width(s) >= _CELLS * widest * (1 - 1e-9):
            least = (_CELLS * widest) ** 2 / (2 * self.temperature)
            raise BadInput(
                f"MeanFieldGame: the noise of a time {s:.3g} has the standard deviation {self._width(s):.3g}, cells of width "
                f"{widest:.3g} do not resolve it. Take cells of at most {self._width(s) / _CELLS:.3g}, or times at least {least:.3g} "
                "from both ends, or the ends themselves"
            )
