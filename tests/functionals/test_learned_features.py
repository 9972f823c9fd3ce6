"""Distances of learned features: what they are for given features, and that a critic finds ones that tell laws apart."""

import itertools
from dataclasses import replace

import pytest
import torch
from _exact import double, rng
from torch import Tensor, nn

from wgflow import (
    JKO,
    KL,
    MMD,
    RBF,
    Adam,
    BadInput,
    Critic,
    Dataset,
    EnergyDistance,
    ForwardEuler,
    GradientPenalty,
    LearnedFeatures,
    MedianRBF,
    NearestRBF,
    Particles,
    PotentialEnergy,
    Pushforward,
    Regression,
    SinkhornDivergence,
    SlicedWasserstein,
    SquaredMMD,
    StandardNormal,
    Unsupported,
    solve,
    velocity_at,
    why_not,
)

K = RBF(1.3)
NU = Particles(
    torch.randn(7, 2, generator=rng(0), dtype=torch.float64), torch.randn(7, generator=rng(1), dtype=torch.float64)
)
RHO = Particles(
    torch.randn(5, 2, generator=rng(2), dtype=torch.float64) + 1, torch.randn(5, generator=rng(3), dtype=torch.float64)
)


def linear(A: Tensor):
    return lambda x: x @ A.T


# --- distinct pairs --------------------------------------------------------------------------------------------------


def test_the_mean_over_samples_of_the_u_statistic_is_the_squared_mmd_of_the_laws() -> None:
    """All samples with replacement of two from three atoms and of three from two, by enumeration."""
    ours, theirs = double([[0.0], [1.0], [3.0]]), double([[0.5], [2.0]])
    values = [
        SquaredMMD(Particles(theirs[list(j)]), K, pairs="distinct").value(Particles(ours[list(i)]))
        for i in itertools.product(range(3), repeat=2)
        for j in itertools.product(range(2), repeat=3)
    ]
    law = SquaredMMD(Particles(theirs), K).value(Particles(ours))
    torch.testing.assert_close(torch.stack(values).mean(), law, rtol=0, atol=1e-14)


def test_distinct_pairs_leave_out_a_point_with_itself_whatever_its_weight() -> None:
    w, b = RHO.w, NU.w

    def same(x: Tensor, w: Tensor) -> Tensor:
        pairs = itertools.permutations(range(len(x)), 2)
        return sum(w[i] * w[j] * K.profile((x[i] - x[j]).square().sum()) for i, j in pairs) / (1 - w.square().sum())

    across = w @ K(RHO.x, NU.x) @ b
    expected = same(RHO.x, w) + same(NU.x, b) - 2 * across
    torch.testing.assert_close(SquaredMMD(NU, K, pairs="distinct").value(RHO), expected, rtol=0, atol=1e-14)


def test_one_point_has_no_distinct_pairs() -> None:
    with pytest.raises(BadInput, match="two points at least"):
        SquaredMMD(NU, K, pairs="distinct").value(Particles(RHO.x[:1]))


# --- given features --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term",
    [
        SquaredMMD(NU, K),
        SquaredMMD(NU, K, pairs="distinct"),
        MMD(NU, K),
        EnergyDistance(NU),
        SinkhornDivergence(NU, blur=0.5),
    ],
    ids=lambda F: type(F).__name__,
)
def test_it_is_the_distance_of_the_features(term) -> None:
    A = double([[1.0, 2.0], [0.0, -1.0], [0.5, 0.5]])
    F = LearnedFeatures(term)
    expected = replace(term, target=Particles(NU.x @ A.T, NU.log_w)).value(Particles(RHO.x @ A.T, RHO.log_w))
    for form in (F.variational, F.surrogate):
        torch.testing.assert_close(form(linear(A), RHO), expected, rtol=1e-10, atol=1e-12)


def test_the_factor_of_linear_features_is_that_of_their_matrix() -> None:
    """Two features exactly; forty with orthogonal rows, where every choice of signs gives the same."""
    F = LearnedFeatures(SquaredMMD(NU, K), damping=10.0)
    plain = LearnedFeatures(F.term)
    A = double([[1.0, 2.0], [0.0, -1.0]])
    expected = plain.variational(linear(A), RHO) / (1 + 10 * 6)
    torch.testing.assert_close(F.variational(linear(A), RHO), expected, rtol=1e-12, atol=0)

    Q = torch.linalg.qr(torch.randn(40, 40, generator=rng(4), dtype=torch.float64))[0] * torch.arange(40.0)
    wide = Particles(torch.randn(9, 40, generator=rng(5), dtype=torch.float64))
    G = LearnedFeatures(SquaredMMD(wide, RBF(300.0)), damping=10.0)
    rho = Particles(torch.randn(4, 40, generator=rng(6), dtype=torch.float64))
    expected = LearnedFeatures(G.term).variational(linear(Q.T), rho) / (1 + 10 * Q.square().sum())
    for seed in range(2):
        found = G.freeze(rng(seed)).variational(linear(Q.T), rho)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_signs_estimate_the_factor_of_many_features_without_bias() -> None:
    A = torch.randn(17, 3, generator=rng(7), dtype=torch.float64)
    x = torch.randn(4, 3, generator=rng(8), dtype=torch.float64).requires_grad_(True)
    F = LearnedFeatures(SquaredMMD(Particles(x.detach()), K), damping=1.0)
    found = torch.stack([F.freeze(rng(seed))._squared_slopes(x @ A.T, x)[0] for seed in range(2000)])
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - A.square().sum()) < 4 * error < 0.1 * A.square().sum()


# --- learned ones ----------------------------------------------------------------------------------------------------


def features(m: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, m))


@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_a_critic_learns_features_that_tell_laws_apart(damping: float) -> None:
    x = torch.randn(64, 2, generator=rng(0))
    F, rho = LearnedFeatures(SquaredMMD(Particles(x + 0.5), RBF(1.0)), damping), Particles(x)
    critic = Critic(features, Adam(1e-2), penalty=GradientPenalty(0.1, "zero"))
    es = critic.init(F, rng(1))
    values = [critic.refine(F, lambda _: rho, es, rng(2))["critic/objective"].item() for _ in range(60)]
    assert values[-1] > 3 * values[0] > 0


@pytest.mark.parametrize("solver", [ForwardEuler, JKO])
def test_a_generator_follows_the_features(solver) -> None:
    data = Dataset(torch.randn(300, 2, generator=rng(0)) * torch.tensor([0.3, 1.0]) + torch.tensor([2.0, -1.0]))
    F = LearnedFeatures(SquaredMMD(data, RBF(1.0), 64, "distinct"))
    critic = Critic(features, Adam(5e-3), penalty=GradientPenalty(1.0, "zero"))
    options = {"batch": 64} | ({"optim": Adam(2e-2), "iters": 40} if solver is JKO else {})
    net = nn.Linear(2, 2)
    net.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})  # one start, whatever ran before
    start = Pushforward(StandardNormal(2), net, regression=Regression(Adam(2e-2), batch=64))
    flow = solve(F, solver(critic, **options), start, step_size=2.0, num_steps=4 if solver is JKO else 160)
    distance = lambda rho: EnergyDistance(data, 300).freeze(rng(3)).value(rho.draw(300, rng(4))).item()  # noqa: E731
    assert distance(flow.measure) < 0.1 * distance(start)


def test_a_potential_of_features_depends_on_the_law() -> None:
    F, critic = LearnedFeatures(SquaredMMD(NU, K)), Critic(lambda: features().double())
    es = critic.init(F, rng(0))
    with pytest.raises(Unsupported, match="depends on the law"):
        critic.potential(F, NU.x, es)
    # and its slope elsewhere is that of the witness between the features
    y = torch.randn(3, 2, generator=rng(5), dtype=torch.float64).requires_grad_(True)
    h = lambda p: Particles(es.net(p.x), p.log_w)  # noqa: E731
    witness = 2 * SquaredMMD(h(NU), K).witness_at(h(RHO), es.net(y))
    (slope,) = torch.autograd.grad(witness.sum(), y)
    torch.testing.assert_close(velocity_at(critic, F, RHO, es, y.detach()), -slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rule", [MedianRBF(), NearestRBF()])
def test_a_rule_is_one_of_the_features_of_the_particles(rule) -> None:
    """Not of the points asked about, however many these are, and an implicit step keeps it."""
    critic, y = Critic(lambda: features().double()), RHO.x.repeat(3, 1) + 0.01
    learned = LearnedFeatures(SquaredMMD(NU, rule))
    es = critic.init(learned, rng(0))
    h = es.net(RHO.x).detach()
    fixed = LearnedFeatures(SquaredMMD(NU, RBF(rule.bandwidth(h, RHO.log_w))))
    there, by_hand = (velocity_at(critic, F, RHO, es, y) for F in (learned, fixed))
    torch.testing.assert_close(there, by_hand, rtol=1e-9, atol=1e-12)
    moved = Particles(3 * RHO.x, RHO.log_w)
    one, two = (critic.surrogate(F, moved, es) for F in (learned.fit(RHO), fixed))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=0)
    assert fixed.fit(RHO) is fixed


def test_several_outputs_are_for_features_only() -> None:
    start = Pushforward(StandardNormal(2), nn.Linear(2, 2))
    with pytest.raises(BadInput, match=r"must map .* to \(\d+,\) or \(\d+, 1\), got \(\d+, 4\)"):
        solve(KL(StandardNormal(2)), JKO(Critic(features)), start, step_size=1.0, num_steps=1)
    assert why_not(LearnedFeatures(SquaredMMD(StandardNormal(2), K)), JKO(Critic(features)), start) is None
    assert "Use JKO(estimator=Critic(net))" in why_not(LearnedFeatures(SquaredMMD(StandardNormal(2), K)), JKO(), start)


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (KL(NU), "no value on points"),
        (0.5 * SquaredMMD(NU, K), "multiply outside"),
        (SquaredMMD(NU, K) + EnergyDistance(NU), "multiply outside"),
        (PotentialEnergy(lambda x: x.square().sum(1)), "multiply outside"),
        (SlicedWasserstein(NU), "not of features"),
    ],
)
def test_terms_that_do_not_compare_features_are_refused(term, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        LearnedFeatures(term)
