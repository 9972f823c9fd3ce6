"""What an estimator owes its callers."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from wgflow import (
    KL,
    Adam,
    EnergyDistance,
    Estimator,
    ForwardEuler,
    Functional,
    Measure,
    Particles,
    PotentialEnergy,
    Pushforward,
    Regression,
    StandardNormal,
    why_not,
)
from wgflow.core.errors import BadInput
from wgflow.core.outputs import scalar
from wgflow.core.rng import generator
from wgflow.storage.state import load_state
from wgflow.testing._arguments import refuses_wrong_arguments
from wgflow.testing._checks import Suite, applies, close
from wgflow.testing._precision import cast, double_precision
from wgflow.testing._worlds import (
    central,
    global_state_kept,
    rescaled,
    shuffled,
    split,
    through_a_file,
    untouched,
    world,
)


@dataclass(frozen=True)
class EstimatorCase:
    """An estimator in float64, a functional that it serves, and particles."""

    estimator: Estimator
    F: Functional
    p: Particles

    @classmethod
    def of(cls, estimator: Estimator, F: Functional | None = None, measure: Measure | None = None) -> "EstimatorCase":
        """Return the case of an estimator; a functional that it serves is found, where none is given.

        Raises
        ------
        BadInput
            When it serves none of the simple ones.
        """
        p, _ = world(measure, _event_shape(F))
        p = Particles(p.x, p.log_w)
        estimator = cast(estimator, torch.float64)
        if F is None:
            shape, solver = tuple(p.event_shape), ForwardEuler(estimator, batch=64)
            moved = _drawn_anew(shape) if estimator.needs_fresh_points else p
            F = next((G for G in _simple(shape) if why_not(G, solver, moved) is None), None)
        if F is None:
            raise BadInput(f"{type(estimator).__name__} serves no simple functional: give one that it does, F=...")
        return cls(estimator, cast(F, torch.float64), p)

    def state(self, seed: int = 0) -> Any:
        """Return its state after one refinement."""
        es = self.estimator.init(self.F, generator(seed))
        law = _drawn_anew(tuple(self.p.event_shape)).latent if self.estimator.needs_fresh_points else self.p
        self.estimator.refine(self.F, lambda rng: law.draw(64, rng), es, generator(seed + 1))
        return es

    def frozen(self) -> Functional:
        """Return one realization of the functional."""
        return self.F.at(0, 0.0).freeze(generator(5))

    def velocity(self, p: Particles, es: Any = None, F: Functional | None = None) -> Tensor:
        """Return the velocity at particles, by default for the state of seed 0."""
        return self.estimator.velocity(F or self.frozen(), p, self.state() if es is None else es)


def _event_shape(F: Functional | None) -> tuple[int, ...]:
    return tuple(next((m.event_shape for m in (F.targets() if F else [])), (2,)))


def _simple(event_shape: tuple[int, ...]) -> list[Functional]:
    with double_precision():
        normal = StandardNormal(*event_shape)
    return [KL(normal, 64), EnergyDistance(normal, 64), PotentialEnergy(lambda x: x.square().flatten(1).sum(1) / 2)]


def _drawn_anew(event_shape: tuple[int, ...]) -> Pushforward:
    """A law that gives other points in every draw, for estimators that compare two of them."""
    with double_precision():
        return Pushforward(StandardNormal(*event_shape), nn.Identity(), regression=Regression(Adam()))


def holds_a_generator(es: Any) -> bool:
    """Whether a state holds random numbers of its own, which belong to particles by their number."""
    held = [getattr(es, f.name) for f in fields(es)] if is_dataclass(es) else []
    return any(isinstance(part, torch.Generator) or holds_a_generator(part) for part in held)


ESTIMATOR = Suite[EstimatorCase]()


@ESTIMATOR.check
def declares_what_functionals_have(case: EstimatorCase) -> None:
    """Needs names methods of a functional."""
    for name in case.estimator.needs:
        assert hasattr(Functional, name), (
            f"needs={name!r}: a functional has no method of that name, such as 'value' or 'conjugate'"
        )


@ESTIMATOR.check
def surrogate_is_a_finite_scalar(case: EstimatorCase) -> None:
    """The surrogate is a finite 0-d tensor, differentiable in the positions, and in the weights where it gives a potential."""
    x, log_w = (t.clone().requires_grad_(True) for t in (case.p.x, case.p.log_weights))
    s = scalar(case.estimator.surrogate(case.frozen(), Particles(x, log_w), case.state()), x, "surrogate")
    assert bool(torch.isfinite(s)), f"surrogate is {float(s.detach())} at the particles of this check"
    d_x, d_w = torch.autograd.grad(s, (x, log_w), allow_unused=True)
    assert d_x is not None, "surrogate does not depend on the positions differentiably"
    if case.estimator.gives_potential:
        assert d_w is not None, "gives_potential is declared, and surrogate does not depend on the weights"


@ESTIMATOR.check
def velocity_is_minus_the_gradient_of_the_first_variation(case: EstimatorCase) -> None:
    """velocity, gradient and the surrogate say the same: v_i = -grad phi(x_i) = -(ds/dx_i)/w_i."""
    F, es, p = case.frozen(), case.state(), case.p
    v = case.velocity(p, es, F)
    assert v.shape == p.x.shape, f"velocity has shape {tuple(v.shape)}, expected {tuple(p.x.shape)}"
    assert not v.requires_grad, "velocity carries a gradient"
    close(
        v,
        -case.estimator.gradient(F, p, es)[1],
        "velocity is not minus the gradient of the first variation",
        rtol=1e-8,
        atol=1e-10,
    )
    x = p.x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(case.estimator.surrogate(F, replace(p, x=x), es), x)
    expected = -slope / p.w.view(-1, *[1] * (slope.dim() - 1))
    close(v, expected, "velocity is not minus the slope of the surrogate over the weights", rtol=1e-8, atol=1e-10)


@ESTIMATOR.check
def the_first_variation_is_centred(case: EstimatorCase) -> None:
    """The first variation has mean 0: sum w_i phi_i = 0."""
    applies(case.estimator.gives_potential, "it gives no first variation")
    phi, _ = case.estimator.gradient(case.frozen(), case.p, case.state())
    assert phi.shape == case.p.x.shape[:1], (
        f"the first variation has shape {tuple(phi.shape)}, expected ({len(case.p)},)"
    )
    close(case.p.mean(phi), 0.0, "the mean of the first variation is not 0", atol=1e-9 * (1 + float(phi.abs().max())))


@ESTIMATOR.check
def gradients_are_central_differences(case: EstimatorCase) -> None:
    """The slopes of the surrogate in positions, and in weights where it gives a potential, are its central differences."""
    applies(case.estimator.is_function, "it does not declare that its surrogate is a function (is_function)")
    F, es, p = case.frozen(), case.state(), case.p
    of = lambda x, log_w: case.estimator.surrogate(F, Particles(x, log_w), es)  # noqa: E731
    held = [p.x, p.log_weights] if case.estimator.gives_potential else [p.x]
    rest = [] if case.estimator.gives_potential else [p.log_weights]
    leaves = [t.clone().requires_grad_(True) for t in held]
    found = torch.autograd.grad(of(*leaves, *rest), leaves, materialize_grads=True)
    for what, a, b in zip(("positions", "weights"), found, central(lambda *t: of(*t, *rest), held), strict=False):
        close(a, b, f"the gradient of the surrogate in the {what} is not that of its values", rtol=1e-3, atol=1e-5)


@ESTIMATOR.check
def order_of_the_particles_does_not_matter(case: EstimatorCase) -> None:
    """Particles in another order have the same velocities."""
    applies(not holds_a_generator(case.state()), "it draws random numbers for each particle")
    order = torch.randperm(len(case.p), generator=generator(3))
    claim = "velocities change with the order of the particles"
    close(case.velocity(shuffled(case.p, order)), case.velocity(case.p)[order], claim, rtol=1e-9, atol=1e-10)


@ESTIMATOR.check
def splitting_a_particle_changes_nothing(case: EstimatorCase) -> None:
    """A particle may be split into two of half the weight: both have its velocity, and the others keep theirs."""
    applies(not holds_a_generator(case.state()), "it draws random numbers for each particle")
    v = case.velocity(case.p)
    claim = "velocities change when a particle is split into two of half the weight"
    close(case.velocity(split(case.p)), torch.cat([v, v[:1]]), claim, rtol=1e-9, atol=1e-10)


@ESTIMATOR.check
def scale_of_the_weights_does_not_matter(case: EstimatorCase) -> None:
    """Weights need not be normalized, and no weights are equal weights."""
    for why, p, same in rescaled(case.p):
        close(case.velocity(p), case.velocity(same), f"velocities change {why}", rtol=1e-9, atol=1e-10)


@ESTIMATOR.check
def pointwise_velocities_see_one_point(case: EstimatorCase) -> None:
    """What declares itself pointwise has a velocity that does not depend on the other particles."""
    applies(case.estimator.pointwise, "it is not declared pointwise")
    es, F = case.state(), case.frozen()
    alone = torch.cat([case.velocity(Particles(x), es, F) for x in case.p.x.split(1)])
    close(
        case.velocity(case.p, es, F),
        alone,
        "pointwise is declared, and velocities depend on the other particles",
        rtol=1e-9,
        atol=1e-10,
    )


@ESTIMATOR.check
def the_seed_decides_everything(case: EstimatorCase) -> None:
    """The same seed gives the same state and velocity, and the global generator is not used."""
    one = case.velocity(case.p)
    torch.manual_seed(3)
    global_state_kept(lambda: case.velocity(case.p), "init, refine and velocity")
    close(case.velocity(case.p), one, "velocities change with the same seed")


@ESTIMATOR.check
def state_dict_restores_it(case: EstimatorCase) -> None:
    """A state, written and read into one of another seed, gives the same velocity bit for bit."""
    es, F = case.state(), case.frozen()
    applies(es is not None, "it keeps no state")
    saved = through_a_file(es)
    other = load_state(case.estimator.init(case.F, generator(9)), saved)
    close(
        case.velocity(case.p, other, F),
        case.velocity(case.p, es, F),
        "a state that was written and read gives another velocity",
    )


@ESTIMATOR.check
def inputs_are_left_as_they_were(case: EstimatorCase) -> None:
    """Neither the estimator nor the functional nor the particles are changed in place."""
    held = {"estimator": case.estimator, "F": case.F, "x": case.p.x, "log_w": case.p.log_w}

    def act() -> None:
        es, F = case.state(), case.frozen()
        case.velocity(case.p, es, F)
        case.estimator.gradient(F, case.p, es)

    untouched(held, act, "a use of the estimator changes its inputs in place")


@ESTIMATOR.check
def wrong_arguments_are_refused(case: EstimatorCase) -> None:
    """Nothing but an error of wgflow leaves the constructor, and of values of every kind most are refused."""
    refuses_wrong_arguments(case.estimator)
