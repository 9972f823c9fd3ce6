"""C7–C10: mass of the critic, shapes that must not broadcast, the proximal term, and the coupling of auxiliary noise."""

import copy

import pytest
import torch
from _exact import ALL, ENTROPIES, Affine, Quadratic, Table, double, hermite, mlp, rng, trapezoid
from torch import Tensor, nn

from wgflow import (
    FUNCTIONALS,
    JKO,
    KL,
    LBFGS,
    R1,
    RBF,
    SGD,
    Adam,
    Autograd,
    BadInput,
    Callback,
    Critic,
    Dataset,
    KDEScore,
    Measure,
    NotConverged,
    Particles,
    PotentialEnergy,
    ProximalScore,
    Pushforward,
    StandardNormal,
    Stein,
    Unnormalised,
    entropy,
    solve,
    transport_cost,
    why_not,
)
from wgflow.generative.nets import SmallCritic, SmallGenerator

ATOMS, NU, RHO = double([[0.0], [1.0], [2.0]]), double([0.2, 0.3, 0.5]), double([0.35, 0.35, 0.3])

# --- C7: mass ------------------------------------------------------------------------------------------------------


# The hard constraint's mass is 1 whatever the critic; the scale-free forms report none.
@pytest.mark.parametrize("name", [n for n in ENTROPIES if n not in ("identity", "kl_dv", "chi2_tight")])
def test_mass_of_the_critic_becomes_one(name):
    F, rho = FUNCTIONALS[name](Particles(ATOMS, NU.log())), Particles(ATOMS, RHO.log())
    critic = Critic(Table(ATOMS), SGD(1.0), iters=1)
    es = critic.init(F, rng())
    es.net.v.data = double([1.0, -0.5, 0.3])
    masses = [critic.refine(F, lambda _: rho, es, rng())["critic/mass"].item() for _ in range(400)]
    assert abs(masses[0] - 1) > 0.05
    assert masses[-1] == pytest.approx(1, abs=1e-6)
    # and the slope at the optimal witness is the density ratio (for js_nonsat by the game's own witness)
    with torch.no_grad():
        torch.testing.assert_close(F.ratio(F.witness(es.net(ATOMS))), RHO / NU, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["kl_dv", "chi2_tight"])
def test_forms_without_a_scale_report_no_mass(name):
    F = FUNCTIONALS[name](Particles(ATOMS))
    assert F.diagnostics(Table(ATOMS)) == {}


def test_donsker_varadhan_ignores_constants_of_the_critic_and_kl_does_not():
    rho, net = Particles(ATOMS, RHO.log()), Table(ATOMS)
    net.v.data = double([1.0, -0.5, 0.3])

    def objective(name, a):
        value = FUNCTIONALS[name](Particles(ATOMS, NU.log())).variational(lambda y: net(y) + a, rho)
        return value.detach(), torch.autograd.grad(value, net.v)[0]

    for a in (-3.0, 0.7, 200.0):
        torch.testing.assert_close(objective("kl_dv", a), objective("kl_dv", 0.0), rtol=1e-12, atol=1e-12)
    assert abs(objective("kl", 0.7)[0] - objective("kl", 0.0)[0]) > 0.1


def test_mass_and_penalty_weigh_the_points_of_the_target():
    doubled = torch.cat([ATOMS, ATOMS[2:]])  # the same measure, its last atom as two halves
    halves = torch.cat([NU[:2], NU[2:] / 2, NU[2:] / 2])
    infos = []
    for target in (Particles(ATOMS, NU.log()), Particles(doubled, halves.log())):
        critic, F = Critic(mlp(1), r1=R1(0.3)), KL(target)
        infos.append(critic.refine(F, lambda _: Particles(ATOMS), critic.init(F, rng()), rng()))
    assert infos[0].keys() == {"critic/objective", "critic/model", "critic/data", "critic/r1", "critic/mass"}
    torch.testing.assert_close(*infos, rtol=1e-12, atol=0)


def test_a_gradient_penalty_leaves_the_target_as_it_was():
    target = Particles(ATOMS.clone())
    critic, F = Critic(mlp(1), r1=R1(0.3)), KL(target)
    critic.refine(F, lambda _: Particles(ATOMS), critic.init(F, rng()), rng())
    assert not target.x.requires_grad
    assert target.x.grad is None


# --- C8: shapes ----------------------------------------------------------------------------------------------------


class Shaped(nn.Module):
    """A critic with the output shape of one's choice."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.net, self.shape = mlp(2), shape

    def forward(self, y: Tensor) -> Tensor:
        return self.shape(self.net(y)[:, 0])


def one_update(net):
    target = Dataset(torch.randn(8, 2, dtype=torch.float64, generator=rng(2)))
    rho = Pushforward(StandardNormal(2, dtype=torch.float64), mlp(2, 2))
    return solve(KL(target, 8), JKO(Critic(net), iters=2, batch=8), rho, step_size=0.5, num_steps=1).measure.net


def test_a_critic_with_a_trailing_one_is_squeezed():
    flat, column = (one_update(Shaped(f)) for f in (lambda v: v, lambda v: v[:, None]))
    torch.testing.assert_close(list(flat.parameters()), list(column.parameters()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "shape", [lambda v: v[:, None].expand(-1, 2), lambda v: v[:, None] - v, lambda v: v[None], lambda v: v.sum()]
)
def test_other_critic_shapes_are_refused(shape):
    with pytest.raises(BadInput, match=r"must map \(8, 2\) to \(8,\) or \(8, 1\), got"):
        one_update(Shaped(shape))


def test_the_cost_refuses_what_would_broadcast():
    x = torch.randn(4, 3)
    for y in (torch.randn(1, 3), torch.randn(4, 1), torch.randn(4, 3, 1), torch.randn(3)):
        with pytest.raises(BadInput, match="pairs points one to one"):
            transport_cost(x, y)
    with pytest.raises(BadInput, match="expected 'sum' or 'mean'"):
        transport_cost(x, x, "avg")


def test_the_cost_sums_or_averages_over_coordinates():
    x, y = torch.zeros(2, 3, 4), torch.ones(2, 3, 4) * torch.tensor([1.0, 3.0])[:, None, None]
    assert transport_cost(x, y).tolist() == [6.0, 54.0]
    assert transport_cost(x, y, "mean").tolist() == [0.5, 4.5]


def test_a_soft_source_marginal_pairs_each_cost_with_its_own_potential():
    """UOTM's first term E f*(v(T(x)) - c(x, T(x))): per sample, not over all pairs as a (B, 1) critic would make it."""
    x, y = torch.randn(6, 2, generator=rng(1)).double(), 2 * torch.randn(6, 2, generator=rng(2)).double()
    target, v, cost = Particles(y), Shaped(lambda v: v)(y).detach(), transport_cost(x, y)
    kl = KL(target)
    assert cost.shape == v.shape == (6,)
    term = kl.conjugate(lambda points: v - cost)
    by_sample = sum(torch.exp(v[i] - cost[i]) - 1 for i in range(6)) / 6
    over_pairs = kl.f_star(v[:, None] - cost).mean()
    assert term.item() == pytest.approx(by_sample.item(), abs=1e-12)
    assert abs(term - over_pairs) > 0.01
    with pytest.raises(BadInput, match="one value a particle"):
        kl.conjugate(lambda points: v[:, None] - cost)


# --- C9: the proximal term -----------------------------------------------------------------------------------------


class Frames(Callback):
    """The proximal term at each update, and whether the frozen map changed within a phase."""

    def on_start(self, run):
        self.transport, self.frozen, self.k = [], None, -1

    def on_update(self, run, info):
        net = run.state.measure.net
        if self.k != run.state.k:  # a phase begins: the last update accepted the successor
            self.k, self.frozen = run.state.k, copy.deepcopy(net.state_dict())
        now = net.state_dict()
        assert all(torch.equal(now[name], tensor) for name, tensor in self.frozen.items())
        assert all(p.grad is None and not p.requires_grad for p in net.parameters())
        self.transport.append(info["jko/transport"].item())


class Residual(nn.Module):
    """x + u(x, z) with batch normalisation inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 2))

    def forward(self, x, z):
        return x + self.body(torch.cat([x, z], 1))


def phases(source, net=Residual, noise=2, critic=None, shape=(2,), **options):
    frames = Frames()
    critic = critic or (lambda: nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1)))
    rho = Pushforward(StandardNormal(*source), net, noise=None if noise is None else StandardNormal(noise))
    solver = JKO(Critic(critic, Adam(1e-2)), Adam(1e-2), iters=3, batch=16, **options)
    target = Dataset(torch.rand(32, *shape, generator=rng(5)) + 1)
    flow = solve(KL(target, 16), solver, rho, step_size=0.5, num_steps=3, callbacks=[frames])
    return frames, flow


def test_with_shared_noise_the_proximal_term_starts_every_phase_at_exactly_zero():
    frames, flow = phases((2,))
    assert [frames.transport[i] for i in (0, 3, 6)] == [0.0] * 3
    assert all(frames.transport[i] > 0 for i in (1, 2, 4, 5, 7, 8))
    trained, frozen = flow.state.successor.net.body[1], flow.measure.net.body[1]
    assert torch.equal(trained.running_mean, frozen.running_mean)
    assert trained.num_batches_tracked > 0


def test_the_small_image_generator_with_batch_norm_starts_at_zero_too():
    frames, _ = phases(
        (12,),
        lambda: SmallGenerator(image_shape=(1, 8, 8), channels=4, latent_dim=12),
        noise=None,
        critic=lambda: SmallCritic(image_shape=(1, 8, 8), channels=4),
        shape=(1, 8, 8),
    )
    assert [frames.transport[i] for i in (0, 3, 6)] == [0.0] * 3
    assert min(frames.transport[i] for i in (1, 2, 4, 5, 7, 8)) > 0


def test_with_independent_noise_the_proximal_term_does_not_vanish():
    frames, _ = phases((2,), latent="independent")
    assert all(frames.transport[i] > 1e-4 for i in (0, 3, 6))


def test_a_step_of_infinite_size_has_no_proximal_gradient():
    net, ends = nn.Linear(2, 2), []
    for cost in ("sum", "mean"):
        rho = Pushforward(StandardNormal(2), net)
        V = PotentialEnergy(lambda y: y.square().sum(1))
        ends.append(solve(V, JKO(iters=3, cost=cost), rho, step_size=float("inf"), num_steps=1).measure.net.weight)
    assert torch.equal(*ends)


# --- C10 and the variance formula: exact expectations over (x, z1, z2) ----------------------------------------------


class Axis(Measure):
    """Standard normal noise whose successive draws take turns between two axes of one quadrature grid."""

    def __init__(self, grid: Particles) -> None:
        self.grid, self.event_shape, self.turn = grid, torch.Size((1,)), 0

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        self.turn = 3 - self.turn if self.turn else 1
        return Particles(self.grid.x[:, self.turn : self.turn + 1])


def with_axes(n, net):
    grid = hermite([0.0] * 3, torch.eye(3), n)
    return Pushforward(Particles(grid.x[:, :1], grid.log_w), net, noise=Axis(grid)).start(rng())


class Product(nn.Module):
    """c x + d x z."""

    def __init__(self, c, d) -> None:
        super().__init__()
        self.cd = nn.Parameter(double([c, d]))

    def forward(self, x, z):
        return self.cd[0] * x + self.cd[1] * x * z


@pytest.mark.parametrize(("coupling", "variances"), [("shared", 0.0), ("independent", 1.0)])
def test_independent_noise_adds_both_conditional_variances(coupling, variances):
    rho = with_axes(3, Product(1.0, 0.5))
    successor = rho.propose(rng())
    successor.net.cd.data = double([2.0, 3.0])
    x, y = successor.couple(rho, ALL, rng(), coupling)
    squares = 2 * y.mean(transport_cost(x.x, y.x))
    # E|m - m_old|² = (2 - 1)²; Var_z T = 9 x², Var_z T_old = x²/4; with shared z, E (3 - 1/2)² x² z² instead.
    expected = 1 + (9 + 0.25) if variances else 1 + 2.5**2
    assert squares.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("coupling", "h", "iters"),
    [("shared", 0.5, 200), ("shared", 1.0, 200), ("independent", 0.5, 600), ("independent", 1.0, 300)],
)
def test_independent_noise_shrinks_the_variance_to_h_over_one_plus_h(coupling, h, iters):
    """T(x, z) = a x + b z from T_old = z towards N(0, 1): nothing should move, and with independent z it does."""
    F, rho = entropy("kl", trapezoid(), ALL), with_axes(3, Affine(0.0, 0.0, B=1.0))
    solver = JKO(Critic(Quadratic(), SGD(0.7)), SGD(0.1), iters=iters, batch=ALL, latent=coupling)
    state = solver.init(F, rho, rng())
    with torch.no_grad():
        state.successor.net.A += 0.4
        state.successor.net.B -= 0.3
    state, _ = solver.step(F, state, h)
    net = state.measure.net
    variance = (net.A.square() + net.B.square()).item()
    assert variance == pytest.approx(1.0 if coupling == "shared" else h / (1 + h), abs=1e-5)
    if coupling == "shared":
        assert (net.A.item(), net.B.item()) == pytest.approx((0.0, 1.0), abs=1e-5)


@pytest.mark.parametrize("estimator", [Stein(RBF(1.0)), KDEScore(RBF(1.0)), ProximalScore(0.1)])
def test_a_line_search_refuses_values_that_do_not_fit_the_gradient(estimator):
    """SVGD's surrogate is linear in the particles: L-BFGS stopped at its first look and called it done."""
    F, rho = KL(Unnormalised(lambda x: -x.square().sum(1) / 2, 2)), Particles(torch.randn(5, 2, generator=rng()))
    assert "optim=Adam(...)" in why_not(F, JKO(estimator, LBFGS(), iters=1), rho)
    assert why_not(F, JKO(estimator), rho) is None


# --- what a step reports ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_the_default_solves_a_step_of_particles_in_any_unit(scale, dtype):
    V = PotentialEnergy(lambda x: x.square().sum(1) / 2)
    start = Particles(scale * torch.tensor([[4.0], [-1.0], [0.5]], dtype=dtype))
    flow = solve(V, JKO(), start, step_size=1.0, num_steps=40)
    assert flow.status == "done"
    assert [row["update"] for row in flow.history[:2]] == [1, 2]
    torch.testing.assert_close(flow.saved[1].x, start.x / 2, rtol=1e-5, atol=0)
    assert float(flow.measure.x.abs().max()) < 1e-9 * scale


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"optim": Adam(accumulate=3), "iters": 4}, {"iters": 6}),
        ({"optim": Adam(accumulate=3), "iters": 6, "first_iters": 4}, {"first_iters": 9}),
        ({"optim": SGD(0.1, accumulate=3), "iters": 6, "tolerance": 0.1, "look_every": 2}, {"tolerance": None}),
        (
            {"estimator": Critic(Quadratic, Adam(accumulate=4)), "iters": 6},
            {"estimator": Critic(Quadratic, Adam(accumulate=4), iters=2)},
        ),
    ],
)
def test_gradients_of_two_time_steps_are_not_averaged(wrong, right):
    with pytest.raises(BadInput, match=r"accumulate=. does not divide the . updates of"):
        JKO(**wrong)
    JKO(**wrong | right)


@pytest.mark.parametrize(
    "own", [{"iters": None}, {"iters": "many", "optim": None}, {"iters": None, "optim": Adam(accumulate=2)}]
)
def test_estimators_may_mean_something_else_by_these_names(own):
    estimator = type("Own", (Autograd,), own)()
    assert JKO(estimator, iters=4).estimator is estimator


def test_the_default_at_a_fixed_point_is_converged():
    wells = PotentialEnergy(lambda x: (x.square() - 1).square().sum(1) / 4)
    flow = solve(wells, JKO(), Particles(torch.tensor([[1.3], [-0.2]])), step_size=2.0, num_steps=60)
    assert flow.status == "done"
    torch.testing.assert_close(flow.measure.x, torch.tensor([[1.0], [-1.0]]), rtol=0, atol=1e-3)


def test_the_defaults_follow_what_is_moved():
    points, net = Particles(torch.zeros(2, 2)), Pushforward(StandardNormal(2), nn.Linear(2, 2))
    critic = Critic(lambda: mlp(2, 1))
    for solver, measure, expected in (
        (JKO(), points, (LBFGS(), 1, None)),
        (JKO(), net, (Adam(), 1000, None)),
        (JKO(critic), points, (Adam(), 1000, 0.05)),
        (JKO(critic), net, (Adam(), 1000, None)),
        (JKO(optim=LBFGS(5)), net, (LBFGS(5), 1, None)),
        (JKO(optim=SGD(0.1), iters=3), points, (SGD(0.1), 3, None)),
    ):
        found = solver.suited(measure)
        assert (found.optim, found.updates(0), found.tolerance) == expected
        assert found.updates_before(4) == 4 * expected[1]


def test_a_minimiser_that_stops_early_makes_the_flow_unconverged():
    banana = PotentialEnergy(lambda x: (1 - x[:, 0]).square() + 100 * (x[:, 1] - x[:, 0].square()).square())
    start = Particles(double([[-1.2, 1.0], [0.0, 0.5]]))
    with pytest.warns(NotConverged, match="minimiser missed its tolerance .*max_iter"):
        flow = solve(banana, JKO(optim=LBFGS(max_iter=3)), start, step_size=1.0, num_steps=1)
    assert flow.status == "unconverged"
    assert flow.history[0]["minimiser/residual"] > 1e-6
    assert solve(banana, JKO(), start, step_size=1.0, num_steps=1).status == "done"


def test_a_default_that_cannot_search_says_how_far_it_came():
    F, rho = KL(Unnormalised(lambda x: -(x - 30).square().sum(1) / 2, 1)), Particles(double([[0.0], [1.0]]))
    with pytest.warns(NotConverged, match="jko missed its tolerance"):
        flow = solve(F, JKO(Stein(RBF(1.0)), iters=5), rho, step_size=1.0, num_steps=1)
    assert flow.status == "unconverged"
