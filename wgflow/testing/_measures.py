"""What a measure owes its callers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow import Measure, MovingMeasure, Particles, Successor
from wgflow.core.errors import BadInput, Unsupported, WgflowError
from wgflow.core.rng import generator
from wgflow.storage.state import load_state
from wgflow.testing._arguments import refuses_wrong_arguments
from wgflow.testing._checks import Suite, applies, close
from wgflow.testing._precision import cast
from wgflow.testing._worlds import central, global_state_kept, points, through_a_file, untouched

MANY = 4000


@dataclass(frozen=True)
class MeasureCase:
    """A measure in float64."""

    measure: Measure

    @classmethod
    def of(cls, measure: Measure) -> "MeasureCase":
        """Return the case of a measure."""
        return cls(cast(measure, torch.float64))

    def started(self, seed: int = 0) -> MovingMeasure:
        """Return a private copy ready to move."""
        applies(isinstance(self.measure, MovingMeasure), "it does not move")
        assert isinstance(self.measure, MovingMeasure)
        return self.measure.start(generator(seed))

    @property
    def drawn_from(self) -> Measure:
        """What can be drawn from: a measure that moves is started first."""
        applies(self.measure.can_draw, "it cannot be drawn from")
        return self.started() if isinstance(self.measure, MovingMeasure) else self.measure

    def proposed(self) -> tuple[MovingMeasure, Successor]:
        """Return the started measure with a trainable successor."""
        started = self.started()
        applies(type(started).propose is not MovingMeasure.propose, "it has no trainable successor")
        return started, started.propose(generator(1))


MEASURE = Suite[MeasureCase]()


@MEASURE.check
def draws_are_points_with_weights(case: MeasureCase) -> None:
    """draw(n, rng) returns at most n finite points of the event shape, of the device, with weights that sum to one."""
    measure = case.drawn_from
    for n in (1, 7, 300):
        p = measure.draw(n, generator(0))
        assert isinstance(p, Particles), f"a draw is a {type(p).__name__}, expected Particles"
        assert p.event_shape == measure.event_shape, (
            f"a draw has points of shape {tuple(p.event_shape)}, event_shape is {tuple(measure.event_shape)}"
        )
        assert 1 <= len(p) <= n, f"draw({n}) returns {len(p)} points"
        assert p.device.type == measure.device.type, f"a draw is on {p.device}, device is {measure.device}"
        assert bool(torch.isfinite(p.x).all()), "a draw has points that are not finite"
        assert not p.x.requires_grad, "a draw requires gradient"
        close(p.w.sum(), 1.0, "the weights of a draw do not sum to one", atol=1e-12)


@MEASURE.check
def the_generator_decides_the_draw(case: MeasureCase) -> None:
    """The same generator gives the same draw, and the global one is not used."""
    measure = case.drawn_from
    global_state_kept(lambda: measure.draw(5, generator(0)), "draw(n, rng)")
    one, two = (measure.draw(5, generator(0)) for _ in range(2))
    close(two.x, one.x, "the same generator gives another draw")
    close(two.w, one.w, "the same generator gives other weights")
    rng = generator(0)
    first, second = (measure.draw(5, rng) for _ in range(2))
    if len(first) == 5 and not isinstance(measure, Particles):
        assert not torch.equal(first.x, second.x), "two draws in a row are the same: it does not use the generator"


@MEASURE.check
def a_measure_without_draws_says_so(case: MeasureCase) -> None:
    """can_draw = False is refused by draw with an error of wgflow."""
    applies(not case.measure.can_draw, "it can be drawn from")
    try:
        case.measure.draw(3, generator(0))
    except WgflowError:
        return
    raise AssertionError("can_draw is False, and draw returns points")


def _density_at(case: MeasureCase) -> tuple[Measure, Tensor]:
    measure = case.started() if isinstance(case.measure, MovingMeasure) else case.measure
    applies(measure.has_density, "it has no density at points")
    x = measure.draw(9, generator(3)).x if measure.can_draw else points(tuple(measure.event_shape), 9)
    return measure, x.detach()


@MEASURE.check
def log_prob_is_one_number_a_point(case: MeasureCase) -> None:
    """log_prob(x) has shape (n,), is finite at draws, and treats every point by itself."""
    measure, x = _density_at(case)
    value = measure.log_prob(x)
    assert value.shape == x.shape[:1], (
        f"log_prob has shape {tuple(value.shape)} at {len(x)} points, expected ({len(x)},)"
    )
    assert bool(torch.isfinite(value).all()), "log_prob is not finite at a draw"
    alone = torch.cat([measure.log_prob(point) for point in x.split(1)])
    close(value, alone, "log_prob at a point depends on the others", rtol=1e-9, atol=1e-9)


@MEASURE.check
def score_is_the_gradient_of_log_prob(case: MeasureCase) -> None:
    """The gradient of log_prob agrees with central differences."""
    measure, x = _density_at(case)
    leaf = x.clone().requires_grad_(True)
    try:
        value = measure.log_density(leaf).sum()
    except BadInput as error:
        raise AssertionError(str(error)) from error
    (score,) = torch.autograd.grad(value, leaf, materialize_grads=True)
    (expected,) = central(lambda y: measure.log_prob(y).sum(), [x])
    close(score, expected, "the gradient of log_prob is not that of its values", rtol=1e-4, atol=1e-5)


@MEASURE.check
def draws_follow_the_density(case: MeasureCase) -> None:
    r"""Draws satisfy Stein's identity of log_prob, E[f score + div f] = 0, for constant, linear and periodic f."""
    applies(case.measure.can_draw, "it cannot be drawn from")
    measure, _ = _density_at(case)
    p = measure.draw(MANY, generator(5))
    applies(len(p) == MANY and p.log_w is None, "its draws are not independent points")
    x = p.x.clone().requires_grad_(True)
    try:
        value = measure.log_density(x).sum()
    except BadInput:
        applies(False, "its log_prob has no gradient")
    (score,) = torch.autograd.grad(value, x, materialize_grads=True)
    applies(bool((score != 0).any()), "its density is constant where it is smooth")
    score, flat = score.flatten(1), p.x.flatten(1)
    centred = flat - flat.mean(0)
    for name, f, slope in (
        ("constant", torch.ones_like(flat), torch.zeros_like(flat)),
        ("linear", centred, torch.ones_like(flat)),
        ("periodic", flat.sin(), flat.cos()),
    ):
        terms = f * score + slope
        mean, error = terms.mean(0), terms.std(0) / MANY**0.5
        worst = int((mean.abs() - 5 * error).argmax())
        assert abs(float(mean[worst])) <= 5 * float(error[worst]) + 1e-9, (
            f"draws do not follow log_prob: over {MANY} draws E[f score + div f] of {name} f in coordinate {worst} is "
            f"{float(mean[worst]):.3g} ± {float(error[worst]):.2g}, expected 0 (or the density does not vanish at the edge of its "
            "support: excuse this check)"
        )


@MEASURE.check
def atoms_are_those_it_counts(case: MeasureCase) -> None:
    """take(index, rng) returns the atoms of the numbers that it is given, from 0 to num_atoms - 1."""
    applies(case.measure.num_atoms is not None, "it has no numbered atoms")
    n = case.measure.num_atoms
    assert n is not None
    some = case.measure.take(torch.tensor([n - 1, 0]), generator(0))
    every = case.measure.take(torch.arange(n), generator(0))
    assert len(every) == n, f"num_atoms is {n}, and take returns {len(every)} points"
    assert some.event_shape == case.measure.event_shape, "the atoms have another shape than event_shape"


@MEASURE.check
def later_steps_have_the_same_points(case: MeasureCase) -> None:
    """at(k, t) returns a measure on points of the same shape."""
    later = case.measure.at(3, 0.7)
    assert isinstance(later, Measure), f"at(k, t) returns a {type(later).__name__}, expected a Measure"
    if not isinstance(later, MovingMeasure):
        assert later.event_shape == case.measure.event_shape, "at(k, t) changes the shape of a point"


@MEASURE.check
def is_left_as_it_was(case: MeasureCase) -> None:
    """Drawing, starting and moving a private copy leave the measure itself as it was."""

    def act() -> None:
        if case.measure.can_draw and not isinstance(case.measure, MovingMeasure):
            case.measure.draw(5, generator(0))
        if isinstance(case.measure, MovingMeasure):
            started = case.started()
            started.draw(5, generator(0))
            _followed(started)

    untouched({"measure": case.measure}, act, "the measure changes when a copy of it moves")


def _followed(measure: MovingMeasure) -> MovingMeasure | None:
    """Return the measure after a move by 1 in every coordinate; None for one that follows none."""
    if getattr(measure, "regression", True) is None:
        return None
    try:
        return measure.follow(lambda p: p.x + 1, generator(1))
    except Unsupported:
        return None


@MEASURE.check
def follows_a_move(case: MeasureCase) -> None:
    """follow(move) moves tracked points to move(x), and brings those of a law that is fitted nearer to it at every call."""
    started = case.started()
    before, moved = started.draw(300, generator(2)), _followed(started)
    applies(moved is not None, "it follows no explicit move")
    assert moved is not None
    after = moved.draw(300, generator(2))
    assert after.event_shape == before.event_shape, "the points have another shape after a move"
    if started.tracks_points:
        close(after.x, before.x + 1, "tracked points are not where a move by 1 puts them", rtol=1e-12, atol=1e-12)
        return
    far = [float((after.x - 10).norm())]
    for _ in range(20):
        moved = moved.follow(lambda p: torch.full_like(p.x, 10.0), generator(1))
    far.append(float((moved.draw(300, generator(2)).x - 10).norm()))
    assert far[1] < far[0], (
        f"20 moves to one place bring the points no nearer to it: {far[0]:.4g} before, {far[1]:.4g} after"
    )


@MEASURE.check
def a_successor_starts_where_the_measure_is(case: MeasureCase) -> None:
    """propose(rng) couples pairs of points, the second of which is differentiable in its parameters and starts at the first."""
    started, successor = case.proposed()
    parameters = successor.parameters()
    assert parameters, "the successor has no parameters"
    assert all(p.requires_grad for p in parameters), "a parameter of the successor does not require gradient"
    x, y = successor.couple(started, 16, generator(4), "shared")
    assert x.x.shape == y.x.shape, f"a coupling pairs {tuple(x.x.shape)} with {tuple(y.x.shape)}"
    assert not x.x.requires_grad, "the first points of a coupling require gradient"
    assert y.x.requires_grad, "the second points of a coupling are not differentiable in the parameters"
    close(y.w, x.w, "the second points of a coupling have other weights than the first", atol=1e-12)
    if getattr(started, "reference", None) is None:
        close(y.x, x.x, "a new successor does not start where the measure is", rtol=1e-9, atol=1e-9)


@MEASURE.check
def a_coupling_can_be_evaluated_again(case: MeasureCase) -> None:
    """coupling(...) is a function of the parameters alone: every call sees the same random numbers."""
    started, successor = case.proposed()
    again = successor.coupling(started, 16, generator(4), "shared")
    (x, y), (u, v) = again(), again()
    close(u.x, x.x, "a coupling that is evaluated again has other first points")
    close(v.x, y.x, "a coupling that is evaluated again has other second points")


@MEASURE.check
def an_accepted_successor_is_the_measure(case: MeasureCase) -> None:
    """accept(rho) returns the law that draw(rho) showed while it was trained."""
    started, successor = case.proposed()
    seen = successor.draw(started, 9, generator(6))
    accepted = successor.accept(started, "raw")
    assert isinstance(accepted, MovingMeasure), f"accept returns a {type(accepted).__name__}, expected a MovingMeasure"
    close(accepted.draw(9, generator(6)).x, seen.x, "the accepted measure is not the successor", rtol=1e-9, atol=1e-9)


@MEASURE.check
def state_dict_restores_it(case: MeasureCase) -> None:
    """A started measure, written and read into one of another seed, draws the same points bit for bit."""
    started = case.started()
    started = _followed(started) or started
    other = load_state(case.started(9), through_a_file(started))
    one, two = (m.draw(9, generator(2)) for m in (started, other))
    close(two.x, one.x, "a measure that was written and read draws other points")
    close(two.w, one.w, "a measure that was written and read has other weights")


@MEASURE.check
def wrong_arguments_are_refused(case: MeasureCase) -> None:
    """Nothing but an error of wgflow leaves the constructor, and of values of every kind most are refused."""
    refuses_wrong_arguments(case.measure)
