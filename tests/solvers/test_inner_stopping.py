"""An implicit step ends when its forces balance: against closed forms, and free of the bias of noise."""

import copy

import pytest
import torch
from _exact import Table, double, rng
from torch import nn

from wgflow import (
    JKO,
    KL,
    SGD,
    Adam,
    BadInput,
    Callback,
    Chain,
    Critic,
    Gaussian,
    NotConverged,
    Particles,
    PotentialEnergy,
    Progress,
    Pushforward,
    Save,
    StandardNormal,
    solve,
)
from wgflow.maps import Affine
from wgflow.optim.balance import imbalance
from wgflow.reference import Moments, OrnsteinUhlenbeck, squared_w2

HALF_SQUARE = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))


class Looks(Callback):
    """Keeps what every look reports, as (update, value)."""

    def __init__(self) -> None:
        self.found = []

    def on_update(self, run, info):
        if "jko/imbalance" in info:
            self.found.append((run.updates, float(info["jko/imbalance"])))


def steps(solver, num_steps=1, h=0.5, looks=None, F=HALF_SQUARE, start=None):
    start = Particles(double([[1.0]])) if start is None else start
    return solve(F, solver, start, step_size=h, num_steps=num_steps, callbacks=[] if looks is None else [looks])


def test_gradient_descent_on_a_parabola_stops_at_the_update_that_the_recursion_gives():
    # y' = y - s ((y - 1) / h + y) from 1; the forces (y - 1) / h and y have opposite signs.
    h, s, y, expected = 0.5, 0.1, 1.0, []
    while not expected or expected[-1] > 0.1:
        y -= s * ((y - 1) / h + y)
        expected.append(abs((y - 1) / h + y) / (abs(y - 1) / h + abs(y)))
    looks = Looks()
    flow = steps(JKO(optim=SGD(s), iters=100, tolerance=0.1, look_every=1), looks=looks)
    assert [u for u, _ in looks.found] == [*range(1, len(expected) + 1)]
    torch.testing.assert_close([v for _, v in looks.found], expected, rtol=1e-12, atol=0)
    assert flow.measure.x.item() == pytest.approx(y, rel=1e-12)


def test_it_looks_now_and_then_in_every_step_and_the_updates_given_remain_the_limit():
    looks = Looks()
    with pytest.warns(NotConverged, match="jko missed its tolerance in 100%"):
        flow = steps(JKO(optim=SGD(0.1), iters=10, tolerance=1e-9, look_every=4), num_steps=2, looks=looks)
    assert [u for u, _ in looks.found] == [4, 8, 10, 14, 18, 20]  # at the end too, to say how far the budget has led
    assert [row["update"] for row in flow.history] == [10, 20]
    assert flow.status == "unconverged"


def test_looks_that_do_not_stop_a_deterministic_step_change_nothing():
    plain = steps(JKO(optim=SGD(0.1), iters=10, look_every=2), num_steps=3).measure.x
    with pytest.warns(NotConverged):
        watched = steps(JKO(optim=SGD(0.1), iters=10, tolerance=1e-9, look_every=2), num_steps=3).measure.x
    torch.testing.assert_close(plain, watched, rtol=0, atol=0)


def test_noise_does_not_hide_a_balance():
    # Gradients a + noise and -a + noise with |a| = 1 and noise of norm 10: one batch's ratio is near 0.7.
    w, generator = torch.zeros(2000, dtype=torch.float64, requires_grad=True), rng()
    a = torch.zeros(2000, dtype=torch.float64)
    a[0] = 1.0

    def batches(m, shift):
        for _ in range(m):
            xi, eta = (torch.randn(2000, dtype=torch.float64, generator=generator) * 10 / 2000**0.5 for _ in range(2))
            yield w @ (a + xi), w @ (shift * a + eta)

    # The squared norm of the total, 0, has the standard deviation 200 (2 / 2000)^(1/2) / 1000 = 0.006: 0.04 of the sum 2.
    assert imbalance(batches(1000, -1.0), [w]) < 0.1
    # |a + a / 2| / (|a| + |a / 2|) = 1 and |a - a / 2| / (3 / 2) = 1 / 3
    assert imbalance(batches(1000, 0.5), [w]) == pytest.approx(1, abs=0.07)
    assert imbalance(batches(1000, -0.5), [w]) == pytest.approx(1 / 3, abs=0.07)


def test_what_has_no_forces_is_in_balance():
    w = torch.zeros(3, requires_grad=True)
    assert imbalance(((w.sum() * 0, w.sum() * 0) for _ in range(2)), [w]) == 0


def test_a_critic_is_in_balance_at_the_density_ratio_and_only_there():
    # KL between laws on three atoms: the maximiser of <phi, rho> - F*(phi) is log(rho / nu), up to the sign of critics.
    atoms, nu, law = double([[0.0], [1.0], [2.0]]), double([0.2, 0.3, 0.5]), double([0.35, 0.35, 0.3])
    F, rho = KL(Particles(atoms, nu.log())), Particles(atoms, law.log())
    critic = Critic(Table(atoms), SGD(1.0))
    es = critic.init(F, rng())
    for v, expected in ((torch.log(nu / law), 0.0), (double([0.0, 0.0, 0.0]), None)):
        es.net.v.data = v
        found = critic.imbalance(F, lambda _: rho, es, rng()).item()
        if expected is None:  # the forces are law and nu
            expected = ((law - nu).norm() / (law.norm() + nu.norm())).item()
        assert found == pytest.approx(expected, abs=1e-7)


def test_a_learned_step_waits_for_its_critic():
    # A generator that starts as the identity and a critic that starts as a constant exert no force on one another.
    critic = Critic(Constant(), Adam(1e-3))
    looks = Looks()
    steps(
        JKO(critic, Adam(1e-3), iters=2, tolerance=0.5, look_every=1, batch=64),
        F=KL(Gaussian(double([4.0]), double([[1.0]])), 64),
        start=Pushforward(StandardNormal(1, dtype=torch.float64), Shift),
        looks=looks,
    )
    assert looks.found[0][1] > 0.5


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(double([0.0]))

    def forward(self, y):
        return self.slope * y[:, 0]


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(double([0.0]))

    def forward(self, x):
        return x + self.by


def ornstein_uhlenbeck(**options):
    target = Gaussian(double([1.0, -1.0]), double([[0.5, 0.2], [0.2, 1.0]]))
    chain = Chain(StandardNormal(2, dtype=torch.float64), lambda: Affine(2), cached=4096)
    solver = JKO(optim=Adam(1e-2, (0.9, 0.99)), iters=300, batch=512, **options)
    return target, lambda **more: solve(KL(target), solver, chain, step_size=0.1, save=Save(0), **more)


def test_a_chain_that_stops_early_is_near_the_exact_step_in_a_fraction_of_the_updates():
    target, run = ornstein_uhlenbeck(tolerance=0.1, look_every=20)
    start = Moments(double([0.0, 0.0]), torch.eye(2, dtype=torch.float64))
    exact = OrnsteinUhlenbeck.towards(target).jko(start, 0.1)
    flow = run(num_steps=1)
    assert flow.history[-1]["update"] <= 150
    # Forces that cancel to 0.1 of their sum: an error of about 0.2 of the distance; half as much again for the noise.
    moved = squared_w2(start, exact).sqrt()
    assert squared_w2(Moments.of(flow.measure.draw(4096, rng())), exact).sqrt() < 0.3 * moved


def test_a_run_that_goes_on_stops_where_the_whole_one_does():
    _, run = ornstein_uhlenbeck(tolerance=0.1, look_every=20)
    whole = run(num_steps=3)
    half = run(num_steps=2)
    rest = run(num_steps=3, state=copy.deepcopy(half.state))
    for a, b in zip(whole.measure.maps, rest.measure.maps, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def test_the_bar_ends_full(capsys):
    bar = Progress()
    solver = JKO(optim=SGD(0.1), iters=100, tolerance=0.1, look_every=1)
    solve(HALF_SQUARE, solver, Particles(double([[1.0]])), step_size=0.5, num_steps=3, callbacks=[bar])
    assert bar.bar.n == bar.bar.total
    assert bar.bar.n < 100


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, float("nan")])
def test_a_tolerance_is_a_fraction(bad):
    with pytest.raises(BadInput, match="between 0 and 1"):
        JKO(tolerance=bad)


def test_looks_are_updates_apart():
    with pytest.raises(BadInput, match="look_every=0"):
        JKO(look_every=0)
