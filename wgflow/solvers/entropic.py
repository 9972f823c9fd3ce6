r"""The JKO scheme on a grid, with entropic transport: what is minimized is a function of the masses, by matrix scaling."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Incompatible
from wgflow.core.fields import Count, Positive
from wgflow.core.inner import report
from wgflow.core.typing import Info
from wgflow.estimators import Autograd, Estimator
from wgflow.functionals import Functional, PowerEntropy, Scaled, Sum
from wgflow.functionals.linear import linear_part
from wgflow.measures import MovingMeasure, Particles
from wgflow.measures.grid import Grid
from wgflow.solvers.base import Solver, State, advance, register_solver
from wgflow.solvers.scaling import Blur, Problem, Prox

_ADVICE = "Raise max_iter or blur, take a smaller step, or more cells; masses in float64 reach smaller tolerances."


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
            elif isinstance(term, PowerEntropy) and term.density is None and c > 0:
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
    tolerance : float, optional
        Mass that the two conditions on the plan may disagree by; the mass is conserved to rounding anyway. By default 1e-9, and
        1e-4 in float32, which reaches less where h is many times :math:`\gamma`: logarithms of small masses are large.
    max_iter : int
        Scaling iterations of one step. A step that ends before its tolerance is reported as ``entropic/unconverged``, with a warning.
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
    :math:`N=\prod_in_i` cells (and exponentials on lines where the range of a float is exceeded). Their number is some tens up to
    :math:`h=100\gamma` and a few hundred at :math:`10^5\gamma`: alternation, which alone would take :math:`h/\gamma`, is accelerated by
    Anderson's method, and a step that lowers the concave dual of the problem is taken back. Memory: 40 numbers a cell. Waits for
    the device. Reports ``entropic/iterations`` and ``entropic/residual``, the disagreement that was left.

    Sources: Peyré (2015) for the scheme; Walker and Ni (2011) for the acceleration; that entropic transport costs
    :math:`\frac\gamma2\int\rho\log\rho` to first order is classical.

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
    tolerance: Positive | None = None
    max_iter: Count = 10000
    estimator: Estimator = field(default_factory=Autograd)

    order = 1
    implicit = True
    reference = ("jordan1998variational", "peyre2015entropic", "walker2011anderson")

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
        if self.estimator.needs_fresh_points:
            kind = type(self.estimator).__name__
            return f"EntropicJKO moves the masses of all cells, and {kind} compares with another batch of them. Use Autograd()."
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
        power = parts.powers[0] if parts.powers else None
        prox = Prox(self.blur**2, self.debias, h, V, parts.temperature, power)
        blur, log_q = Blur(grid, self.blur), grid.log_rho.view_as(grid.mass)
        with torch.no_grad():
            tolerance = max(1e-9, 1e3 * torch.finfo(log_q.dtype).eps) if self.tolerance is None else self.tolerance
            plan, i = Problem(blur, prox, log_q, grid.volume).solve(state.log_b, tolerance, self.max_iter)
            # The second marginal of a plan whose first one is exact: no mass is lost, converged or not.
            measure = replace(grid, mass=(plan.log_b + blur(log_q - plan.blurred)).exp() * grid.volume)
        report("entropic", plan.residual, tolerance, _ADVICE)
        info |= {"entropic/iterations": i, "entropic/residual": plan.residual}
        return replace(advance(state, measure, h), log_b=plan.log_b), info  # type: ignore[return-value]

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
