"""What every registered solver owes its callers, on every measure and estimator that it accepts."""

import dataclasses
import functools
import itertools
import re

import pytest
import torch
from _contract import Contract
from _exact import rng
from torch import nn

from wgflow import (
    ESTIMATORS,
    FUNCTIONALS,
    JKO,
    LBFGS,
    R1,
    RBF,
    SOLVERS,
    Adam,
    Autograd,
    Blob,
    Chain,
    Cosine,
    Critic,
    Dataset,
    Entropy,
    EvaluationNoise,
    Grid,
    Incompatible,
    KDEScore,
    KernelDensity,
    KernelScoreModel,
    LearnedScore,
    MeanShift,
    MedianRBF,
    NearestRBF,
    Particles,
    PowerEntropy,
    ProximalScore,
    Pushforward,
    Regression,
    SquaredMMD,
    StandardNormal,
    Stein,
    Total,
    TwoBatch,
    UnitSpeed,
    Unnormalised,
    solve,
    why_not,
)
from wgflow.maps import Affine, ICNNGradient
from wgflow.storage.state import state_dict, tensors
from wgflow.testing._solvers import SOLVER, SolverCase, resumes

H, STEPS = 0.3, 3


class Noisy(nn.Module):
    """G(x, z) with batch normalisation: everything a resume could forget."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.SiLU(), nn.Linear(6, 2))

    def forward(self, x, z):
        return self.net(torch.cat([x, z], 1))


def potential_net():
    return nn.Sequential(nn.Linear(2, 6), nn.SiLU(), nn.Linear(6, 1))


def pushforward(**options):
    return Pushforward(StandardNormal(2), Noisy, noise=StandardNormal(3), ema=0.9, **options)


FIT = Regression(Adam(1e-2), persistent=2, batch=8)
POINTS = torch.randn(6, 2, generator=rng(1))
MEASURES = {
    "particles": lambda: Particles(POINTS.clone()),
    "weighted": lambda: Particles(POINTS.clone(), torch.randn(6, generator=rng(2))),
    "with density": lambda: Particles(POINTS.clone(), log_rho=StandardNormal(2).log_prob(POINTS)),
    "pushforward": pushforward,
    "regressed": lambda: pushforward(regression=FIT),
    "referenced": lambda: pushforward(regression=FIT, reference=nn.Identity()),
    "chain": lambda: Chain(StandardNormal(2), lambda: ICNNGradient(2, width=4)),
    "cached chain": lambda: Chain(StandardNormal(2), lambda: Affine(2), cached=20),
    "kernels": lambda: KernelScoreModel(POINTS[:3], lambda: nn.Linear(2, 3)),
    "grid": lambda: Grid.of(StandardNormal(2), low=(-4, -4), high=(4, 4), shape=(8, 8), dtype=torch.float32),
}
KERNEL = RBF(0.8)
MAKE_ESTIMATOR = {
    "autograd": Autograd,
    "critic": lambda: Critic(potential_net, Adam(1e-2, schedule=Cosine(9, 1e-3)), iters=2, r1=R1(0.1, every=3)),
    "stein": lambda: Stein(KERNEL),
    "blob": lambda: Blob(KernelDensity(NearestRBF())),
    "kde": lambda: KDEScore(MedianRBF()),
    "learned_score": lambda: LearnedScore(lambda: nn.Linear(2, 2), iters=2),
    "proximal_score": lambda: ProximalScore(0.2, samples=3),
    "evaluation_noise": lambda: EvaluationNoise(Autograd(), 0.1),
    "two_batch": TwoBatch,
    "mean_shift": lambda: MeanShift(KERNEL, "joint"),
    "unit_speed": lambda: UnitSpeed(TwoBatch()),
    "total": lambda: Total((MeanShift(KERNEL, own=True), UnitSpeed(MeanShift(KERNEL, "sides", own=True)))),
}
# Options that make an instance small and use what it has; whatever of them a solver takes.
SMALL = {"iters": 3, "first_iters": 4, "batch": 8, "optim": Adam(1e-2, schedule=Cosine(9, 1e-3))}


def make_solver(name, estimator):
    """Return the solver at a small size, whatever of these options it has."""
    solver = SOLVERS[name].example(MAKE_ESTIMATOR[estimator]())
    known = {f.name for f in dataclasses.fields(solver)}
    return dataclasses.replace(solver, **{k: v for k, v in SMALL.items() if k in known})


def cloud():
    return Particles(torch.randn(8, 2, generator=rng(3)) + 1, torch.randn(8, generator=rng(4)))


def at_cloud(F):
    """Return the functional with weighted points as its target, where it draws one."""
    names = {f.name for f in dataclasses.fields(F)}
    if "target" not in names or "batch" not in names:
        return F
    return dataclasses.replace(F, target=cloud(), batch=8)


BANANA = Unnormalised(lambda x: -0.5 * (x[:, 0].square() + (x[:, 1] - x[:, 0].square() / 4).square()), 2)
MAKE_FUNCTIONAL = {name: (lambda name=name: at_cloud(FUNCTIONALS[name].example())) for name in FUNCTIONALS} | {
    "kl of a density": lambda: FUNCTIONALS["kl"](BANANA),
    "kl of a density + interaction": lambda: FUNCTIONALS["kl"](BANANA) + 0.5 * FUNCTIONALS["interaction"].example(),
    "half squared_mmd + potential": lambda: 0.5 * at_cloud(SquaredMMD.example()) + FUNCTIONALS["potential"].example(),
    "smoothed entropy": lambda: Entropy(KernelDensity(KERNEL)),
    "smoothed porous medium + potential": lambda: (
        PowerEntropy(KernelDensity(KERNEL)) + FUNCTIONALS["potential"].example()
    ),
}
COMBINATIONS = list(itertools.product(MAKE_FUNCTIONAL, SOLVERS, MAKE_ESTIMATOR, MEASURES))


def parts(name, solver, estimator, measure):
    return MAKE_FUNCTIONAL[name](), make_solver(solver, estimator), MEASURES[measure]()


@functools.cache
def reasons():
    """Why each combination is refused; None where it is not."""
    functionals, measures = ({name: make() for name, make in made.items()} for made in (MAKE_FUNCTIONAL, MEASURES))
    solvers = {pair: make_solver(*pair) for pair in itertools.product(SOLVERS, MAKE_ESTIMATOR)}
    return {(f, s, e, m): why_not(functionals[f], solvers[s, e], measures[m]) for f, s, e, m in COMBINATIONS}


@functools.cache
def covering():
    """Accepted combinations that have every trio of solver, estimator and measure, whose state a flow holds, and every functional
    with each of the three."""
    seen, chosen = set(), []
    for f, s, e, m in (c for c, why in reasons().items() if why is None):
        met = {(s, e, m), (f, s), (f, e), (f, m)}
        if met - seen:
            chosen.append((f, s, e, m))
            seen |= met
    return chosen


def case(combination, num_steps=STEPS):
    F, solver, measure = parts(*combination)
    return SolverCase(solver.suited(measure), F, measure, H, num_steps)


# Independent of what why_not says: a capability cannot disappear silently.
MUST_WORK = [
    ("potential", "forward_euler", "autograd", "particles"),
    ("potential", "forward_euler", "autograd", "with density"),
    ("potential", "forward_euler", "autograd", "regressed"),
    ("potential", "jko", "autograd", "weighted"),
    ("potential", "jko", "autograd", "pushforward"),
    ("kl", "forward_euler", "critic", "weighted"),
    ("w1", "forward_euler", "critic", "regressed"),
    ("w1", "ab2", "critic", "regressed"),
    ("w1", "bounded_euler", "autograd", "weighted"),
    ("w1", "jko", "critic", "pushforward"),
    ("w2", "forward_euler", "critic", "referenced"),
    ("kl of a density", "ab2", "blob", "weighted"),
    ("softplus", "forward_euler", "critic", "referenced"),
    ("js_nonsat", "jko", "critic", "particles"),
    ("kl", "jko", "critic", "pushforward"),
    ("chi2_tight", "jko", "critic", "referenced"),
    ("kl of a density", "forward_euler", "stein", "weighted"),
    ("kl of a density", "forward_euler", "proximal_score", "weighted"),
    ("kl of a density", "heun", "blob", "weighted"),
    ("kl of a density", "rk4", "kde", "weighted"),
    ("kl of a density", "forward_euler", "learned_score", "weighted"),
    ("kl of a density", "langevin", "autograd", "weighted"),
    ("kl of a density", "mala", "autograd", "weighted"),
    ("kl of a density", "accelerated", "blob", "weighted"),
    ("kl of a density", "with_reaction", "blob", "weighted"),
    ("kl of a density", "forward_backward", "autograd", "weighted"),
    ("kl of a density", "jko", "blob", "weighted"),
    ("kl of a density + interaction", "langevin", "autograd", "weighted"),
    ("half squared_mmd + potential", "ode", "autograd", "weighted"),
    ("squared_mmd", "forward_euler", "autograd", "regressed"),
    ("squared_mmd", "jko", "autograd", "pushforward"),
    ("squared_mmd", "with_reaction", "autograd", "weighted"),
    ("squared_ksd", "jko", "autograd", "weighted"),
    ("sliced_w", "heun", "autograd", "weighted"),
    ("sinkhorn", "forward_euler", "autograd", "weighted"),
    ("sinkhorn", "forward_euler", "autograd", "regressed"),
    ("sinkhorn", "forward_euler", "two_batch", "regressed"),
    ("sinkhorn", "jko", "two_batch", "pushforward"),
    ("in_features", "forward_euler", "two_batch", "regressed"),
    ("in_features", "forward_euler", "unit_speed", "regressed"),
    ("annealed", "forward_euler", "two_batch", "regressed"),
    ("kl", "forward_euler", "mean_shift", "regressed"),
    ("kl", "forward_euler", "total", "weighted"),
    ("in_features", "heun", "autograd", "weighted"),
    ("kale", "forward_euler", "autograd", "weighted"),
    ("interaction", "accelerated", "autograd", "weighted"),
    ("entropy", "langevin", "autograd", "particles"),
    ("smoothed porous medium + potential", "rk4", "autograd", "weighted"),
    ("kl of a density", "jko", "autograd", "chain"),
    ("kl of a density", "jko", "autograd", "cached chain"),
    ("power_entropy", "jko", "autograd", "chain"),
    ("kl", "jko", "critic", "chain"),
    ("kl of a density", "entropic_jko", "autograd", "grid"),
    ("power_entropy", "entropic_jko", "autograd", "grid"),
    ("interaction", "entropic_jko", "autograd", "grid"),
]


def test_every_estimator_has_a_case():
    assert set(MAKE_ESTIMATOR) == set(ESTIMATORS)


@pytest.mark.parametrize("combination", MUST_WORK, ids="-".join)
def test_combinations_that_must_work(combination):
    assert reasons()[combination] is None


def runs_and_resumes_exactly(combination):
    """Two steps, and the same two steps saved and loaded in the middle of their updates: estimators and measures all."""
    two = case(combination, 2)
    state = resumes(two, [(two.solver.updates(0) + two.solver.updates(1)) // 2])
    assert state.k == 2, combination
    assert state.t == pytest.approx(2 * H), combination
    saved = tensors(state_dict(state.measure))
    assert all(bool(torch.isfinite(t).all()) for t in saved if t.is_floating_point()), combination


def by_pair(combinations):
    """Return combinations by functional and solver: a pair that no estimator and measure go with is not among them."""
    held = {}
    for combination in combinations:
        held.setdefault(combination[:2], []).append(combination)
    return held


COVERING, ACCEPTED = by_pair(covering()), by_pair(c for c, why in reasons().items() if why is None)


@pytest.mark.parametrize("pair", COVERING, ids="-".join)
def test_accepted_combinations_run_and_resume_exactly(pair):
    for combination in COVERING[pair]:
        runs_and_resumes_exactly(combination)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ACCEPTED, ids="-".join)
def test_all_accepted_combinations_run_and_resume_exactly(pair):
    for combination in ACCEPTED[pair]:
        runs_and_resumes_exactly(combination)


def test_what_is_run_covers_each_trio_that_holds_state_and_each_pair_with_a_functional():
    accepted = {c for c, why in reasons().items() if why is None}
    assert {c[1:] for c in covering()} == {c[1:] for c in accepted}
    for i in (1, 2, 3):
        assert {(c[0], c[i]) for c in covering()} == {(c[0], c[i]) for c in accepted}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_refused_combination_says_why_and_what_to_use_instead(solver):
    for combination, why in reasons().items():
        if combination[1] != solver or why is None:
            continue
        assert re.search(r"[Uu]se |give it |[Gg]ive |Leave |Keep ", why), (combination, why)
        name, _, estimator, measure = combination
        for said, advised in (
            ("Critic(net)", "critic"),
            ("Autograd()", "autograd"),
            ("Blob(", "blob"),
            ("Stein(", "stein"),
        ):
            if f"{SOLVERS[solver].__name__}(estimator={said}" in why:
                assert advised != estimator, (combination, why)
                assert why != reasons()[name, solver, advised, measure], (combination, why)


def test_solve_raises_the_reason():
    combination = next(c for c, why in reasons().items() if why is not None)
    with pytest.raises(Incompatible) as error:
        solve(*parts(*combination), step_size=H, num_steps=1)
    assert str(error.value) == reasons()[combination]


def test_static_measures_and_targets_without_draws_are_refused():
    kl, critic = FUNCTIONALS["kl"], MAKE_ESTIMATOR["critic"]()
    for name in SOLVERS:
        solver = SOLVERS[name].example(critic)
        assert "start from Particles" in why_not(kl(StandardNormal(2)), solver, StandardNormal(2))
        if solver.splits_entropy or name in (
            "entropic_jko",
            "proximal",
            "bounded_euler",
        ):  # they never ask a critic about KL
            continue
        unnormalised = kl(Unnormalised(lambda x: -x.square().sum(1), 2))
        assert "Use a Dataset or a Gaussian" in why_not(unnormalised, solver, Particles(POINTS))


def test_a_target_without_a_density_is_named_before_the_moving_measure():
    for estimator in (Stein(RBF(1.0)), Autograd()):
        said = why_not(FUNCTIONALS["kl"](Dataset(POINTS)), SOLVERS["forward_euler"](estimator), Particles(POINTS))
        assert "a Dataset as the target has none. Use the Critic" in said


# --- reproducible, resumable, without side effects ------------------------------------------------------------------

CHECKS = [*SOLVER.checks]
OF_THE_SOLVER = {"wrong_arguments_are_refused", *(name for name in CHECKS if name.startswith("order"))}


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in OF_THE_SOLVER])
@pytest.mark.parametrize("combination", MUST_WORK, ids="-".join)
def test_contract(combination, check):
    held = with_networks(case(combination)) if check == "inputs_are_left_as_they_were" else case(combination)
    next(c for c in SOLVER.of(held) if c.name == check)()


def with_networks(case):
    """Give networks as such, in evaluation mode, in the place of what makes them."""
    measure, solver = case.measure, case.solver
    if isinstance(measure, Pushforward):
        measure = dataclasses.replace(measure, net=Noisy().eval())
    if isinstance(solver.estimator, Critic):
        solver = dataclasses.replace(
            solver, estimator=dataclasses.replace(solver.estimator, net=potential_net().eval())
        )
    return dataclasses.replace(case, measure=measure, solver=solver)


# What shows an order; the flows of the last two below are no gradient flows of the functional.
EXACT = {
    "jko": JKO(optim=LBFGS(tolerance=2e-7), iters=1),
    **{name: SOLVERS[name].example(Autograd()) for name in SOLVERS if name != "jko"},
}
EXACT_ORDER, OWN_ORDER = "order_shows_against_the_exact_flow", "order_shows_between_its_own_steps"
WITH_ORDER = (
    "ab2",
    "accelerated",
    "forward_euler",
    "heun",
    "jko",
    "langevin",
    "ode",
    "proximal",
    "rk4",
    "with_reaction",
)
ORDERS = Contract(
    SOLVERS,
    EXACT.__getitem__,
    dict.fromkeys(WITH_ORDER, ())
    | dict.fromkeys(("bounded_euler", "entropic_jko", "forward_backward", "mala"), (EXACT_ORDER, OWN_ORDER)),
    dict.fromkeys(("accelerated", "with_reaction"), (EXACT_ORDER,)),
)


@pytest.mark.parametrize(("name", "check"), [c for c in ORDERS.cases if c[1].name in OF_THE_SOLVER])
def test_contract_of_the_solver_itself(name, check):
    ORDERS.holds(name, check)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_is_not_checked_does_not_apply(name):
    ORDERS.skips(name)
