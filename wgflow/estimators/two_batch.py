"""The first variation with an independent batch in the place of the particles' own term."""

from dataclasses import dataclass
from typing import Any

from wgflow.core.errors import BadInput
from wgflow.core.outputs import scalar
from wgflow.core.typing import Points, Scalar
from wgflow.estimators.autograd import Autograd
from wgflow.estimators.base import register_estimator
from wgflow.estimators.opposed import Opposed, OpposedState
from wgflow.functionals import Functional
from wgflow.functionals.base import View
from wgflow.measures import Particles


@register_estimator("two_batch")
@dataclass(frozen=True)
class TwoBatch(Opposed):
    r""":math:`s(\rho)=F(\rho|\nu)-F(\rho|\rho')` with an independent batch :math:`\rho'` of the moving law, held fixed.

    In a distance between samples every point is nearest to itself, so the own term of a batch holds it where it is while the term
    of the data spreads it over the batch: the law contracts, in high dimension by far more than the signal. Against another
    sample of the same law the two terms are exchangeable at :math:`\rho=\nu`, and the velocity has mean 0 there. For
    :class:`SinkhornDivergence` it is :math:`T_{\rho\nu}-T_{\rho\rho'}`, a difference of two barycentric maps; for
    :class:`SquaredMMD` twice the witness of :math:`\rho'` against :math:`\nu`. Any distance to samples will do.

    Parameters
    ----------
    negatives : MixedNegatives, optional
        Points mixed into :math:`\rho'`.

    Notes
    -----
    For laws that can be drawn from anew, a ``Pushforward``; the batches of the functional and of the solver must be equal. Source:
    Han et al. (2026), *One-Step Generative Modeling via Wasserstein Gradient Flows*, Section 3.3.

    Examples
    --------
    A network's output goes to data at 3:

    >>> import torch
    >>> import wgflow as wg
    >>> data = wg.Gaussian(torch.tensor([3.0]), torch.eye(1))
    >>> start = wg.Pushforward(
    ...     wg.StandardNormal(1), torch.nn.Linear(1, 1), regression=wg.Regression(wg.SGD(0.5), persistent=5, batch=64)
    ... )
    >>> solver = wg.ForwardEuler(wg.TwoBatch(), batch=64)
    >>> flow = wg.solve(0.5 * wg.EnergyDistance(data, batch=64), solver, start, step_size=1.0, num_steps=30)
    >>> (flow.measure.draw(1000, torch.Generator()).x.mean() - 3).abs() < 0.5
    tensor(True)
    """

    needs = ("value",)
    reference = ("han2026onestep",)

    def refuses(self, F: Functional) -> str | None:
        """Refuse what holds no sample that another could stand for."""
        if F.samples():
            return None
        return (
            f"TwoBatch sets the data against another batch of the moving law, and {type(F).__name__} compares with no samples. Use "
            "Autograd()."
        )

    def surrogate(self, F: Functional, rho: Particles, es: OpposedState) -> Scalar:
        """Return the value of the contrast."""
        G = self._contrast(F, rho, es)
        return scalar(G.value(rho), rho.x, f"{type(F).__name__}.value")

    def velocities(self, F: Functional, rho: Particles, es: Any) -> list[tuple[View, Points]]:
        """Return those of the contrast."""
        return Autograd().velocities(self._contrast(F, rho, es), rho, None)

    def _contrast(self, F: Functional, rho: Particles, es: OpposedState) -> Functional:
        second, data = es.second, F.data()
        if second is None:
            raise BadInput("TwoBatch has no second batch yet: call refine(F, draw, state, rng) first, as solvers do")
        if isinstance(data, Particles) and len(data) != len(second):
            raise BadInput(
                f"TwoBatch compares {len(data)} target points with {len(second)} of the moving law: give the functional and the "
                "solver one batch, and the target at least as many points"
            )
        return F.contrast(self.repelling(second, es))
