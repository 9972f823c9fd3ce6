"""Functionals of every class by itself: the flow of a point is that of its class, and no label moves."""

from dataclasses import replace

import pytest
import torch
from _exact import double, rng

from wgflow import (
    KL,
    RBF,
    Autograd,
    BadInput,
    Balanced,
    Dataset,
    GaussianMixture,
    InFeatures,
    Labelled,
    LabelledLatent,
    MeanShift,
    MedianRBF,
    MixedNegatives,
    NearestRBF,
    OfEveryClass,
    Particles,
    PerClass,
    SinkhornDivergence,
    SquaredMMD,
    StandardNormal,
    TwoBatch,
    UnitSpeed,
    guided,
)

CLASSES, D = 3, 2


def labelled(n, seed, shift=0.0):
    """Points with classes in no order, and not equally many of each."""
    x = torch.randn(n, D, generator=rng(seed), dtype=torch.float64) + shift
    labels = torch.cat([torch.arange(CLASSES), torch.randint(CLASSES, (n - CLASSES,), generator=rng(seed + 1))])
    return x, labels


def behind(x, labels):
    return torch.cat([x, torch.nn.functional.one_hot(labels, CLASSES).double()], 1)


X, CX = labelled(11, 0)
Y, CY = labelled(13, 5, 0.5)
Z, CZ = labelled(12, 9)
TERMS = {
    "sinkhorn": lambda y: SinkhornDivergence(y, blur=0.7, tol=1e-12),
    "mmd": lambda y: SquaredMMD(y, RBF(0.8)),
    "features": lambda y: InFeatures(
        SinkhornDivergence(y, blur=0.7, tol=1e-12), lambda x: [x, torch.stack([x, x.square()], 1)]
    ),
}


def conditional(make):
    """PerClass of a functional whose target is the drawn, labelled cloud Y."""
    F = PerClass(make(Labelled(Dataset(Y, labels=CY))))
    return F.with_measures(lambda m: Particles(behind(Y, CY)))


def velocity(estimator, F, p, second):
    es = estimator.init(F, rng())
    estimator.refine(F, lambda rng: second, es, rng())
    return estimator.velocity(F, p, es)


@pytest.mark.parametrize("name", TERMS)
def test_the_value_is_the_mean_over_classes_by_their_mass(name):
    value = conditional(TERMS[name]).value(Particles(behind(X, CX)))
    parts = [
        float((c == CX).double().mean()) * TERMS[name](Particles(Y[c == CY])).value(Particles(X[c == CX]))
        for c in range(CLASSES)
    ]
    torch.testing.assert_close(value, sum(parts), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("estimator", [Autograd(), TwoBatch()])
def test_a_point_moves_with_its_class_and_keeps_its_label(name, estimator):
    second = Particles(
        behind(Z[: len(Y)], CZ[: len(Y)]) if isinstance(estimator, Autograd) else behind(*labelled(13, 20))
    )
    v = velocity(estimator, conditional(TERMS[name]), Particles(behind(X, CX)), second)
    assert float(v[:, D:].abs().max()) == 0
    for c in range(CLASSES):
        F, own = TERMS[name](Particles(Y[c == CY])), second.x[second.x[:, D + c] == 1][:, :D]
        if isinstance(estimator, TwoBatch):
            expected = Autograd().velocity(F.contrast(Particles(own)), Particles(X[c == CX]), None)
        else:
            expected = estimator.velocity(F, Particles(X[c == CX]), None)
        torch.testing.assert_close(v[c == CX, :D], expected, rtol=0, atol=1e-8)


def test_a_mean_shift_is_that_of_the_class():
    F, second = conditional(lambda y: KL(y)), Particles(behind(Z, CZ))
    v = velocity(MeanShift(RBF(0.7)), F, Particles(behind(X, CX)), second)
    for c in range(CLASSES):
        one = velocity(MeanShift(RBF(0.7)), KL(Particles(Y[c == CY])), Particles(X[c == CX]), Particles(Z[c == CZ]))
        torch.testing.assert_close(v[c == CX, :D], one, rtol=0, atol=1e-12)
    assert bool(velocity(UnitSpeed(MeanShift(RBF(0.7))), F, Particles(behind(X, CX)), second).isfinite().all())


@pytest.mark.parametrize("normalized", ["rows", "sides", "joint"])
def test_what_is_mixed_in_counts_against_the_other_points_of_the_class(normalized):
    counts = torch.tensor([2, 4, 5])
    x, cx, classes = X[:11], torch.arange(3).repeat_interleave(counts), range(3)
    extra = Dataset(torch.tensor([[0.4, -0.3]], dtype=torch.float64))

    def e(mixed):
        return MeanShift(RBF(0.7), normalized, own=True, negatives=MixedNegatives(mixed, 3.0, batch=1))

    v = velocity(
        e(OfEveryClass(extra, CLASSES)),
        conditional(lambda y: KL(y)),
        Particles(behind(x, cx)),
        Particles(behind(Z, CZ)),
    )
    for c in classes:
        p = Particles(x[c == cx])
        one = velocity(e(extra), KL(Particles(Y[c == CY])), p, p)
        torch.testing.assert_close(v[c == cx, :D], one, rtol=0, atol=1e-12)


def test_what_is_mixed_in_counts_in_every_class_as_in_that_alone():
    extra = Dataset(torch.tensor([[0.4, -0.3]], dtype=torch.float64))

    def e(mixed):
        return TwoBatch(negatives=MixedNegatives(mixed, 3.0, batch=1))

    F = PerClass(SquaredMMD(Balanced(Labelled(Dataset(Y, labels=CY))), RBF(0.8), batch=len(Y)))
    F = F.with_measures(lambda m: Particles(behind(Y, CY)))
    second, labels = Y.flip(0) + 0.3, CY
    v = velocity(e(OfEveryClass(extra, CLASSES)), F, Particles(behind(X, CX)), Particles(behind(second, labels)))
    for c in range(CLASSES):
        es = e(extra).init(F, rng())
        e(extra).refine(F, lambda rng, c=c: Particles(second[c == labels]), es, rng())
        against = SquaredMMD(Particles(Y[c == CY]), RBF(0.8)).contrast(e(extra).repelling(es.second, es))
        one = Autograd().velocity(against, Particles(X[c == CX]), None)
        torch.testing.assert_close(v[c == CX, :D], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_a_class_without_mass_is_no_part_of_the_value(name):
    F, p = conditional(TERMS[name]), behind(X, CX)
    value = F.value(Particles(p, torch.where(CX == 0, -torch.inf, 0.0).double()))
    torch.testing.assert_close(value, F.value(Particles(p[CX != 0])), rtol=0, atol=1e-10)


def test_points_of_every_class_are_of_each():
    """Guided away from the whole: the same in every class as guided there by hand."""
    whole = torch.randn(9, D, generator=rng(30), dtype=torch.float64)
    F = PerClass(
        guided(
            SquaredMMD(Labelled(Dataset(Y, labels=CY)), RBF(0.8)),
            SquaredMMD(OfEveryClass(Dataset(whole), CLASSES), RBF(0.8)),
            0.5,
        )
    )
    clouds = iter([Particles(behind(Y, CY)), OfEveryClass(Particles(whole), CLASSES).draw(9, rng())])
    v = Autograd().velocity(F.with_measures(lambda m: next(clouds)), Particles(behind(X, CX)), None)
    for c in range(CLASSES):
        one, all_ = (SquaredMMD(Particles(y), RBF(0.8)) for y in (Y[c == CY], whole))
        expected = Autograd().velocity(1.5 * one - 0.5 * all_, Particles(X[c == CX]), None)
        torch.testing.assert_close(v[c == CX, :D], expected, rtol=0, atol=1e-10)


def test_balanced_draws_take_the_classes_in_turn_and_every_point_of_a_class():
    data = Labelled(Dataset(Y, labels=CY))
    x = Balanced(data).draw(3000, rng()).x
    assert torch.equal(x[:, D:].argmax(1), torch.arange(3000) % CLASSES)
    for c in range(CLASSES):
        seen = {tuple(p) for p in x[c::CLASSES, :D].tolist()}
        assert seen == {tuple(p) for p in Y[c == CY].tolist()}
    z = Balanced(data.latent(StandardNormal(4))).draw(7, rng()).x
    assert z.shape == (7, 4 + CLASSES)
    assert torch.equal(z[:, 4:].argmax(1), torch.arange(7) % CLASSES)
    assert Balanced(LabelledLatent(StandardNormal(4), CLASSES)).num_classes == CLASSES


def test_targets_without_labels_and_empty_classes_are_refused():
    with pytest.raises(BadInput, match=r"a GaussianMixture and has no labels. Give it Balanced"):
        PerClass(SquaredMMD(GaussianMixture(torch.zeros(1, 2), 1.0), RBF(1.0)))
    F = conditional(TERMS["mmd"]).with_measures(lambda m: Particles(behind(Y[CY != 1], CY[CY != 1])))
    with pytest.raises(BadInput, match=r"none of class 1\. Take a larger batch, or Balanced"):
        F.value(Particles(behind(X, CX)))
    with pytest.raises(BadInput, match="no point of class 1"):
        Labelled(Dataset(double([[0.0], [1.0]]), labels=torch.tensor([0, 2])))


@pytest.mark.parametrize("rule", [MedianRBF(), NearestRBF()])
@pytest.mark.parametrize("inside", [lambda F: F, lambda F: InFeatures(F, lambda x: [x, torch.stack([x, 0.1 * x], 1)])])
def test_a_rule_that_is_held_is_one_of_the_points_without_labels(rule, inside):
    """Labels are a distance of the root of 2 apart, whatever the units of the points."""
    F, p = conditional(lambda y: inside(SquaredMMD(y, rule))), Particles(behind(0.01 * X, CX))
    torch.testing.assert_close(F.fit(p).value(p), F.value(p), rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rule", [RBF(0.5), MedianRBF()])
def test_the_units_of_every_class_are_held_in_an_implicit_step(rule, weighted):
    """A line search compares values: the gradient is that of the value only while units and bandwidths stay."""
    seen = lambda x: [10 * x, torch.stack([x, x.sin()], 1)]  # noqa: E731
    F = conditional(lambda y: 0.5 * InFeatures(SquaredMMD(y, rule), seen, normalized=True))
    log_w = torch.randn(len(X), generator=rng(3), dtype=torch.float64) if weighted else None
    p, direction, h = Particles(behind(X, CX), log_w), torch.zeros(len(X), D + CLASSES, dtype=torch.float64), 1e-5
    direction[:, :D] = torch.randn(len(X), D, generator=rng(4), dtype=torch.float64)
    held = F.fit(p)
    torch.testing.assert_close(held.value(p), F.value(p), rtol=1e-12, atol=0)
    up, down = (held.value(replace(p, x=p.x + s * h * direction)) for s in (1, -1))
    slope = -p.w @ (Autograd().velocity(held, p, None) * direction).sum(1)
    torch.testing.assert_close((up - down) / (2 * h), slope, rtol=1e-6, atol=0)
    far = Particles(behind(X + 3, CX), log_w)
    assert not torch.isclose(held.value(far), F.value(far), rtol=1e-3)
