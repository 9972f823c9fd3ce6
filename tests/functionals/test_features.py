"""Functionals of features: pulled back through a frozen encoder, all places at once, without units; annealed scales."""

import math
from dataclasses import replace

import pytest
import torch
from _exact import double, rng
from torch import nn

from wgflow import (
    KALE,
    KL,
    RBF,
    Annealed,
    Autograd,
    BadInput,
    Dataset,
    EnergyDistance,
    Entropy,
    ForwardEuler,
    Geometric,
    InFeatures,
    KernelDensity,
    Laplace,
    MeanShift,
    MedianRBF,
    NearestRBF,
    NotConverged,
    Particles,
    Pushforward,
    Regression,
    SinkhornDivergence,
    SquaredMMD,
    StandardNormal,
    Total,
    TwoBatch,
    UnitSpeed,
    Unsupported,
    solve,
    velocity_at,
)
from wgflow.functionals.base import views_of
from wgflow.measures import Stack
from wgflow.optim import Adam


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def frozen(d=3, width=6, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, 4)).double()
    return net.requires_grad_(False).eval()


X, Y, OTHER = normal(10, 3), normal(10, 3, seed=1) + 0.5, normal(10, 3, seed=2)
TERMS = {
    "sinkhorn": lambda y: SinkhornDivergence(Particles(y), blur=0.5, tol=1e-12),
    "raw cost": lambda y: SinkhornDivergence(Particles(y), blur=0.5, tol=1e-12, debias=False),
    "mmd": lambda y: SquaredMMD(Particles(y), RBF(0.8) + RBF(2.0)),
    "laplace mmd": lambda y: SquaredMMD(Particles(y), Laplace(0.8)),
    "energy": lambda y: 0.5 * EnergyDistance(Particles(y)),
    "sum": lambda y: SquaredMMD(Particles(y), RBF(0.8)) + 2.0 * SinkhornDivergence(Particles(y), blur=0.5, tol=1e-12),
}


def velocity(estimator, F, x, second=None):
    p = Particles(x)
    es = estimator.init(F, rng())
    estimator.refine(F, lambda rng: p if second is None else Particles(second), es, rng())
    return estimator.velocity(F, p, es)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_clouds_of_a_stack_do_not_see_each_other(name, weighted):
    """Values and derivatives, in positions and weights, are those of every cloud by itself."""
    x, y = normal(3, 7, 2), normal(3, 9, 2, seed=1)
    a, b = (normal(3, k, seed=5) if weighted else None for k in (7, 9))
    F = TERMS[name](Y).with_measures(lambda m: Stack(y, b))
    inputs = [t for t in (x, a) if t is not None]
    at_once = F.values(Stack(x.requires_grad_(), None if a is None else a.requires_grad_()))
    ours = torch.autograd.grad((at_once * double([1.0, -2.0, 0.5])).sum(), inputs)
    single = torch.stack([F.with_measures(lambda m, k=k: m[k]).value(Stack(x, a)[k]) for k in range(3)])
    theirs = torch.autograd.grad((single * double([1.0, -2.0, 0.5])).sum(), inputs)
    torch.testing.assert_close(at_once, single, rtol=1e-9, atol=1e-10)
    for g, h in zip(ours, theirs, strict=True):
        torch.testing.assert_close(g, h, rtol=0, atol=1e-8)


def test_clouds_of_unequal_size_are_filled_up_with_points_of_no_weight():
    clouds = [Particles(normal(n, 2, seed=n)) for n in (4, 7)]
    F = TERMS["sinkhorn"](normal(9, 2)).with_measures(lambda m: Stack.of(Particles(Y[:, :2]), Particles(OTHER[:5, :2])))
    values = F.values(Stack.of(*clouds))
    alone = [
        SinkhornDivergence(Particles(y), blur=0.5, tol=1e-12).value(p)
        for y, p in zip((Y[:, :2], OTHER[:5, :2]), clouds, strict=True)
    ]
    torch.testing.assert_close(values, torch.stack(alone), rtol=1e-9, atol=1e-10)


# --- through an encoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("estimator", [Autograd(), TwoBatch()])
def test_the_velocity_is_pulled_back_by_the_chain_rule(name, estimator):
    net = frozen()
    v = velocity(estimator, InFeatures(TERMS[name](Y), net), X, OTHER)
    inside = velocity(estimator, TERMS[name](net(Y)), net(X), net(OTHER))
    _, expected = torch.autograd.functional.vjp(net, X, inside)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-9)


def test_features_are_averaged_over_features_and_over_places():
    net = frozen()
    F = lambda y: TERMS["mmd"](y)  # noqa: E731
    encoder = lambda x: [net(x), torch.stack([x, x.square(), x.sin()], 1)]  # noqa: E731
    places = [F(f(Y)).value(Particles(f(X))) for f in (lambda x: x, torch.square, torch.sin)]
    expected = (F(net(Y)).value(Particles(net(X))) + sum(places) / 3) / 2
    torch.testing.assert_close(InFeatures(F(Y), encoder).value(Particles(X)), expected, rtol=1e-12, atol=0)


def test_weights_of_particles_are_those_of_their_features():
    net, log_w = frozen(), normal(10, seed=7)
    F = InFeatures(TERMS["sinkhorn"](Y), net)
    inside = TERMS["sinkhorn"](net(Y)).value(Particles(net(X), log_w))
    torch.testing.assert_close(F.value(Particles(X, log_w)), inside, rtol=1e-10, atol=0)


def test_no_unit_of_the_encoder_counts():
    """Features a hundred times as large: the same velocity in the points, to rounding."""
    net = frozen()
    for term, e in ((TERMS["sinkhorn"](Y), TwoBatch()), (KL(Particles(Y)), MeanShift(Laplace(0.3)))):
        one, other = (InFeatures(term, lambda x, c=c: c * net(x), normalized=True) for c in (1.0, 100.0))
        v = velocity(e, one, X, OTHER)
        torch.testing.assert_close(velocity(e, other, X, OTHER), v, rtol=1e-8, atol=1e-12)
        plain = velocity(e, InFeatures(term, lambda x: 3 * net(x)), X, OTHER)
        assert not torch.allclose(plain, v, rtol=0.1)


def test_the_unit_is_the_root_mean_squared_distance_over_all_places():
    encoder = lambda x: torch.stack([x, 3 * x], 1)  # noqa: E731
    (view,) = views_of(InFeatures(TERMS["mmd"](Y), encoder, normalized=True), Particles(X))
    y = view.functional.target
    squares = (view.clouds.x[:, :, None] - y.x[:, None]).square().sum(3)
    assert float(squares.mean()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(view.clouds.x[1], 3 * view.clouds.x[0])


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_the_unit_of_features_far_from_zero_is_that_of_their_differences(offset):
    """Points are multiples of 1/8, which float32 holds there."""
    x, y = ((8 * t).round().float() / 8 for t in (X, Y))
    make = lambda s: InFeatures(SquaredMMD(Particles(y), RBF(1.0)), lambda x: x + s, normalized=True)  # noqa: E731
    weighted = Particles(x, normal(len(x), seed=4).float())
    found, expected = (make(s).with_units(weighted)._units for s in (offset, 0.0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_at_unit_speed_every_feature_moves_at_one():
    net = frozen()
    encoder = lambda x: [1e3 * net(x), torch.stack([x, 2 * x], 1)]  # noqa: E731
    F = InFeatures(TERMS["sinkhorn"](Y), encoder, normalized=True)
    e = UnitSpeed(TwoBatch())
    es = e.init(F, rng())
    e.refine(F, lambda rng: Particles(OTHER), es, rng())
    parts = e.velocities(F, Particles(X), es)
    assert [float(v.square().sum(2).mean()) for _, v in parts] == pytest.approx([1, 1], abs=1e-12)


def test_an_encoder_gets_no_gradient_and_its_input_does():
    net = frozen()
    x = X.clone().requires_grad_()
    InFeatures(TERMS["sinkhorn"](Y), net).value(Particles(x)).backward()
    assert float(x.grad.abs().max()) > 0
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda: nn.Linear(3, 2), r"would get gradients \(weight and 1 more require them\): freeze it"),
        (lambda: nn.Sequential(nn.BatchNorm1d(3)).requires_grad_(False), "in training mode, and its 0 then changes"),
        (lambda: nn.Dropout().requires_grad_(False), "is in training mode"),
        (lambda: nn.Linear(3, 2).forward, "would get gradients"),
        (lambda: 3, "expected a network or a function"),
    ],
)
def test_encoders_that_would_change_are_refused(encoder, message):
    with pytest.raises(BadInput, match=message):
        InFeatures(TERMS["mmd"](Y), encoder())


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda x: x.sum(1), "must map .10, 3. to features"),
        (lambda x: x[:4], "must map"),
        (lambda x: x.view(10, 3, 1, 1), r"flatten\(2\).mT"),
        (lambda x: [x, None], "it returned None"),
        (lambda x: x.detach(), "differentiably"),
    ],
)
def test_features_of_a_wrong_kind_are_refused(encoder, message):
    with pytest.raises(BadInput, match=message):
        velocity(Autograd(), InFeatures(TERMS["mmd"](Y), encoder), X)


def test_an_encoder_inside_of_another_is_refused():
    F = InFeatures(InFeatures(TERMS["mmd"](Y), lambda x: x), lambda x: torch.stack([x, x], 1))
    with pytest.raises(Unsupported, match="composed encoder"):
        F.value(Particles(X))


def test_a_plan_that_has_not_converged_is_in_the_history():
    start = Pushforward(StandardNormal(3), lambda: nn.Linear(3, 3), regression=Regression(Adam(1e-3), batch=32))
    F = InFeatures(
        SinkhornDivergence(Dataset(Y.float()), blur=1e-3, max_iters=1, batch=32), frozen().float(), normalized=True
    )
    with pytest.warns(NotConverged, match="sinkhorn missed its tolerance"):
        flow = solve(F, ForwardEuler(TwoBatch(), batch=32), start, step_size=1.0, num_steps=2)
    assert flow.status == "unconverged"
    assert flow.history[-1]["sinkhorn/unconverged"] == 1
    with pytest.warns(NotConverged):
        F.freeze(rng()).value(Particles(X.float()))


def test_a_generator_is_trained_in_features():
    """A linear generator onto a Gaussian, seen through an injective encoder: mean within 0.1, covariance within 0.2."""
    torch.manual_seed(0)
    A = double([[1.0, 0.5], [0.0, 0.7]]).float()
    data = Dataset(torch.randn(4000, 2, generator=rng(1)) @ A.T + torch.tensor([1.0, -1.0]))
    encoder = nn.Linear(2, 6).requires_grad_(False).eval()
    F = InFeatures(SinkhornDivergence(data, blur=0.3, tol=1e-2, batch=128), encoder, normalized=True)
    start = Pushforward(
        StandardNormal(2), lambda: nn.Linear(2, 2), ema=0.98, regression=Regression(Adam(0.02, (0.9, 0.99)), batch=128)
    )
    flow = solve(F, ForwardEuler(TwoBatch(), batch=128), start, step_size=1.0, num_steps=300)
    x = flow.measure.inference().draw(20_000, rng(2)).x
    assert float((x.mean(0) - torch.tensor([1.0, -1.0])).norm()) < 0.1
    assert float((x.T.cov() - A @ A.T).abs().max()) < 0.2


# --- scales that shrink --------------------------------------------------------------------------------------------------


def test_a_scale_follows_its_schedule():
    F = Annealed(lambda s: SinkhornDivergence(Particles(Y), blur=math.sqrt(s)), Geometric(10.0, 0.1, floor=0.5))
    assert [F.at(k, 0.0).blur ** 2 for k in range(4)] == pytest.approx([10, 1, 0.5, 0.5])
    one = solve(F, ForwardEuler(), Particles(X), step_size=0.5, num_steps=2).measure.x
    x = X
    for eps in (10.0, 1.0):
        x = x + 0.5 * Autograd().velocity(SinkhornDivergence(Particles(Y), blur=math.sqrt(eps)), Particles(x), None)
    torch.testing.assert_close(one, x, rtol=0, atol=1e-12)


def test_a_kernel_of_an_estimator_follows_the_step():
    seen = []

    def kernel(k):
        seen.append(k)
        return RBF(2.0 * 0.5**k)

    F = KL(Particles(Y))
    solve(F, ForwardEuler(MeanShift(kernel, own=True)), Particles(X), step_size=0.1, num_steps=3)
    assert seen[-3:] == [0, 1, 2]


def test_a_kernel_that_becomes_a_rule_has_the_bandwidth_of_the_particles():
    """The velocity at other points is that of the flow there, at the step that it has come to."""
    F, rho, second, y = KL(Particles(Y)), Particles(X), Particles(OTHER), X[:1] + 1e-9
    found = []
    for kernel in (MedianRBF(), lambda k: RBF(1.0) if k == 0 else MedianRBF()):
        estimator = MeanShift(kernel)
        es = estimator.init(F, rng())
        for _ in range(2):
            estimator.refine(F, lambda rng: second, es, rng())
        found.append(velocity_at(estimator, F, rho, es, y))
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], estimator.velocity(F, rho, es)[:1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [lambda k: 0.0, lambda k: "a"])
def test_a_scale_is_positive(scale):
    with pytest.raises(BadInput, match="Annealed: scale"):
        Annealed(lambda s: SquaredMMD(StandardNormal(2), RBF(s)), scale)


def test_what_is_made_is_a_functional():
    with pytest.raises(BadInput, match="returned a RBF: expected a functional"):
        Annealed(lambda s: RBF(s), lambda k: 1.0)


def test_several_bandwidths_at_unit_speed_add_up():
    F = KL(Particles(Y))
    kinds = [UnitSpeed(MeanShift(Laplace(T), "joint")) for T in (0.1, 0.5)]
    both = velocity(Total(tuple(kinds)), F, X, OTHER)
    torch.testing.assert_close(both, sum(velocity(e, F, X, OTHER) for e in kinds), rtol=0, atol=1e-12)


RULES = {
    "median": lambda y: SquaredMMD(y, MedianRBF()),
    "nearest": lambda y: 0.5 * SquaredMMD(y, NearestRBF()),
    "distinct": lambda y: SquaredMMD(y, MedianRBF(), pairs="distinct"),
    "kale": lambda y: KALE(y, MedianRBF()),
    "two": lambda y: SquaredMMD(y, MedianRBF()) + Entropy(KernelDensity(NearestRBF())),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_rule_that_is_held_is_one_of_the_features(name, normalized, weighted):
    """An implicit step holds bandwidths where they are: of the features, which have other units than the points."""
    p = Particles(X, normal(len(X), seed=4) if weighted else None)
    F = InFeatures(RULES[name](Particles(Y)), lambda x: [100 * x[:, :1], torch.stack([x, x.sin()], 1)], normalized)
    held = F.fit(p)
    torch.testing.assert_close(held.value(p), F.value(p), rtol=1e-12, atol=0)
    assert not torch.isclose(held.value(Particles(3 * X)), F.value(Particles(3 * X)), rtol=1e-3)  # it stays
    if not (
        normalized and name == "two"
    ):  # an entropy depends on the unit, in which a second batch would count as well
        torch.testing.assert_close(held.contrast(p).value(p), F.contrast(p).value(p), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["median", "nearest", "kale"])
def test_the_velocity_at_points_has_the_bandwidth_of_the_features(name):
    F, p = InFeatures(RULES[name](Particles(Y)), lambda x: 100 * x.square()), Particles(X)
    there = velocity_at(Autograd(), F, p, None, X + 1e-9)
    torch.testing.assert_close(there, Autograd().velocity(F, p, None), rtol=1e-4, atol=1e-7)


def test_functionals_without_rules_are_not_looked_at_again():
    calls = []
    F = InFeatures(SquaredMMD(Particles(Y), RBF(1.0)), lambda x: calls.append(0) or x)
    assert F.fit(Particles(X)) is F
    assert not calls


def test_units_are_held_in_an_implicit_step():
    """A line search compares values: the gradient is that of the value only while the unit stays."""
    F, p = InFeatures(SquaredMMD(Particles(Y), RBF(1.0)), lambda x: 100 * x, normalized=True), Particles(X)
    held, direction, h = F.fit(p), normal(*X.shape, seed=8), 1e-5
    torch.testing.assert_close(held.value(p), F.value(p), rtol=1e-12, atol=0)
    rate = (held.value(Particles(X + h * direction)) - held.value(Particles(X - h * direction))) / (2 * h)
    slope = -(Autograd().velocity(held, p, None) * direction).sum() / len(X)
    torch.testing.assert_close(rate, slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", [RBF(1.0), MedianRBF()])
@pytest.mark.parametrize(
    "around",
    [
        lambda F: InFeatures(F, lambda x: [10 * x, x.sin()]),
        lambda F: InFeatures(F, lambda x: [10 * x, x.sin()], normalized=True),
        lambda F: InFeatures(0.5 * InFeatures(F + F, torch.sin, normalized=True) + F, lambda x: [10 * x, 3 * x]),
    ],
)
def test_units_inside_of_another_encoder_are_held_in_an_implicit_step(around, rule):
    F = around(InFeatures(SquaredMMD(Particles(Y), rule), lambda x: [x, torch.stack([x, 100 * x.cos()], 1)], True))
    p, direction, h = Particles(X, normal(len(X), seed=4)), normal(*X.shape, seed=8), 1e-6
    held = F.fit(p)
    torch.testing.assert_close(held.value(p), F.value(p), rtol=1e-12, atol=0)
    v, u = (Autograd().velocity(G, p, None) for G in (held, held.with_measures(lambda m: Particles(OTHER))))
    torch.testing.assert_close(
        Autograd().velocity(held.contrast(Particles(OTHER)), p, None), v - u, rtol=1e-9, atol=1e-12
    )
    rate = (held.value(replace(p, x=X + h * direction)) - held.value(replace(p, x=X - h * direction))) / (2 * h)
    slope = -p.w @ (v * direction).sum(1)
    torch.testing.assert_close(rate, slope, rtol=1e-5, atol=1e-9)
