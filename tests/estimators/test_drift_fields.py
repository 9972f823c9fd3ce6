"""Drift fields of one-step generators: which are flows of something, what they are in closed form, and what debiases them."""

import math

import pytest
import torch
from _exact import double, rng

from wgflow import (
    KL,
    RBF,
    Autograd,
    BadInput,
    EnergyDistance,
    EvaluationNoise,
    ForwardEuler,
    Functional,
    InFeatures,
    Laplace,
    MeanShift,
    MedianRBF,
    MixedNegatives,
    NearestRBF,
    Particles,
    PotentialEnergy,
    Pushforward,
    Regression,
    SinkhornDivergence,
    SlicedWasserstein,
    SquaredMMD,
    StandardNormal,
    Total,
    TwoBatch,
    UnitSpeed,
    guided,
    velocity_at,
    why_not,
)
from wgflow.kernels import Matern
from wgflow.optim import SGD, Adam

N, M, D = 8, 9, 2


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


X, Y, OTHER = normal(N, D), normal(M, D, seed=1) + 0.5, normal(M, D, seed=2)


def refined(estimator, F, second):
    es = estimator.init(F, rng())
    estimator.refine(F, lambda rng: second, es, rng())
    return es


def velocity(estimator, F, x, second=None):
    """The velocity at points x of which ``second``, or x itself, is the independent batch."""
    p = Particles(x)
    return estimator.velocity(F, p, refined(estimator, F, p if second is None else Particles(second)))


def sinkhorn(y, eps=0.5, **options):
    return SinkhornDivergence(Particles(y), blur=math.sqrt(eps), **{"tol": 1e-12} | options)


# --- gradients and others ------------------------------------------------------------------------------------------------


def asymmetry(field, x=X, step=1e-5):
    """|J - Jᵀ| / |J| of the whole Jacobian ∂v_i/∂x_j by central differences: 0 for a Wasserstein gradient of a function."""
    flat = x.flatten()
    columns = []
    for i in range(len(flat)):
        e = torch.zeros_like(flat)
        e[i] = step
        ends = [field((flat + sign * e).view_as(x)).flatten() for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    J = torch.stack(columns, 1)
    return float((J - J.T).norm() / J.norm())


MATERN = 0.49 * Matern(math.sqrt(3) * 0.7)
KL_Y, PLAIN = KL(Particles(Y)), Autograd()
GRADIENTS = {
    "sinkhorn": lambda x: velocity(PLAIN, sinkhorn(Y), x),
    "sinkhorn, two batches": lambda x: velocity(TwoBatch(), sinkhorn(Y), x, OTHER),
    "mmd": lambda x: velocity(PLAIN, 0.5 * SquaredMMD(Particles(Y), RBF(0.8)), x),
    "mmd, two batches": lambda x: velocity(TwoBatch(), 0.5 * SquaredMMD(Particles(Y), RBF(0.8)), x, OTHER),
    "unnormalised mean shift": lambda x: velocity(PLAIN, 0.5 * SquaredMMD(Particles(Y), MATERN), x),
}
OTHERS = {
    "mean shift, Gaussian": lambda x: velocity(MeanShift(RBF(0.8)), KL_Y, x),
    "mean shift, Laplace": lambda x: velocity(MeanShift(Laplace(0.7)), KL_Y, x),
    "mean shift, Laplace, others of the batch": lambda x: velocity(MeanShift(Laplace(0.7), own=True), KL_Y, x),
    "Algorithm 2": lambda x: velocity(MeanShift(Laplace(0.7), "joint", own=True), KL_Y, x),
    "both sides": lambda x: velocity(MeanShift(RBF(0.8), "sides"), KL_Y, x),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_jacobian_of_a_gradient_is_symmetric(name):
    """To the error of central differences of step 1e-5, 1e-9."""
    assert asymmetry(GRADIENTS[name]) < 1e-8


@pytest.mark.parametrize("name", OTHERS)
def test_the_jacobian_of_a_mean_shift_is_not(name):
    assert asymmetry(OTHERS[name]) > 1e-2


def test_the_mean_of_a_noisy_mean_shift_is_a_gradient_and_what_it_is_made_of_is_not():
    """That of KL of the smoothed laws: the mean over the noise, by quadrature, of points on a line that repel each other."""
    s, x = 0.8, normal(5, 1, seed=4)
    F, shift = KL(Particles(normal(6, 1, seed=3) + 1)), MeanShift(RBF(s))
    u = torch.linspace(-8 * s, 8 * s, 401, dtype=torch.float64)
    w = torch.softmax(-u.square() / (2 * s**2), 0)

    def smoothed(x):
        v = velocity(shift, F, (x[:, None] + u[:, None]).flatten(0, 1), x)
        return v.view(len(x), len(u)) @ w

    assert asymmetry(smoothed, x) < 1e-8
    assert asymmetry(lambda x: velocity(shift, F, x, x), x) > 1e-2


def test_a_single_sweep_is_no_gradient():
    from wgflow.numerics.softmin import displacement, softmin

    def swept(x):
        def to(y):
            u, v = x[None], y[None]
            log_a, log_b = (torch.full((1, len(z)), -math.log(len(z)), dtype=torch.float64) for z in (x, y))
            g = softmin(0.5, v, u, log_a)
            return -displacement(0.5, u, v, log_b + g / 0.5)[0]

        return to(Y) - to(x)

    assert asymmetry(swept) > 1e-2


@pytest.mark.parametrize("estimator", [MeanShift(RBF(0.8)), UnitSpeed(Autograd()), Total((MeanShift(RBF(1.0)),))])
def test_what_is_no_gradient_says_so(estimator):
    assert not estimator.is_function
    assert not estimator.gives_potential


def curl(estimator, second=OTHER):
    """Asymmetry of ∂v(x)/∂x at one point, the laws held fixed."""
    es = refined(estimator, KL_Y, Particles(second))
    return asymmetry(lambda x: estimator.velocity(KL_Y, Particles(x), es), x=double([[0.3, -0.2]]))


def test_the_gaussian_mean_shift_is_a_gradient_in_space_and_that_of_laplace_is_not():
    assert curl(MeanShift(RBF(0.8))) < 1e-9
    assert curl(MeanShift(Laplace(0.7))) > 1e-2


# --- closed forms --------------------------------------------------------------------------------------------------------


def means(k, x, y):
    """N(x) = Σ_j k(|x - y_j|) (y_j - x) / m, and its normaliser, by loops."""
    found = [sum((y_j - x_i) * k((x_i - y_j).norm()) for y_j in y) / len(y) for x_i in x]
    return torch.stack(found), torch.stack([sum(k((x_i - y_j).norm()) for y_j in y) / len(y) for x_i in x])[:, None]


def test_the_gaussian_mean_shift_is_the_difference_of_parzen_scores():
    s = 0.8

    def score(x, y):
        x = x.clone().requires_grad_()
        log = torch.logsumexp(-torch.cdist(x, y).square() / (2 * s**2), 1)
        return torch.autograd.grad(log.sum(), x)[0]

    expected = s**2 * (score(X, Y) - score(X, OTHER))
    torch.testing.assert_close(velocity(MeanShift(RBF(s)), KL_Y, X, OTHER), expected, rtol=0, atol=1e-12)


def test_the_unnormalised_laplace_mean_shift_is_the_flow_of_an_mmd():
    """Of the companion kernel τ (r + τ) e^{-r/τ}, a Matérn kernel: ∇k#(x, y) = k(x, y) (y - x)."""
    tau = 0.7
    k = lambda r: torch.exp(-r / tau)  # noqa: E731
    expected = means(k, X, Y)[0] - means(k, X, X)[0]
    companion = tau**2 * Matern(math.sqrt(3) * tau)
    v = velocity(PLAIN, 0.5 * SquaredMMD(Particles(Y), companion), X)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-12)


def test_evaluation_noise_of_the_bandwidth_makes_the_mean_shift_kl_of_the_smoothed_laws():
    """At one point: the mean over noise is s² times the gradient of (k * log(ρ_s/ν_s)), by quadrature."""
    s, n = 0.8, 40_000
    x = double([[0.4]])
    nu, rho = Particles(normal(5, 1, seed=3) + 1), Particles(normal(5, 1, seed=4))
    u = torch.linspace(-6 * s, 6 * s, 2001, dtype=torch.float64)[:, None]
    w = torch.softmax(-u[:, 0].square() / (2 * s**2), 0)
    shift = MeanShift(RBF(s))
    es = refined(shift, KL(nu), rho)
    expected = float(w @ shift.velocity(KL(nu), Particles(x + u), es)[:, 0])
    noisy = EvaluationNoise(shift, s)
    es = noisy.init(KL(nu), rng(5))
    noisy.refine(KL(nu), lambda rng: rho, es, rng(6))
    v = noisy.velocity(KL(nu), Particles(x.expand(n, 1)), es)[:, 0]
    assert float(v.mean()) == pytest.approx(expected, abs=5 * float(v.std()) / math.sqrt(n))


def algorithm_2(x, y, negatives, T, floor=0.0, mask=True):
    """Algorithm 2 of Deng et al., as they list it."""
    to, off = torch.cdist(x, y), torch.cdist(x, negatives)
    if mask:
        off = off + 1e6 * torch.eye(len(x), len(negatives), dtype=x.dtype)
    logits = -torch.cat([to, off], 1) / T
    A = (logits.softmax(1) * logits.softmax(0)).clamp(min=floor).sqrt()
    a, b = A[:, : len(y)], A[:, len(y) :]
    return b.sum(1, keepdim=True) * (a @ y) - a.sum(1, keepdim=True) * (b @ negatives)


@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_the_joint_mean_shift_is_algorithm_2(floor):
    y, other = Y[:N], OTHER[:N]
    own = velocity(MeanShift(Laplace(0.3), "joint", own=True, floor=floor), KL(Particles(y)), X)
    torch.testing.assert_close(own, algorithm_2(X, y, X, 0.3, floor), rtol=0, atol=1e-12)
    two = velocity(MeanShift(Laplace(0.3), "joint", floor=floor), KL(Particles(y)), X, other)
    torch.testing.assert_close(two, algorithm_2(X, y, other, 0.3, floor, mask=False), rtol=0, atol=1e-12)


def test_mixed_negatives_count_as_in_the_paper():
    """Other points repel with weight w = (α - 1)(N - 1)/M each, the paper's, in the affinity of Algorithm 2."""
    alpha, y, others = 1.7, Y[:N], OTHER[:5]
    e = MeanShift(Laplace(0.5), "joint", own=True, negatives=MixedNegatives(Particles(others), alpha))
    w = (alpha - 1) * (N - 1) / len(others)
    logits = -torch.cat([torch.cdist(X, y), torch.cdist(X, X), torch.cdist(X, others)], 1) / 0.5
    logits[:, N : 2 * N] -= 1e6 * torch.eye(N, dtype=X.dtype)
    rows = logits.clone()
    rows[:, 2 * N :] += math.log(w)
    A = (rows.softmax(1) * logits.softmax(0)).sqrt()
    a, b = A[:, :N], A[:, N:]
    expected = b.sum(1, keepdim=True) * (a @ y) - a.sum(1, keepdim=True) * (b @ torch.cat([X, others]))
    torch.testing.assert_close(velocity(e, KL(Particles(y)), X), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalized", ["rows", "sides", "joint"])
def test_a_mean_shift_moves_with_the_points_and_knows_no_order(normalized):
    e = MeanShift(Laplace(0.5), normalized)
    v, t = velocity(e, KL_Y, X, OTHER), double([3.0, -7.0])
    moved = velocity(e, KL(Particles(Y + t)), X + t, OTHER + t)
    torch.testing.assert_close(moved, v, rtol=0, atol=1e-12)
    order = torch.randperm(N, generator=rng(9))
    torch.testing.assert_close(velocity(e, KL(Particles(Y.flip(0))), X[order], OTHER), v[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "make"),
    [
        (TwoBatch(), sinkhorn),
        (TwoBatch(), lambda y: 0.5 * SquaredMMD(Particles(y), RBF(0.8))),
        (TwoBatch(), lambda y: 0.5 * EnergyDistance(Particles(y))),
        (MeanShift(Laplace(0.7)), lambda y: KL(Particles(y))),
        (MeanShift(RBF(0.7), "sides"), lambda y: KL(Particles(y))),
        (MeanShift(Laplace(0.7), "joint"), lambda y: KL(Particles(y))),
    ],
)
def test_two_batches_that_change_places_change_the_sign(estimator, make):
    v, w = velocity(estimator, make(Y), X, OTHER), velocity(estimator, make(OTHER), X, Y)
    torch.testing.assert_close(v, -w, rtol=0, atol=1e-11)


@pytest.mark.parametrize("make", [sinkhorn, lambda y: 0.5 * SquaredMMD(Particles(y), RBF(0.8))])
def test_the_contrast_is_the_difference_of_two_flows(make):
    """The particles' own term cancels, and is not computed."""
    both = velocity(PLAIN, make(Y), X) - velocity(PLAIN, make(OTHER), X)
    torch.testing.assert_close(velocity(TwoBatch(), make(Y), X, OTHER), both, rtol=0, atol=1e-10)


# --- what the second batch is for ----------------------------------------------------------------------------------------


def slope(estimator, F_of, d, n=64, batches=60):
    """E<v, x>/E|x|² at equal laws N(0, I): 0 is unbiased, below 0 the law contracts."""
    top = bottom = 0.0
    for k in range(batches):
        x, y, second = (normal(n, d, seed=3 * k + j) for j in range(3))
        v = velocity(estimator, F_of(y), x, second)
        top, bottom = top + float((v * x).sum()), bottom + float(x.square().sum())
    return top / bottom


def test_an_independent_batch_leaves_no_drift_at_equal_laws_and_the_own_batch_contracts():
    """At d = 16 and eps = 0.1 d; published: 0.003 and -0.57, where a scale 10 % wrong makes a signal of 0.08."""
    make = lambda y: sinkhorn(y, 1.6, tol=1e-6)  # noqa: E731
    assert abs(slope(TwoBatch(), make, 16)) < 0.02
    assert slope(PLAIN, make, 16, batches=5) == pytest.approx(-0.57, abs=0.04)


@pytest.mark.parametrize("normalized", ["rows", "joint"])
def test_a_mean_shift_needs_it_as_well(normalized):
    make = lambda y: KL(Particles(y))  # noqa: E731
    for e in (MeanShift(Laplace(1.0), normalized), MeanShift(Laplace(1.0), normalized, own=True)):
        assert abs(slope(e, make, 16)) < 0.02
    own = lambda e, x, y: velocity(e, KL(Particles(y)), x)  # noqa: E731
    x, y = normal(64, 16), normal(64, 16, seed=1)
    v = own(MeanShift(Laplace(0.3)), x, y)
    assert float((v * x).sum() / x.square().sum()) < -0.3


# --- generators ----------------------------------------------------------------------------------------------------------


def test_one_regression_step_is_a_gradient_step_of_the_contrast():
    """θ - lr τ d/dθ [OT(G, ν) - OT(G, ρ')], by autograd through a converged value."""
    lr, tau = 0.1, 0.7
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    F, solver = sinkhorn(Y[:N], batch=N), ForwardEuler(TwoBatch(), batch=N)
    start = Pushforward(StandardNormal(2, dtype=torch.float64), net, regression=Regression(SGD(lr), batch=N))
    state = solver.init(F, start, rng(3))
    again = rng()
    again.set_state(state.rng.get_state())
    second = Particles(net(torch.randn(N, 2, generator=again, dtype=torch.float64)).detach())
    z = torch.randn(N, 2, generator=again, dtype=torch.float64)
    value = F.contrast(second).value(Particles(net(z)))
    slopes = torch.autograd.grad(value, list(net.parameters()))
    expected = [p.detach() - lr * tau * g for p, g in zip(net.parameters(), slopes, strict=True)]
    solver.update(F, state, tau)
    for p, e in zip(state.measure.map.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=0, atol=1e-10)


def test_no_gradient_reaches_the_data_or_the_second_batch():
    y, second = Y.clone().requires_grad_(), Particles(OTHER.clone().requires_grad_())
    for e, F in ((TwoBatch(), sinkhorn(y)), (MeanShift(RBF(1.0)), KL(Particles(y)))):
        es = refined(e, F, second)
        x = X.clone().requires_grad_()
        s = e.surrogate(F, Particles(x), es)
        (g,) = torch.autograd.grad(s, x)
        assert bool(g.abs().max() > 0)
        assert not e.velocity(F, Particles(X), es).requires_grad


def test_unit_speed_is_one_in_every_term():
    F = sinkhorn(Y, 0.1) + 3.0 * sinkhorn(Y, 1.0)
    parts = UnitSpeed(TwoBatch()).velocities(F, Particles(X), refined(UnitSpeed(TwoBatch()), F, Particles(OTHER)))
    assert len(parts) == 2
    for view, v in parts:
        assert float(v[0].square().sum(1).mean()) == pytest.approx(1, abs=1e-12)
        assert float(view.weight) in (1.0, 3.0)
    total = velocity(UnitSpeed(TwoBatch()), F, X, OTHER)
    torch.testing.assert_close(total, parts[0][1][0] + 3 * parts[1][1][0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("unit", [1e-16, 1e-5, 1e18])
def test_unit_speed_is_one_in_all_units(unit):
    x, y = (unit * p.float() for p in (X, Y))
    e = UnitSpeed(MeanShift(RBF(unit), own=True))
    assert float(velocity(e, KL(Particles(y)), x).double().square().sum(1).mean()) == pytest.approx(1, abs=1e-5)


def test_a_field_that_is_zero_stays_so_at_unit_speed():
    assert bool((velocity(UnitSpeed(TwoBatch()), sinkhorn(Y), X, Y) == 0).all())


@pytest.mark.parametrize(("normalized", "expected"), [("rows", Y.mean(0) - X[0]), ("sides", 0.0), ("joint", 0.0)])
def test_a_single_point_repels_nothing(normalized, expected):
    v = velocity(MeanShift(RBF(1e6), normalized, own=True), KL(Particles(Y)), X[:1])
    torch.testing.assert_close(v[0], torch.zeros(D, dtype=v.dtype) + expected, rtol=0, atol=1e-10)


# --- guidance ------------------------------------------------------------------------------------------------------------


def test_no_guidance_is_no_change():
    F, whole = sinkhorn(Y), sinkhorn(OTHER)
    assert guided(F, whole, 0.0) is F
    mixed = TwoBatch(negatives=MixedNegatives(Particles(OTHER + 5), 1.0))
    assert torch.equal(velocity(mixed, F, X, OTHER), velocity(TwoBatch(), F, X, OTHER))


def test_velocity_guidance_is_the_formula_of_the_paper():
    """(T_{ρν} - T_{ρρ'}) + w (T_{ρν} - T_{ρμ}), with barycentric maps T = x + velocity of the raw cost."""
    w, whole = 0.4, normal(M, D, seed=8) - 1
    T = {k: X + velocity(PLAIN, sinkhorn(y, debias=False), X) for k, y in (("y", Y), ("o", OTHER), ("u", whole))}
    expected = T["y"] - T["o"] + w * (T["y"] - T["u"])
    v = velocity(TwoBatch(), guided(sinkhorn(Y), sinkhorn(whole), w), X, OTHER)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-10)


def test_mixed_negatives_stand_still_at_the_sharpened_law():
    """On atoms: for ρ' = ρ = (α ν - (α - 1) μ) the mixture of negatives is ν, and an MMD has no velocity."""
    atoms, nu, mu, alpha = double([[0.0], [1.0], [2.0]]), double([0.5, 0.3, 0.2]), double([0.2, 0.3, 0.5]), 1.5
    rho = alpha * nu - (alpha - 1) * mu
    F = 0.5 * SquaredMMD(Particles(atoms, nu.log()), RBF(0.7))
    e = TwoBatch(negatives=MixedNegatives(Particles(atoms, mu.log()), alpha))
    p = Particles(atoms, rho.log())
    assert float(e.velocity(F, p, refined(e, F, p)).abs().max()) < 1e-14


# --- masses and bad input ------------------------------------------------------------------------------------------------


def mass_on_the_left(F_of, estimator, h, half=2.0, steps=200, n=200):
    from wgflow import GaussianMixture, solve

    modes = double([[-half, 0.0], [half, 0.0]])
    target = GaussianMixture(modes, 0.3, double([0.3, 0.7])).draw(n, rng(1))
    start = GaussianMixture(modes, 0.3, double([0.7, 0.3])).draw(n, rng(2))
    flow = solve(F_of(target), ForwardEuler(estimator), start, step_size=h, num_steps=steps)
    return float((flow.measure.x[:, 0] < 0).double().mean()), float((target.x[:, 0] < 0).double().mean())


@pytest.mark.parametrize(
    ("make", "h"),
    [
        (lambda t: 0.5 * EnergyDistance(t), 0.2),
        (lambda t: 0.5 * SlicedWasserstein(t, directions=20), 1.0),
    ],
)
def test_far_modes_exchange_mass(make, h):
    found, wanted = mass_on_the_left(make, Autograd(), h)
    assert found == pytest.approx(wanted, abs=0.03)


def test_a_narrow_mean_shift_freezes_their_masses():
    found, wanted = mass_on_the_left(KL, MeanShift(RBF(0.3), own=True), 0.5)
    assert found > wanted + 0.3


def test_unequal_batches_are_refused_before_work_starts():
    start = Pushforward(StandardNormal(2), torch.nn.Linear(2, 2), regression=Regression(Adam(1e-3)))
    F = SinkhornDivergence(StandardNormal(2), blur=1.0, batch=64)
    for e, G in ((TwoBatch(), F), (UnitSpeed(TwoBatch()), F), (MeanShift(RBF(1.0)), KL(StandardNormal(2), batch=64))):
        assert "64 target points with 256 of the Pushforward" in why_not(G, ForwardEuler(e), start)
        assert why_not(G, ForwardEuler(e, batch=64), start) is None
    es = refined(TwoBatch(), F, Particles(torch.zeros(5, 2)))
    with pytest.raises(BadInput, match="compares 64 target points with 5"):
        TwoBatch().velocity(F.freeze(rng()), Particles(torch.zeros(3, 2)), es)


def test_functionals_without_samples_or_of_another_kind_are_refused():
    start = Pushforward(StandardNormal(2), torch.nn.Linear(2, 2), regression=Regression(Adam(1e-3)))
    V = PotentialEnergy(lambda x: x.square().sum(1))
    assert "compares with no samples" in why_not(V, ForwardEuler(TwoBatch()), start)
    F: Functional = SquaredMMD(StandardNormal(2), RBF(1.0))
    assert "direction of KL" in why_not(F, ForwardEuler(MeanShift(RBF(1.0))), start)
    assert "looks at all of it" in why_not(
        KL(StandardNormal(2)), ForwardEuler(UnitSpeed(Total((MeanShift(RBF(1.0)), *_critics())))), start
    )


@pytest.mark.parametrize(
    "estimator", [TwoBatch(), MeanShift(RBF(1.0)), EvaluationNoise(UnitSpeed(MeanShift(RBF(1.0))), 0.1)]
)
def test_particles_have_no_second_batch(estimator):
    F = KL(StandardNormal(2)) if not isinstance(estimator, TwoBatch) else EnergyDistance(StandardNormal(2))
    start = Particles(torch.zeros(3, 2))
    assert "are all there is of it" in why_not(F, ForwardEuler(estimator), start)
    assert why_not(KL(StandardNormal(2)), ForwardEuler(MeanShift(RBF(1.0), own=True)), start) is None


def _critics():
    from wgflow import Critic

    return (Critic(torch.nn.Linear(2, 1)),)


def test_a_floor_is_of_two_softmaxes():
    with pytest.raises(BadInput, match="leave it out"):
        MeanShift(RBF(1.0), floor=1e-6)
    with pytest.raises(BadInput, match=r"alpha=0\.5"):
        MixedNegatives(StandardNormal(2), 0.5)


# --- rules for the affinity's bandwidth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [MedianRBF(), NearestRBF()])
@pytest.mark.parametrize("normalized", ["rows", "sides", "joint"])
def test_points_without_mass_do_not_count_in_a_rule(rule, normalized):
    """They fill up the clouds of small classes, too."""
    F, log_w = KL(Particles(Y)), normal(N, seed=7)
    field = MeanShift(rule, normalized, own=True)
    ghosts = Particles(torch.cat([X, 1000 * X[:3]]), torch.cat([log_w, log_w.new_full((3,), -math.inf)]))
    theirs, ours = (field.velocity(F, p, field.init(F, rng())) for p in (ghosts, Particles(X, log_w)))
    torch.testing.assert_close(theirs[:N], ours, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [MedianRBF(), NearestRBF()])
def test_a_rule_looks_at_the_particles_not_at_the_points_asked_about(rule):
    F, field = KL(Particles(Y)), MeanShift(rule)
    es = refined(field, F, Particles(OTHER))
    held = MeanShift(rule.fit(X))
    there = velocity_at(field, F, Particles(X), es, X[:1] + 1.0)
    torch.testing.assert_close(there, velocity_at(held, F, Particles(X), es, X[:1] + 1.0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("made_of", [lambda e: e, UnitSpeed, lambda e: Total((e, e))], ids=["itself", "speed", "total"])
def test_an_implicit_step_holds_the_rule(made_of):
    F, far = KL(Particles(Y)), Particles(3 * X)
    ruled, fixed = (made_of(MeanShift(kernel, own=True)) for kernel in (MedianRBF(), MedianRBF().fit(X)))
    held, by_hand = (e.velocity(F, far, e.init(F, rng())) for e in (ruled.fit(Particles(X)), fixed))
    torch.testing.assert_close(held, by_hand, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(held, ruled.velocity(F, far, ruled.init(F, rng())), rtol=1e-3)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("asked", [lambda rule: rule, lambda rule: lambda k: rule], ids=["rule", "rule of the step"])
def test_a_rule_looks_at_the_features_of_the_particles(asked, own):
    """Which have other units than the points, and of which those of the points asked about are none."""
    rule, seen = NearestRBF(), lambda x: 100 * x
    F = InFeatures(KL(Particles(Y)), seen)
    fields = [MeanShift(k, own=own) for k in (asked(rule), RBF(rule.bandwidth(seen(X))))]
    states = [refined(field, F, Particles(OTHER)) for field in fields]
    y = X[:3] + 0.01
    there, by_hand = (velocity_at(e, F, Particles(X), es, y) for e, es in zip(fields, states, strict=True))
    torch.testing.assert_close(there, by_hand, rtol=1e-6, atol=1e-9)


def test_units_are_those_of_the_particles_not_of_the_points_asked_about():
    F, field = InFeatures(KL(Particles(Y)), lambda x: 100 * x, normalized=True), MeanShift(RBF(0.5))
    es = refined(field, F, Particles(OTHER))
    assert field.pointwise
    far = X[:1] + 50.0
    there = velocity_at(field, F, Particles(X), es, torch.cat([X, far]))[: len(X)]
    torch.testing.assert_close(there, velocity_at(field, F, Particles(X), es, X), rtol=1e-9, atol=1e-12)
