"""Chains of maps: draws and densities, cache, cost, resume, refusals."""

import copy
import io

import pytest
import torch
from _exact import rng
from torch import nn

from wgflow import (
    JKO,
    KL,
    LBFGS,
    RBF,
    Adam,
    Autograd,
    BadInput,
    CheckpointError,
    Critic,
    Dataset,
    Entropy,
    ForwardEuler,
    Gaussian,
    Incompatible,
    Particles,
    PotentialEnergy,
    PowerEntropy,
    SquaredMMD,
    StandardNormal,
    Unnormalised,
    Unsupported,
    solve,
    why_not,
)
from wgflow.maps import Affine, ICNNGradient, NeuralODE, Residual, TransportMap
from wgflow.measures.chain import Chain
from wgflow.solvers.reaction import BirthDeath, Reweight
from wgflow.solvers.splitting import WithReaction
from wgflow.storage.state import load_state, state_dict, tensors

BANANA = Unnormalised(lambda x: -0.5 * x[:, 0].square() - 2 * (x[:, 1] - x[:, 0].square()).square(), 2)
H = 0.2


def mlp():
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


MAPS = {
    "affine": lambda: Affine(2),
    "icnn": lambda: ICNNGradient(2, width=8),
    "stochastic": lambda: ICNNGradient(2, width=8, logdet="stochastic"),
    "ode": lambda: NeuralODE(2, net=mlp(), steps=4),
    "residual": lambda: Residual(2, net=mlp()),
}


def normal():
    return StandardNormal(2, dtype=torch.float64)


def flow(F, rho, steps=3, iters=4, estimator=None, **options):
    solver = JKO(estimator or Autograd(), optim=Adam(3e-2), iters=iters, batch=32)
    return solve(F, solver, rho, step_size=H, num_steps=steps, **options)


class Counting(Affine):
    """An affine map that counts its calls over all instances."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return super().forward(x)


def moved(rho):
    """Return the chain with one map."""
    return flow(KL(BANANA), rho, steps=1, iters=1).measure


# --- draws and densities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [None, 64])
@pytest.mark.parametrize("name", MAPS)
def test_the_density_of_draws_is_log_prob_at_them(name, cached):
    """log rho forward through the maps and backward from the points; the ODE's two solves differ by rk4's error."""
    rho = flow(KL(BANANA), Chain(normal(), MAPS[name], cached=cached)).measure
    p = rho.draw(20, rng(5))
    assert rho.carries_density
    assert p.has_density
    torch.testing.assert_close(rho.log_prob(p.x), p.log_rho, rtol=0, atol=1e-4 if name == "ode" else 1e-9)
    assert float((p.log_rho - normal().log_prob(p.x)).abs().max()) > 0.01, "the law has moved"


@pytest.mark.parametrize("name", ["icnn", "residual", "ode"])
def test_the_density_integrates_to_one(name):
    rho = flow(KL(BANANA), Chain(normal(), MAPS[name])).measure
    side = torch.linspace(
        -7, 7, 141, dtype=torch.float64
    )  # sums of smooth functions on a grid: exact to far below the bound
    mass = rho.log_prob(torch.cartesian_prod(side, side)).exp().sum() * (side[1] - side[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=2e-4 if name == "ode" else 1e-6)


def test_entropy_changes_by_the_mean_log_determinant():
    rho = flow(Entropy(), Chain(normal(), MAPS["icnn"], cached=200)).measure
    x = rho.inference().base.draw(50, rng(1)).x
    total = torch.zeros(50, dtype=torch.float64)
    for T in rho.maps:
        x, logdet = T.with_logdet(x)
        total += logdet
    p = Particles(x, log_rho=rho.log_prob(x))
    before = normal().log_prob(normal().draw(50, rng(1)).x).mean()
    assert float(Entropy().value(p)) == pytest.approx(float(before - total.mean()), abs=1e-9)


def test_weights_and_densities_of_a_base_of_particles_are_kept():
    x, log_w = torch.randn(6, 2, generator=rng(1)), torch.randn(6, generator=rng(2))
    rho = flow(Entropy(), Chain(Particles(x, log_w, log_rho=torch.zeros(6)), MAPS["affine"], cached=6)).measure
    p = rho.draw(6, rng())
    torch.testing.assert_close(p.w, log_w.softmax(0))
    assert p.log_rho is not None
    assert not rho.has_density, "the density of the base at other points is not known"


def test_a_cached_chain_is_the_fresh_one_on_its_points():
    base = Particles(torch.randn(40, 2, generator=rng(1)), log_rho=torch.zeros(40))
    for name in ("icnn", "residual"):
        cached = flow(KL(BANANA), Chain(base, MAPS[name], cached=40), iters=3).measure
        p, q = cached.draw(40, rng()), cached.inference().draw(40, rng())
        torch.testing.assert_close(p.x, q.x)
        torch.testing.assert_close(p.log_rho, q.log_rho, rtol=0, atol=1e-5)
        fresh = flow(KL(BANANA), Chain(base, MAPS[name]), iters=3).measure
        torch.testing.assert_close(fresh.draw(40, rng()).x.sort(0)[0], p.x.sort(0)[0], rtol=0, atol=0.5)


def test_long_clouds_go_through_a_map_in_pieces(monkeypatch):
    monkeypatch.setattr("wgflow.measures.chain._CHUNK", 7)
    rho = flow(Entropy(), Chain(normal(), MAPS["icnn"], cached=30), steps=2).measure
    p = rho.draw(30, rng())
    torch.testing.assert_close(rho.log_prob(p.x), p.log_rho, rtol=0, atol=1e-9)


def test_density_can_be_left_out():
    rho = Chain(normal(), lambda: Counting(2), density=False)
    assert not rho.carries_density
    assert rho.start(rng()).draw(4, rng()).log_rho is None
    assert "does not carry one" in why_not(KL(BANANA), JKO(), rho)


def test_maps_take_the_dtype_of_the_base():
    for dtype in (torch.float32, torch.float64):
        rho = flow(KL(BANANA), Chain(StandardNormal(2, dtype=dtype), MAPS["icnn"], cached=9), steps=1).measure
        assert rho.draw(3, rng()).x.dtype == rho.maps[0].shift.dtype == dtype


# --- frozen maps, warm start, cost --------------------------------------------------------------------------------------


def test_no_gradient_enters_accepted_maps():
    solver = JKO(optim=Adam(1e-2), iters=2, batch=16)
    state = solver.init(KL(BANANA), Chain(normal(), MAPS["icnn"]), rng())
    for _ in range(2):
        state, _ = solver.step(KL(BANANA), state, H)
    held = copy.deepcopy([T.state_dict() for T in state.measure.maps])
    x, y = state.successor.couple(state.measure, 8, rng(), "shared")
    assert not x.x.requires_grad
    (y.x.sum() + y.log_rho.sum()).backward()
    assert all(p.grad is None or not p.requires_grad for T in state.measure.maps for p in T.parameters())
    assert not any(p.requires_grad or T.training for T in state.measure.maps for p in T.parameters())
    assert any(p.grad is not None for p in state.successor.map.parameters())
    state, _ = solver.step(KL(BANANA), state, H)
    for T, before in zip(state.measure.maps, held, strict=False):
        assert all(torch.equal(T.state_dict()[name], t) for name, t in before.items())


@pytest.mark.parametrize("warm", [True, False])
def test_a_new_map_starts_at_the_last_or_at_the_identity(warm):
    state = flow(KL(BANANA), Chain(normal(), MAPS["icnn"], warm_start=warm), steps=1).state
    x = normal().draw(5, rng()).x
    expected = state.measure.maps[0](x) if warm else x
    torch.testing.assert_close(state.successor.map(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", [Autograd(), Critic(lambda: nn.Linear(2, 1).double())], ids=["density", "critic"])
def test_fresh_draws_cost_quadratic_and_cached_draws_linear_in_the_steps(estimator):
    """One call of the map in training a draw; k calls of old maps a fresh draw, and one at acceptance for a cache."""
    K, iters = 5, 6
    draws = iters * (1 if isinstance(estimator, Autograd) else 2)  # the critic looks at a batch of its own
    for cached, expected in ((None, sum(draws * (k + 1) for k in range(K))), (64, K * (draws + 1))):
        Counting.calls = 0
        flow(KL(normal()), Chain(normal(), lambda: Counting(2), cached=cached), K, iters, estimator)
        # solve looks at two points of the target's dtype and of the start before the first step: no map yet
        assert Counting.calls == expected


def test_a_line_search_pushes_its_batch_through_the_old_maps_once():
    Counting.calls, evaluations = 0, []
    solver = JKO(optim=LBFGS(max_iter=5), iters=1, batch=32)
    for info in solve(KL(BANANA), solver, Chain(normal(), lambda: Counting(2)), step_size=H, num_steps=4).history:
        evaluations += [int(info["jko/evaluations"])]
    assert Counting.calls == sum(k + n for k, n in enumerate(evaluations))
    assert min(evaluations) > 3


@pytest.mark.parametrize("name", ["icnn", "stochastic"])
def test_a_coupling_sees_the_same_draw_at_every_call(name):
    state = JKO(optim=Adam(3e-2), iters=2, batch=8).init(KL(BANANA), Chain(normal(), MAPS[name]), rng(2))
    state, _ = JKO(optim=Adam(3e-2), iters=2, batch=8).step(KL(BANANA), state, H)
    one, two = rng(3), rng(3)
    call = state.successor.coupling(state.measure, 8, one, "shared")
    expected = state.successor.couple(state.measure, 8, two, "shared")
    for _ in range(3):
        for found, known in zip(call(), expected, strict=True):
            assert torch.equal(found.x, known.x)
            assert torch.equal(found.log_rho, known.log_rho)
    assert torch.equal(one.get_state(), two.get_state())


def test_the_law_in_training_can_be_looked_at():
    solver = JKO(optim=Adam(3e-2), iters=5, batch=16)
    F = KL(BANANA)
    state = solver.init(F, Chain(normal(), MAPS["icnn"], cached=30), rng())
    state, _ = solver.step(F, state, H)
    state, _ = solver.update(F, state, H)
    present = state.present
    assert (len(present.maps), len(state.measure.maps)) == (2, 1)
    p = present.draw(30, rng())
    torch.testing.assert_close(present.log_prob(p.x), p.log_rho, rtol=0, atol=1e-9)
    assert not torch.equal(p.x, state.measure.draw(30, rng()).x)


# --- saved and loaded ---------------------------------------------------------------------------------------------------


def same(ours, theirs):
    a, b = (tensors(state_dict(s)) for s in (ours, theirs))
    return len(a) == len(b) and all(map(torch.equal, a, b)) and (ours.k, ours.t) == (theirs.k, theirs.t)


@pytest.mark.parametrize("cached", [None, 40])
@pytest.mark.parametrize("name", MAPS)
def test_a_chain_saved_loaded_and_continued_is_bit_exact(name, cached):
    solver = JKO(optim=Adam(3e-2), iters=3, batch=16)
    F, rho = KL(BANANA), Chain(normal(), MAPS[name], cached=cached)
    state, files = solver.init(F, rho, rng(0)), []
    for _ in range(8):
        files.append(io.BytesIO())
        torch.save(state_dict(state), files[-1])
        state, _ = solver.update(F, state, H)
    for done in (0, 2, 3, 7):
        files[done].seek(0)
        again = load_state(solver.init(F, rho, rng(9)), torch.load(files[done], weights_only=True))
        for _ in range(8 - done):
            again, _ = solver.update(F, again, H)
        assert same(again, state), f"resumed after {done} updates"
        assert len(again.measure.maps) == 2
        assert not any(p.requires_grad for T in again.measure.maps for p in T.parameters())


def test_a_longer_chain_is_replaced_by_a_shorter_one_on_loading():
    long = flow(KL(BANANA), Chain(normal(), MAPS["affine"], cached=10), steps=3).measure
    short = flow(KL(BANANA), Chain(normal(), MAPS["affine"], cached=10), steps=1).measure
    load_state(long, state_dict(short))
    assert len(long.maps) == 1
    assert torch.equal(long.draw(10, rng()).x, short.draw(10, rng()).x)


def test_a_checkpoint_of_other_maps_or_without_cache_is_refused():
    saved = state_dict(flow(KL(BANANA), Chain(normal(), MAPS["affine"]), steps=1).measure)
    with pytest.raises(CheckpointError, match=r"[Uu]nexpected key"):
        load_state(Chain(normal(), MAPS["icnn"]).start(rng()), saved)
    with pytest.raises(CheckpointError, match="same cached="):
        load_state(Chain(normal(), MAPS["affine"], cached=5).start(rng()), saved)


def test_a_chain_that_does_not_fit_is_not_loaded():
    saved = flow(KL(BANANA), Chain(normal(), MAPS["affine"], cached=9), steps=3).measure.state_dict()
    for other, said in (
        (Chain(normal(), MAPS["affine"], cached=9, max_maps=2), "no room for 3 maps"),
        (Chain(normal(), MAPS["affine"], cached=5), r"keeps points \(9, 2\) of torch.float64, this one \(5, 2\)"),
        (Chain(StandardNormal(2), MAPS["affine"], cached=9), r"this one \(9, 2\) of torch.float32"),
    ):
        rho = other.start(rng())
        before = rho.draw(5, rng()).x
        with pytest.raises(BadInput, match=said):
            rho.load_state_dict(saved)
        assert rho.maps == []
        assert torch.equal(rho.draw(5, rng()).x, before)


# --- refusals -----------------------------------------------------------------------------------------------------------


def test_a_full_chain_says_so_at_the_first_update_that_has_no_room():
    rho = Chain(normal(), MAPS["affine"], max_maps=2)
    assert len(flow(KL(BANANA), rho, steps=2).measure.maps) == 2
    with pytest.raises(BadInput, match=r"no room for 3 maps, .* max_maps=2.*Pushforward"):
        flow(KL(BANANA), rho, steps=3)


def test_explicit_moves_are_refused_with_advice():
    rho = Chain(normal(), MAPS["affine"])
    with pytest.raises(Incompatible, match="Use JKO, or Particles"):
        solve(PotentialEnergy.example(), ForwardEuler(), rho, step_size=H, num_steps=1)
    with pytest.raises(Unsupported, match="Use JKO"):
        rho.start(rng()).follow(lambda p: p.x, rng())


@pytest.mark.parametrize("cached", [None, 20])
@pytest.mark.parametrize("reaction", [Reweight(), BirthDeath()], ids=["weights", "births"])
def test_reactions_need_points_that_stay(reaction, cached):
    """Also with a cache: weights of cached points would be lost on fresh draws."""
    solver = WithReaction(JKO(iters=2, batch=8), reaction)
    with pytest.raises(
        Incompatible, match=r"points that stay, and a Chain .* Use Particles, .* or JKO without the reaction"
    ):
        solve(KL(BANANA), solver, Chain(normal(), MAPS["affine"], cached=cached), step_size=H, num_steps=1)


@pytest.mark.parametrize("F", [KL(BANANA), Entropy(), PowerEntropy()], ids=["kl", "entropy", "power"])
def test_functionals_of_the_density_need_one(F):
    without_logdet = Chain(normal(), lambda: Residual(2, net=mlp(), logdet=None))
    without_base = Chain(Dataset(torch.randn(9, 2)), MAPS["affine"])
    for rho in (without_logdet, without_base):
        assert "Chain does not carry one" in why_not(F, JKO(), rho)
    assert why_not(F, JKO(), Chain(normal(), MAPS["affine"])) is None
    assert why_not(F, JKO(), Chain(Particles(torch.zeros(9, 2), log_rho=torch.zeros(9)), MAPS["affine"])) is None
    assert why_not(PotentialEnergy.example(), JKO(), without_logdet) is None


def test_maps_without_inverse_have_no_density_at_points():
    class Forward(Affine):
        invertible = False

        def inverse(self, y):
            return TransportMap.inverse(self, y)

    rho = flow(KL(BANANA), Chain(normal(), lambda: Forward(2)), steps=1).measure
    assert rho.draw(4, rng()).log_rho is not None
    assert not rho.has_density
    with pytest.raises(Unsupported, match="log_rho"):
        rho.log_prob(torch.zeros(3, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Chain(normal(), MAPS["affine"], cached=0), "cached=0.*from 1 up"),
        (lambda: Chain(normal(), MAPS["affine"], max_maps=0), "max_maps=0.*from 1 up"),
        (lambda: Chain(normal(), lambda: nn.Linear(2, 2)).start(rng()).propose(rng()), "transport maps"),
        (lambda: Chain(normal(), lambda: Affine(3)).start(rng()).propose(rng()), r"points \(3,\), its base has \(2,\)"),
        (lambda: Chain(normal(), MAPS["affine"]).append(Affine(2)), "call start"),
        (
            lambda: Chain(torch.zeros(3), MAPS["affine"]),
            r"Chain\(base=<tensor.*expected a Measure. An array of points is",
        ),
        (lambda: Chain(normal(), MAPS["affine"]).start(rng()).append(Affine(3)), r"points \(3,\), its base has \(2,\)"),
        (lambda: Chain(normal(), MAPS["affine"]).start(rng()).append(nn.Linear(2, 2)), "transport maps"),
        (lambda: moved(Chain(normal(), MAPS["affine"], max_maps=1)).append(Affine(2)), "no room for 2 maps"),
        (
            lambda: moved(Chain(normal(), MAPS["affine"])).log_prob(torch.zeros(3, 3).double()),
            r"points \(n, 2\), got \(3, 3\)",
        ),
        (
            lambda: moved(Chain(normal(), MAPS["icnn"])).log_prob(torch.zeros(3, 2)),
            "weights of torch.float64, got points",
        ),
        (lambda: moved(Chain(normal(), MAPS["affine"])).draw(0, rng()), r"n >= 1, got \(0, 2\)"),
    ],
)
def test_bad_input(wrong, said):
    with pytest.raises(BadInput, match=said):
        wrong()


def test_the_input_and_the_global_generator_are_left_alone():
    rho = Chain(Gaussian(torch.zeros(2), torch.eye(2)), ICNNGradient(2, width=4), cached=20)
    held = copy.deepcopy(rho.make_map.state_dict())
    before = torch.get_rng_state()
    one, two = (flow(KL(BANANA), rho, steps=2, seed=3).state for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, two)
    assert rho.maps == []
    assert all(torch.equal(rho.make_map.state_dict()[name], t) for name, t in held.items())


def test_a_target_without_density_needs_a_critic():
    F = KL(Dataset(torch.randn(9, 2, generator=rng())))
    rho = Chain(StandardNormal(2), MAPS["affine"])
    assert "a Dataset as the target has none. Use the Critic" in why_not(F, JKO(), rho)
    assert why_not(F, JKO(Critic(lambda: nn.Linear(2, 1))), rho) is None
    assert why_not(KL(BANANA) + 0.5 * SquaredMMD(Dataset(torch.zeros(9, 2)), RBF(1.0)), JKO(), rho) is None
