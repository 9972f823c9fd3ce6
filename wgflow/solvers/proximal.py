"""Implicit steps in closed form, after an explicit one for what has none: the proximal gradient method."""

from dataclasses import dataclass, replace

from wgflow.core.typing import Info, Points
from wgflow.functionals import Functional, Sum
from wgflow.functionals.linear import terms_of
from wgflow.measures import MovingMeasure, Particles
from wgflow.solvers.base import State, advance, register_solver
from wgflow.solvers.explicit import Explicit, squared_speed


@register_solver("proximal")
@dataclass(frozen=True)
class Proximal(Explicit):
    r"""Forward Euler on E, then the exact implicit step of G, for :math:`F=E+G`; E may be missing. Order 1.

    .. math:: x\leftarrow\operatorname{prox}_{hG}\bigl(x-h\nabla\tfrac{\delta E}{\delta\rho}(x)\bigr),\qquad
       \operatorname{prox}_{hG}(\rho)=\operatorname*{argmin}_{\rho'}\frac{W_2^2(\rho,\rho')}{2h}+G(\rho').

    G is the one term of the sum with a closed form (:meth:`Functional.prox`): ``W1`` and ``SquaredW2`` to as many points,
    and a ``PotentialEnergy`` that was given its proximal map. Without E this is the JKO scheme, exact also at kinks, where
    minimizers by gradients stall: W1 in one dimension then has no error in time.

    Parameters
    ----------
    estimator : Estimator
        How the first variation of E is found.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    For particles of equal weight; the target of G is drawn with as many points. Stable for :math:`h\lambda<2`, where
    :math:`\lambda` is the largest curvature of E; any h without E. Its stationary points are those of F. Cost: one gradient of
    E and one assignment, or a sort in one dimension. Source: Salim, Korba and Luise (2020).

    Examples
    --------
    The JKO step of :math:`\tfrac12W_2^2` to a point at 3 is :math:`(x+3h)/(1+h)`, here from 0 with :math:`h=1`:

    >>> import torch
    >>> import wgflow as wg
    >>> F = 0.5 * wg.SquaredW2(wg.Particles(torch.tensor([[3.0]])))
    >>> wg.solve(F, wg.Proximal(), wg.Particles(torch.zeros(1, 1)), step_size=1.0, num_steps=1).measure.x
    tensor([[1.5000]])
    """

    order = 1
    reference = ("salim2020wasserstein",)

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Refuse weights, which an exact step would split, and laws that may draw some."""
        if measure.tracks_points and getattr(measure, "log_w", None) is None:
            return super().refuses_measure(measure)
        m = type(measure).__name__
        return f"Proximal pairs particles of equal weight with points, and this {m} is not made of such. Use Particles(x), or ForwardEuler."

    def refuses(self, F: Functional) -> str | None:
        """Refuse a functional without exactly one term in closed form, or with a weighted target in it."""
        if len(_closed(F)) == 1:
            if all(getattr(t, "log_w", None) is None for t in _closed(F)[0].targets()):
                return None
            return "Proximal pairs particles with target points of equal weight, and these carry weights. Use JKO(optim=LBFGS(), iters=1)."
        return (
            f"Proximal needs exactly one term with a closed-form implicit step, and {type(F).__name__} has {len(_closed(F))}. Such are "
            "W1, SquaredW2 and PotentialEnergy(V, proximal=...). Use JKO(optim=LBFGS(), iters=1), or ForwardEuler."
        )

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        r"""Complete one time step; reports :math:`E|x^+-x|^2/h^2`, for a step without E a bound of the slope of F at its end."""
        F = F.at(state.k, state.t)
        (closed,) = _closed(F)
        rest = [t for t in terms_of(F) if not t.can("prox")]
        E, info = self.realise(Sum.of(*rest), state) if rest else (None, {})

        def move(p: Particles) -> Points:
            G = (closed if _divides(closed, len(p)) else closed.matched(len(p))).freeze(state.rng)
            x = p.x if E is None else p.x + h * self.estimator.velocity(E, p, state.estimator)
            y = G.prox(replace(p, x=x), h)
            info["flow/dissipation"] = squared_speed(p, (y - p.x) / h)
            return y

        return advance(state, state.measure.follow(move, state.rng), h), info


def _closed(F: Functional) -> list[Functional]:
    return [t for t in terms_of(F) if t.can("prox")]


def _divides(F: Functional, n: int) -> bool:
    """Whether F uses its targets whole and n particles can be shared out over their points."""
    sizes = [target.num_points for target in F.samples()]
    return F.batch is None and all(size is not None and n % size == 0 for size in sizes)
