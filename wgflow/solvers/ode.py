"""The flow as an ordinary differential equation of all particles, integrated by torchdiffeq."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Diverged
from wgflow.core.fields import Count, Positive
from wgflow.core.typing import Info, Points
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure, Particles
from wgflow.solvers.base import State, advance, register_solver
from wgflow.solvers.explicit import Explicit, squared_speed

FIXED = {"euler": 1, "midpoint": 2, "heun3": 3, "rk4": 4, "implicit_adams": 4}
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


@dataclass(eq=False)
class ODEState(State):
    """A state with the inner step that an adaptive method tries first.

    Attributes
    ----------
    inner : float
        What its control of errors asked for last, before the end of a time step cut it off; 0 before the first one.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> flow = wg.solve(V, wg.ODE(method="dopri5"), wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=2)
    >>> flow.state.inner > 0
    True
    """

    inner: float = 0.0


@register_solver("ode")
@dataclass(frozen=True)
class ODE(Explicit):
    r"""Integrate :math:`\dot x=-\nabla\frac{\delta F}{\delta\rho_t}(x)` over each time step with torchdiffeq.

    The unknown is the array of all particles; one realization of the functional (and one refinement of a learned
    estimate) holds for the whole step, so that an adaptive method never takes noise for a truncation error.

    Parameters
    ----------
    estimator : Estimator
        How the first variation is found.
    method : str
        Fixed: ``"euler"``, ``"midpoint"``, ``"heun3"``, ``"rk4"`` (the 3/8 rule), ``"implicit_adams"``. Adaptive:
        ``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"fehlberg2"``, ``"adaptive_heun"``. Sorted fields (sliced
        Wasserstein, W1) have kinks that slow an adaptive method down: use a fixed one there.
    rtol, atol : float
        For an adaptive method: the estimated error :math:`e_i` of an inner step, one number a coordinate of a particle,
        must satisfy :math:`\operatorname{rms}_i\{e_i/(\text{atol}+\text{rtol}\,|x_i|)\}\le1`. A root mean square over *all*
        particles, whatever their weights: a few stiff ones among many are averaged away.
    substeps : int
        For a fixed method: equal inner steps in one time step.
    max_substeps : int
        For an adaptive method: give up beyond so many inner steps in one time step.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    Reports the number of velocity evaluations (``ode/evaluations``) and the dissipation :math:`E|v|^2` at the start of
    the step. ``order`` is that of a fixed method, in the step size; an adaptive one is as accurate as its tolerances at
    any step size. It begins a time step with the inner step that it would have gone on with in the one before, which is kept
    in the state: ``dopri5`` takes 7 evaluations a time step that one inner step spans, and 8 or more in the first, where
    it looks for a size. The library waits for the device; ``Heun`` and ``RK4`` do not.

    ``explicit_adams`` is refused: it diverges on smooth problems that every other method solves.

    Raises
    ------
    BadInput
        For an unknown method, or tolerances and counts that are not positive.
    Diverged
        When the adaptive step becomes too small to change the time, or too many are needed.

    Examples
    --------
    The exact flow of :math:`F=\tfrac12E|x|^2` is :math:`x_t=e^{-t}x_0`, here at t = 1 in one time step:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> wg.solve(F, wg.ODE(method="dopri5"), start, step_size=1.0, num_steps=1).measure.x
    tensor([[0.3679]])
    """

    method: str = "rk4"
    rtol: Positive = 1e-5
    atol: Positive = 1e-6
    substeps: Count = 1
    max_substeps: Count = 1000

    reference = ("chen2018neural",)

    def __post_init__(self) -> None:
        if self.method not in FIXED and self.method not in ADAPTIVE:
            why = " (it diverges where every other method works)" if self.method == "explicit_adams" else ""
            raise BadInput(f"ODE(method={self.method!r}){why}: expected one of {', '.join((*FIXED, *ADAPTIVE))}")

    @property
    def order(self) -> int | None:  # type: ignore[override]
        """Order of a fixed method; None for an adaptive one, whose error is that of its tolerances."""
        return FIXED.get(self.method)

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> State:
        """Return the state before the first step."""
        s = super().init(F, measure, rng)
        return s if self.method in FIXED else ODEState(s.measure, s.k, s.t, s.rng, s.estimator)

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Complete one time step; reports evaluations and dissipation."""
        G, info = self.realise(F.at(state.k, state.t), state)
        info["ode/evaluations"] = 0
        inner = state.inner if isinstance(state, ODEState) else 0.0

        def move(p: Particles) -> Points:
            nonlocal inner

            def velocity(s: Tensor, x: Points) -> Points:
                v = self.estimator.velocity(G.at(state.k, state.t + s), replace(p, x=x), state.estimator)  # type: ignore[arg-type]
                if info["ode/evaluations"] == 0:
                    info["flow/dissipation"] = squared_speed(p, v)
                info["ode/evaluations"] += 1
                return v

            y, inner = self._integrate(velocity, p.x, h, state, inner)
            return y

        after = advance(state, state.measure.follow(move, state.rng), h)
        return (replace(after, inner=inner) if isinstance(after, ODEState) else after), info

    def _integrate(
        self, velocity: Callable[[Tensor, Points], Points], x: Points, h: float, state: State, inner: float
    ) -> tuple[Points, float]:
        """Return the points at the end of a time step, and the inner step to begin the next one with."""
        from torchdiffeq import odeint

        tried: list[Tensor] = []

        times = torch.tensor([0.0, h], dtype=torch.float64, device=x.device)
        options: dict[str, Any]
        if self.method in FIXED:
            options = {
                "grid_constructor": lambda f, y, t: torch.linspace(0.0, h, self.substeps + 1, dtype=t.dtype).to(t)
            }
        else:
            # An inner step ends at h: the library would otherwise interpolate there, less accurately than it steps.
            options = {"max_num_steps": self.max_substeps, "step_t": times[1:], "first_step": inner or None}
            # It is told each inner step before the end of the time step cuts it off.
            velocity.callback_step = lambda t, y, dt: tried.append(dt)  # type: ignore[attr-defined]
        try:
            y = odeint(velocity, x, times, rtol=self.rtol, atol=self.atol, method=self.method, options=options)[-1]
        except AssertionError as error:
            raise Diverged(
                f"torchdiffeq gave up in time step {state.k} (t = {state.t:g}): {error}.",
                advice=f"The field is stiff or not smooth at these particles: take larger tolerances than rtol={self.rtol:g}, "
                f"atol={self.atol:g}, a smaller step size, or a fixed method such as ODE(method='rk4').",
                term="ode",
                step=state.k,
            ) from error
        return y, float(tried[-1]) if tried else inner
