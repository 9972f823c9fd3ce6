r"""The JKO scheme on a grid, with entropic transport: what is minimised is a function of the masses, by matrix scaling."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from wgflow._fields import Count, Positive
from wgflow._typing import Info
from wgflow.errors import BadInput, Incompatible
from wgflow.estimators import Autograd, Estimator
from wgflow.functionals import Functional, PowerEntropy, Scaled, Sum
from wgflow.functionals.algebra import linear_part
from wgflow.measures import MovingMeasure, Particles
from wgflow.measures.grid import Grid
from wgflow.solvers.base import Solver, State, advance, register_solver

_BLOCK = 2**22
"""Numbers in one block of a log-domain convolution."""
_CHECK = 4
"""Scaling iterations between two looks at the residual."""


@dataclass(eq=False)
class EntropicState(State):
    """A state with the scaling of the last step, from which the next one starts."""

    log_b: Tensor = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Parts:
    r"""A functional taken apart: :math:`F=\int V\rho+T\int\rho\log\rho+\frac c{m-1}\int\rho^m+G`."""

    potential: Functional | None
    temperature: float
    powers: tuple[tuple[float, float], ...]
    rest: Functional | None

    @classmethod
    def of(cls, F: Functional) -> "Parts":
        """Take ``F`` apart."""
        energy, temperature = F.split_entropy()
        linear, powers, rest = [], [], []
        for c, term in [] if energy is None else _terms(energy):
            scaled = term if c == 1 else Scaled(c, term)
            if linear_part(term) is not None:
                linear.append(scaled)
            elif isinstance(term, PowerEntropy) and term.density is None:
                powers.append((c, term.m))
            else:
                rest.append(scaled)
        together = lambda fs: None if not fs else fs[0] if len(fs) == 1 else Sum.of(*fs)  # noqa: E731
        return cls(together(linear), temperature, tuple(powers), together(rest))


def _terms(F: Functional, c: float = 1.0) -> list[tuple[float, Functional]]:
    if isinstance(F, Scaled):
        return _terms(F.term, c * F.c)
    if isinstance(F, Sum):
        return [pair for term in F.terms for pair in _terms(term, c)]
    return [(c, F)]


@register_solver("entropic_jko")
@dataclass(frozen=True)
class EntropicJKO(Solver):
    r"""One JKO step on a :class:`Grid`, with :math:`W_2^2/2` replaced by entropic transport of strength :math:`\gamma=\text{blur}^2`.

    .. math::
        \rho_{k+1}=\operatorname*{argmin}_\rho\ \min_{\pi:\,\rho_k\to\rho}\Bigl\{E_\pi\tfrac12|x-y|^2
        +\gamma\,\mathrm{KL}(\pi|\rho_k\otimes dy)\Bigr\}-\tfrac\gamma2\int\rho\log\rho+hF(\rho).

    The plan is :math:`a(x)K(x,y)b(y)` with a Gaussian kernel of standard deviation ``blur``; a and b are found by alternation, the one
    from the marginal :math:`\rho_k`, the other from the proximal map of the rest, cell by cell, in the log domain.

    Potential energies, entropies and one power entropy (``PowerEntropy(m)``, also KL to a density) are treated implicitly and
    exactly. Any other part G of the functional (interactions, distances to samples) enters through its first variation at
    :math:`\rho_k`, from the estimator: explicit, of the same order 1 in h, with the same steady states.

    Parameters
    ----------
    blur : float
        Standard deviation of the kernel, a length. At least 3/4 of the spacing of the grid.
    debias : bool
        Whether the term :math:`-\frac\gamma2\int\rho\log\rho` is there. Entropic transport alone (False: Peyré 2015) spreads every
        step by a variance of :math:`\gamma`, that is it adds a temperature of :math:`\gamma/2h` to the functional, which the term takes
        back; what is left is of order :math:`\gamma^2`. So :math:`\gamma` need not be much smaller than h.
    tolerance : float
        Mass that the two conditions on the plan may disagree by, at least 1000 roundings; the mass is conserved to rounding
        anyway. Use float64: logarithms of small masses are large.
    max_iter : int
        Scaling iterations of one step.
    estimator : Estimator
        Of G's first variation; one that ``gives_potential``.

    Raises
    ------
    Incompatible
        From ``init``, for a measure that is not a Grid.
    BadInput
        For a kernel narrower than the cells, or an infinite step.

    Notes
    -----
    No mass leaves the box: its boundary reflects. An iteration costs two convolutions, :math:`2N\sum_in_i` products for
    :math:`N=\prod_in_i` cells (and exponentials on lines where the range of a float is exceeded). Their number, some tens,
    grows like :math:`\sqrt{h/\gamma}`, thanks to a heavy ball; alternation alone takes :math:`h/\gamma` and, for a debiased step of a
    potential without entropy, does not converge. Memory O(N). Waits for the device. Reports ``entropic/iterations`` and
    ``entropic/residual``, the disagreement that was left.

    Sources: Peyré (2015) for the scheme; that entropic transport costs :math:`\frac\gamma2\int\rho\log\rho` to first order is classical.

    Examples
    --------
    >>> from wgflow import KL, Gaussian, solve
    >>> import torch
    >>> pi = Gaussian(torch.zeros(1).double(), torch.eye(1).double())
    >>> start = Grid.of(lambda x: -2 * (x[:, 0] - 1) ** 2, low=[-6], high=[6], shape=[120])
    >>> p = solve(KL(pi), EntropicJKO(blur=0.15), start, step_size=0.1, num_steps=10).measure.nodes()
    >>> round(float(p.mean(p.x[:, 0])), 3), round(1.1**-10, 3)
    (0.386, 0.386)
    """

    blur: Positive
    debias: bool = True
    tolerance: Positive = 1e-9
    max_iter: Count = 10000
    estimator: Estimator = field(default_factory=Autograd)

    order = 1
    implicit = True
    reference = ("jordan1998variational", "peyre2015entropic")

    def refuses(self, F: Functional) -> str | None:
        """Refuse what no proximal map is known of and no first variation can be had of."""
        parts = Parts.of(F)
        if len(parts.powers) > 1:
            return "EntropicJKO knows the proximal map of one PowerEntropy, and there are several. Keep one of them."
        if parts.rest is not None and (parts.rest.needs_density or not parts.rest.can("value")):
            return (
                f"EntropicJKO needs a potential, an entropy, a PowerEntropy or something with a value that needs no density, and "
                f"{type(parts.rest).__name__} is none of them. Use a kernel distance such as SquaredMMD, or particles."
            )
        if not self.estimator.gives_potential:
            return f"EntropicJKO needs first variations, and {type(self.estimator).__name__} has only their gradients. Use Autograd()."
        return None

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Return why this solver cannot move ``measure`` and what to use instead; or None."""
        if isinstance(measure, Grid):
            return None
        return (
            f"EntropicJKO moves the masses of a Grid, not a {type(measure).__name__}: start from Grid.of(density, low, high, shape), "
            "or use JKO."
        )

    @classmethod
    def example(cls, estimator: Estimator) -> "EntropicJKO":
        """Return one for cells of edge 1 at most."""
        return cls(blur=0.75, estimator=estimator)

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> EntropicState:
        """Return the state before the first step."""
        refused = self.refuses_measure(measure)
        if refused is not None:
            raise Incompatible(refused)
        assert isinstance(measure, Grid)
        if self.blur < 0.75 * max(measure.spacing):
            raise BadInput(
                f"EntropicJKO(blur={self.blur}): the kernel must be at least 3/4 of a cell wide, and cells are {measure.spacing}. Take "
                "more cells, or more blur."
            )
        s = super().init(F, measure, rng)
        return EntropicState(s.measure, s.k, s.t, s.rng, s.estimator, torch.zeros_like(measure.mass))

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Complete one time step."""
        assert isinstance(state, EntropicState)
        assert isinstance(state.measure, Grid)
        if math.isinf(h):
            raise BadInput("step_size=inf: EntropicJKO needs a finite step")
        grid = state.measure
        parts = Parts.of(F.at(state.k, state.t))
        V, info = self._linear(parts, state, grid)
        prox = _Prox(self.blur**2, self.debias, h, V, parts)
        blur = _Blur(grid, self.blur)
        with torch.no_grad():
            log_q, log_b = grid.log_rho.view_as(grid.mass), state.log_b
            tolerance = max(self.tolerance, 1e3 * torch.finfo(log_q.dtype).eps)
            relax, momentum = prox.acceleration(float(log_q.max()))
            last = log_b
            for i in range(1, self.max_iter + 1):
                log_s = blur(log_q - blur(log_b))
                log_p, log_new = log_b + log_s, prox(log_s)
                if i % _CHECK == 0 or i == self.max_iter:
                    residual = (log_new.exp() - log_p.exp()).abs().sum() * grid.volume
                    if float(residual) <= tolerance:
                        break
                change = relax * (log_new - log_s - log_b) + momentum * (log_b - last)
                log_b, last = log_b + change, log_b
            # The second marginal of a plan whose first one is exact: no mass is lost, converged or not.
            measure = replace(grid, mass=log_p.exp())
        info |= {"entropic/iterations": torch.tensor(float(i)), "entropic/residual": residual}
        return replace(advance(state, measure, h), log_b=log_b), info  # type: ignore[return-value]

    def _linear(self, parts: Parts, state: State, grid: Grid) -> tuple[Tensor, Info]:
        """Return the potential at the nodes, with the first variation of what is treated explicitly."""
        V, info = torch.zeros_like(grid.mass), Info()
        if parts.potential is not None:
            potential = linear_part(parts.potential)
            assert potential is not None
            with torch.no_grad():
                V = potential(grid.points).view_as(V)
        if parts.rest is not None:
            nodes = grid.nodes()
            # An empty cell has a first variation too; a weight of 0 would hide it.
            least = 0.8 * math.log(torch.finfo(V.dtype).tiny)
            rho = Particles(nodes.x, nodes.w.log().clamp(min=least), source=grid)
            info = self.estimator.refine(parts.rest, lambda rng: rho, state.estimator, state.rng)
            V = V + self.estimator.gradient(parts.rest.freeze(state.rng), rho, state.estimator)[0].view_as(V)
        return V, info


class _Blur:
    """Convolution with the Gaussian kernel on logarithms, one axis after the other."""

    def __init__(self, grid: Grid, std: float) -> None:
        self.log_kernels = []
        for x, dx in zip(grid.axes, grid.spacing, strict=True):
            z = (x[:, None] - x) / std
            self.log_kernels.append(-0.5 * z.square() + math.log(dx / (std * math.sqrt(2 * math.pi))))
        self.kernels = [log_kernel.exp() for log_kernel in self.log_kernels]

    def __call__(self, u: Tensor) -> Tensor:
        for axis in range(u.dim()):
            lines = u.movedim(axis, -1)
            u = self._lines(lines.reshape(-1, lines.shape[-1]), axis).view(lines.shape).movedim(-1, axis)
        return u

    def _lines(self, u: Tensor, axis: int) -> Tensor:
        """Convolve rows: by a matrix product, and term by term those where that has lost digits to underflow."""
        top = u.amax(1, keepdim=True).clamp(min=torch.finfo(u.dtype).min)
        sums = (u - top).exp() @ self.kernels[axis]
        out = sums.log() + top
        tiny = torch.finfo(u.dtype).tiny * 1e18
        lost = ((sums < tiny).any(1) & (top[:, 0] > torch.finfo(u.dtype).min)).nonzero()[:, 0]
        log_kernel = self.log_kernels[axis]
        for rows in lost.split(max(1, _BLOCK // log_kernel.numel())):
            out[rows] = torch.logsumexp(u[rows, None, :] + log_kernel, -1)
        return out


class _Prox:
    r"""The minimiser over p of :math:`\gamma\,p(\log\frac ps-1)-\frac\gamma2p\log p+h\,(Vp+Tp\log p+\frac c{m-1}p^m)`, by logarithms.

    Constants that multiply the mass are left out: they scale the plan, whose mass is fixed.
    """

    def __init__(self, gamma: float, debias: bool, h: float, V: Tensor, parts: Parts) -> None:
        self.gamma, self.hV = gamma, h * V
        self.kappa = (gamma / 2 if debias else gamma) + h * parts.temperature
        self.powers = [(h * c, m) for c, m in parts.powers]

    def acceleration(self, log_density: float) -> tuple[float, float]:
        r"""Return the relaxation and the momentum of the scaling iteration for densities up to a bound.

        Where p is the power :math:`s^{1-\theta}`, the iteration on log b is :math:`\theta` times two convolutions near its fixed
        point, so that what is solved has its spectrum between :math:`1-\theta_+` and :math:`1+\theta_-`, and the heavy ball is optimal.
        """
        stiff = [self.kappa, self.kappa + sum(hc * m * math.exp((m - 1) * log_density) for hc, m in self.powers)]
        thetas = [1 - self.gamma / k for k in stiff]
        low, high = max(1 - max(*thetas, 0.0), 1e-4) ** 0.5, (1 - min(*thetas, 0.0)) ** 0.5
        return (2 / (low + high)) ** 2, ((high - low) / (high + low)) ** 2

    def __call__(self, log_s: Tensor) -> Tensor:
        # An infinite potential empties a cell; a finite logarithm of nothing keeps differences of logarithms defined.
        log_p = ((self.gamma * log_s - self.hV) / self.kappa).clamp(min=-1e5)
        if not self.powers:
            return log_p
        # kappa l + hc m/(m-1) e^{(m-1)l} = R; with y = (m-1) l this is y + w e^y = z.
        hc, m = self.powers[0]
        z, log_w = (m - 1) * log_p, math.log(hc * m / self.kappa)
        return (_log_wright_omega(z + log_w) - log_w) / (m - 1)


def _log_wright_omega(z: Tensor) -> Tensor:
    r"""Return v with :math:`v+e^v=z`: Newton's method from above, where it falls monotonically; rounding after 8 steps."""
    v = torch.where(z > 1, z.clamp(min=1).log(), z)
    for _ in range(8):
        e = v.exp()
        v = v - (v + e - z) / (1 + e)
    return v
