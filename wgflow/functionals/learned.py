"""Distances between features that a critic learns."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import NonNegative
from wgflow.core.typing import Points, Scalar
from wgflow.functionals.base import Functional, Potential, drawn, register_functional
from wgflow.functionals.mmd import SquaredMMD
from wgflow.functionals.sliced import SlicedWasserstein
from wgflow.functionals.viewing import has_rules
from wgflow.functionals.wrapped import Wrapped
from wgflow.kernels import RBF
from wgflow.measures import Measure, Particles, StandardNormal

# Up to so many features the slopes of all of them are summed; of more, one random combination stands for them.
_EXACT = 16
_MOST = 2**12


@register_functional("learned_features")
@dataclass(frozen=True)
class LearnedFeatures(Wrapped):
    r"""A distance between laws of features, for the features that tell them apart best: :math:`\sup_hF(h_\#\rho\,|\,h_\#\nu)`.

    ``Critic`` trains :math:`h`, a network with several outputs, and the moving measure descends :math:`F` between its features.
    With ``SquaredMMD`` this is the MMD of the learned kernel :math:`k(h(x),h(y))` (MMD GAN, Li et al. 2017), with
    ``SinkhornDivergence`` that of a learned cost (Genevay, Peyré and Cuturi 2018), with ``EnergyDistance`` the Cramér distance of
    features.

    Parameters
    ----------
    term : Functional
        The distance :math:`F`, with a value and a target of its own. A multiple is taken outside: ``0.5 * LearnedFeatures(F)``.
    damping : float
        :math:`\lambda` of the factor :math:`1/(1+\lambda E_\nu\lVert\nabla h\rVert_F^2)`, which makes steep features worth no more
        than flat ones (scaled MMD, Arbel et al. 2018: 10). 0 for no factor: then give ``Critic`` a penalty, since nothing else
        bounds the features.

    Notes
    -----
    The critic sees both batches, the moving measure descends the same number with the features held. Up to 16 features the
    squared slopes are summed exactly, by one backward pass each; of more they are estimated without bias by the slope of one
    combination with random signs, drawn in :meth:`freeze`.

    The first variation is that of :math:`F` at the features, so ``Critic.potential``, which knows no law, has none.

    Raises
    ------
    BadInput
        For a term without a value or without a target of its own, and for ``SlicedWasserstein``, which draws its directions for the
        points and not for features.

    Examples
    --------
    >>> import torch
    >>> from wgflow.kernels import RBF
    >>> nu, rho = Particles(torch.tensor([[0.0, 0.0]])), Particles(torch.tensor([[3.0, 4.0]]))
    >>> F = LearnedFeatures(SquaredMMD(nu, RBF(5.0)))
    >>> F.variational(lambda x: x.norm(dim=1, keepdim=True), rho)  # features 0 and 5: 2 - 2 exp(-1/2)
    tensor(0.7869)
    """

    term: Functional
    damping: NonNegative = 0.0
    _signs: Tensor | None = None
    _rules_at: Particles | None = None

    learns_features = True
    reference = ("li2017mmd", "binkowski2018demystifying", "arbel2018gradient", "caucheteux2026unifying")

    def __post_init__(self) -> None:
        name = type(self.term).__name__
        if not self.term.can("value") or self.term.needs_density:
            raise BadInput(f"LearnedFeatures({name}): it has no value on points. Use SquaredMMD or SinkhornDivergence")
        if not isinstance(getattr(self.term, "target", None), Measure):
            raise BadInput(
                f"LearnedFeatures({name}): it has no target of its own. Add and multiply outside: c * LearnedFeatures(F)"
            )
        if isinstance(self.term, SlicedWasserstein):
            raise BadInput("LearnedFeatures(SlicedWasserstein): its directions are those of points, not of features")

    def variational(self, net: Potential, rho: Particles) -> Scalar:
        r"""Return :math:`F(h_\#\rho\,|\,h_\#\nu)`, times the factor."""
        return self._between(net, rho, *self._at_target(net))

    def surrogate(self, net: Potential, rho: Particles) -> Scalar:
        """Return the same, with the target's features and the factor held."""
        with torch.no_grad():
            held = [t.detach() for t in self._at_target(net)]
        return self._between(net, rho, *held)

    @property
    def _drawn(self) -> Particles:
        return drawn(self.term.target)  # type: ignore[attr-defined,no-any-return]

    def _between(self, net: Potential, rho: Particles, h: Tensor, factor: Tensor) -> Scalar:
        term: Functional = replace(self.term, target=Particles(h, self._drawn.log_w))  # type: ignore[type-var]
        if self._rules_at is not None:
            with torch.no_grad():
                term = term.fit(replace(self._rules_at, x=_features(net, self._rules_at.x)))
        return factor * term.value(Particles(_features(net, rho.x), rho.log_w))

    def _at_target(self, net: Potential) -> tuple[Tensor, Tensor]:
        """Return the features of the target, and what their steepness leaves of the distance."""
        nu = self._drawn
        if not self.damping:
            return _features(net, nu.x), nu.x.new_ones(())
        with torch.enable_grad():
            x = nu.x.detach().requires_grad_(True)
            h = _features(net, x)
            return h, 1 / (1 + self.damping * nu.mean(self._squared_slopes(h, x)))

    def _squared_slopes(self, h: Tensor, x: Points) -> Tensor:
        r"""Return :math:`\lVert\nabla h(x_i)\rVert_F^2`, shape (n,), or its estimate."""
        m = h.shape[1]
        if m <= _EXACT:
            combinations = list(h.unbind(1))
        elif m <= _MOST and self._signs is not None:
            combinations = [h @ self._signs[:m].to(h.dtype)]
        else:
            raise BadInput(f"{m} features: expected at most {_MOST}, of a functional that freeze(rng) has realized")
        slopes = [torch.autograd.grad(c.sum(), x, create_graph=True, materialize_grads=True)[0] for c in combinations]
        return torch.stack([g.flatten(1).square().sum(1) for g in slopes]).sum(0)

    def freeze(self, rng: torch.Generator) -> Self:
        """Freeze the term, and draw the signs that stand for many features."""
        term, signs = self.term.freeze(rng), self._signs
        if self.damping and signs is None:
            signs = 2.0 * torch.randint(2, (_MOST,), generator=rng, device=rng.device) - 1
        return replace(self, term=term, _signs=signs)

    def fit(self, rho: Particles) -> Self:
        """Hold the points at whose features a bandwidth that is a rule is found; itself when there is none."""
        return replace(self, _rules_at=Particles(rho.x.detach(), rho.log_w)) if has_rules(self.term) else self

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> Self:
        """Return a scaled MMD to a standard normal."""
        return cls(SquaredMMD(StandardNormal(*event_shape), RBF(1.0), batch=16), damping=0.5)


def _features(net: Potential, x: Points) -> Tensor:
    """Return features (n, m) of points; one number a point is one feature."""
    h = net(x)
    return h[:, None] if h.dim() == 1 else h.flatten(1)
