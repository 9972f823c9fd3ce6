"""What bounds the slope of a critic: penalties by hand, networks by construction."""

import pytest
import torch
from _exact import double, mlp, rng
from torch import nn

from wgflow import (
    KL,
    R1,
    SGD,
    W1,
    Adam,
    BadInput,
    Clipped,
    Critic,
    ForwardEuler,
    GradientPenalty,
    Particles,
    Penalty,
    PotentialEnergy,
    SquaredW2,
    StandardNormal,
    solve,
    spectral_norm,
    why_not,
)

X, Y = Particles(double([[0.0, 0.0], [1.0, 2.0]])), Particles(double([[4.0, 0.0], [5.0, 2.0], [4.5, -1.0]]))


def linear(*slope: float) -> nn.Linear:
    net = nn.Linear(len(slope), 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(double([slope]))
    return net


@pytest.mark.parametrize(
    ("kind", "slope", "expected"),
    [("lp", 0.5, 0.0), ("lp", 3.0, 4.0), ("gp", 0.5, 0.25), ("gp", 3.0, 4.0), ("zero", 0.5, 0.25), ("zero", 3.0, 9.0)],
)
def test_a_penalty_of_a_linear_critic_is_that_of_its_slope(kind: str, slope: float, expected: float) -> None:
    penalty = GradientPenalty(10.0, kind)
    at = penalty.where(X, Y, rng())
    v = linear(0.6 * slope, 0.8 * slope)(at.x.requires_grad_(True))[:, 0]
    assert float(penalty(v, at).detach()) == pytest.approx(10 * expected, abs=1e-12)


def test_the_points_lie_on_segments_at_one_uniform_number_a_pair() -> None:
    x, y = Particles(torch.zeros(4000, 2, dtype=torch.float64)), Particles(torch.ones(4000, 2, dtype=torch.float64))
    at = GradientPenalty().where(x, y, rng()).x
    assert torch.equal(at[:, 0], at[:, 1])
    assert float(at.mean()) == pytest.approx(0.5, abs=0.02)  # four standard errors
    assert float(at.var(0)[0]) == pytest.approx(1 / 12, abs=0.005)


def test_pairs_are_independent_of_the_order_of_the_points() -> None:
    """Particles that are drawn whole come in the same order every time; their partners must not."""
    ends = torch.arange(50.0)[:, None]
    starts = torch.zeros(50, 1)
    one, two = (
        GradientPenalty().where(Particles(starts), Particles(ends), generator).x for generator in (rng(0), rng(1))
    )
    assert float((one / ends).max()) > 1  # not every point lies between the i-th ends
    assert not torch.equal(one, two)


@pytest.mark.parametrize("seed", range(5))
def test_points_without_weight_are_in_no_pair(seed: int) -> None:
    """Also where most have none: of pairs that weigh as much as both points together, all might have none, and their mean is NaN."""
    x, y = (Particles(p.x[:2], double([0.0, -torch.inf])) for p in (X, Y))
    penalty = GradientPenalty(1.0)
    at = penalty.where(x, y, rng(seed))
    torch.testing.assert_close(at.x, at.x[:, :1] * double([[1.0, 0.0]]))  # from (0, 0) to (4, 0)
    v = linear(3.0, 0.0)(at.x.requires_grad_(True))[:, 0]
    assert float(penalty(v, at).detach()) == pytest.approx(4, abs=1e-12)


def test_points_are_paired_by_weight() -> None:
    n = 1000
    x = Particles(torch.arange(2.0).repeat(n)[:, None], torch.tensor([0.9, 0.1]).log().repeat(n))
    at = GradientPenalty().where(x, Particles(torch.full((2 * n, 1), 0.5)), rng())
    assert float((at.w[:, None] * (at.x > 0.5)).sum()) == pytest.approx(0.1, abs=0.027)  # four standard errors


def test_the_gradient_reaches_the_parameters_through_the_slope() -> None:
    """d/ds of 10 (s - 1)² at s = 3 is 40."""
    net, penalty = linear(3.0), GradientPenalty()
    at = penalty.where(Particles(X.x[:, :1]), Particles(Y.x[:, :1]), rng())
    penalty(net(at.x.requires_grad_(True))[:, 0], at).backward()
    assert float(net.weight.grad) == pytest.approx(40, abs=1e-12)


def test_w1_has_the_one_sided_penalty_unless_the_critic_says_otherwise() -> None:
    F = W1(StandardNormal(2))
    assert Critic(mlp(2)).penalties(F) == [GradientPenalty(10.0, "lp")]
    assert Critic(mlp(2)).penalties(0.5 * F + PotentialEnergy(torch.sum)) == [GradientPenalty(5.0, "lp")]
    assert Critic(mlp(2), penalty=GradientPenalty(1.0, "gp")).penalties(F) == [GradientPenalty(1.0, "gp")]
    assert Critic(mlp(2), penalty="none").penalties(F) == []
    for F in (KL(StandardNormal(2)), SquaredW2(StandardNormal(2))):
        assert Critic(mlp(2)).penalties(F) == []
        assert Critic(mlp(2), r1=R1(1.0), penalty=GradientPenalty(1.0)).penalties(F) == [R1(1.0), GradientPenalty(1.0)]


def test_the_critic_of_a_multiple_is_the_critic_of_the_functional() -> None:
    """c F has c times the objective and c times the penalty: with plain descent at the rate 1/c every update is the same."""
    nets = []
    for c in (1.0, 0.25):
        critic = Critic(mlp(2, seed=1), SGD(0.02 / c), iters=30)
        F, generator = c * W1(Y), rng(3)
        es = critic.init(F, generator)
        critic.refine(F, lambda _: X, es, generator)
        nets.append(es.net)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_a_penalty_may_be_lazy() -> None:
    net = linear(3.0, 0.0)
    critic = Critic(net, Adam(1e-6), penalty=GradientPenalty(1.0, every=3))
    es = critic.init(W1(Y), rng())
    reports = [critic.refine(W1(Y), lambda _: X, es, rng()) for _ in range(4)]
    assert ["critic/penalty" in info for info in reports] == [True, False, False, True]
    assert float(reports[0]["critic/penalty"]) == pytest.approx(3 * 4, abs=1e-3)


def test_a_penalty_of_some_ascents_is_told_by_all_updates() -> None:
    critic = Critic(nn.Linear(2, 1).double(), Adam(1e-3), iters=2, r1=R1(1.0, every=2))
    F = KL(Y, batch=3)
    es = critic.init(F, rng(0))
    for _ in range(2):  # the last ascent of either has none
        assert float(critic.refine(F, lambda _: X, es, rng(1))["critic/r1"]) > 0


class Free(KL):
    """A functional with a dual and no data."""

    def data(self) -> None:
        return None


@pytest.mark.parametrize("penalty", [GradientPenalty(), R1(1.0)])
def test_a_penalty_needs_data(penalty: Penalty) -> None:
    why = why_not(Free(StandardNormal(2)), ForwardEuler(Critic(mlp(2), penalty=penalty)), X)
    assert why is not None
    assert "no data" in why


@pytest.mark.parametrize("penalty", [1.0, "lp", GradientPenalty])
def test_what_is_no_penalty_is_refused(penalty: object) -> None:
    with pytest.raises(BadInput, match="Critic\\(penalty="):
        Critic(mlp(2), penalty=penalty)


@pytest.mark.parametrize("bad", [{"weight": -1.0}, {"weight": float("nan")}, {"kind": "wgan"}, {"every": 0}])
def test_a_penalty_checks_its_settings(bad: dict) -> None:
    with pytest.raises(BadInput, match=next(iter(bad))):
        GradientPenalty(**bad)


class Wide(nn.Module):
    def forward(self, y):
        return torch.cat([y, y], 1)


@pytest.mark.parametrize("net", [Wide(), nn.Linear(2, 2)])
def test_a_critic_of_another_shape_is_refused_before_anything_is_done(net: nn.Module) -> None:
    begun = []
    F = W1(StandardNormal(2))

    class Watched(Critic):
        def refine(self, *args):
            begun.append(args)
            return super().refine(*args)

    with pytest.raises(BadInput, match="critic"):
        solve(F, ForwardEuler(Watched(net)), Particles(torch.zeros(4, 2)), step_size=0.1, num_steps=1)
    assert begun == []


# --- bounded by construction ------------------------------------------------------------------------------------------


def relu_net(width: int = 32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


def slope(net: nn.Module) -> float:
    x = torch.randn(500, 2, generator=rng()).requires_grad_(True)
    (grad,) = torch.autograd.grad(net(x).sum(), x)
    return float(grad.norm(dim=1).max())


def test_spectral_norm_bounds_the_slope_by_one_also_after_training() -> None:
    state = solve(
        W1(Particles(torch.full((8, 2), 3.0))),
        ForwardEuler(Critic(spectral_norm(relu_net()), Adam(1e-2), iters=30, penalty="none")),
        Particles(torch.zeros(8, 2)),
        step_size=0.1,
        num_steps=3,
    ).state
    net = state.estimator.net
    for _ in range(50):  # power iterations
        slope(net)
    assert 0.5 < slope(net.eval()) <= 1 + 1e-4
    assert slope(_scaled(10.0)) > 1  # a network like it, without


def _scaled(c: float) -> nn.Module:
    net = relu_net()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(c)
    return net


def test_clipping_holds_every_weight_during_training_and_moves_the_particles() -> None:
    flow = solve(
        W1(Particles(torch.full((8, 2), 3.0))),
        ForwardEuler(Critic(Clipped(relu_net(), 0.3), Adam(1e-2), iters=30, penalty="none")),
        Particles(torch.zeros(8, 2)),
        step_size=0.05,
        num_steps=5,
    )
    net = flow.state.estimator.net
    net(torch.zeros(1, 2))
    weights = torch.cat([p.flatten() for p in net.parameters()]).abs()
    assert float(weights.max()) == pytest.approx(0.3, rel=1e-6)
    assert float((weights > 0.299).float().mean()) > 0.2  # where most of them end (Gulrajani et al. 2017, figure 1)
    assert float(flow.measure.x.mean()) > 0.1


@pytest.mark.parametrize("layer", [nn.Linear(3, 6), nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(3, 6, 3)])
def test_every_linear_layer_has_spectral_norm_one(layer: nn.Module) -> None:
    # Power iteration starts at random and gains one step an evaluation in training mode.
    net = spectral_norm(nn.Sequential(layer))
    x = torch.randn(2, 3) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 5, 5)
    for _ in range(50):
        net(x)
    weight = net[0].weight.detach()
    outputs_first = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
    assert torch.linalg.matrix_norm(outputs_first.flatten(1), 2).item() == pytest.approx(1.0, abs=1e-3)


def test_a_network_without_layers_has_no_spectral_norm() -> None:
    with pytest.raises(BadInput, match="no linear"):
        spectral_norm(nn.ReLU())


def test_wrapping_leaves_the_network_as_it_was() -> None:
    net = relu_net()
    before = [p.clone() for p in net.parameters()]
    Clipped(net, 1e-3)(torch.zeros(1, 2))
    spectral_norm(net)(torch.zeros(1, 2))
    assert all(map(torch.equal, before, net.parameters()))
