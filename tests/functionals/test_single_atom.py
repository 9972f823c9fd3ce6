"""C2 and C11: one JKO step from a single atom, where the semi-dual is known for every entropy."""

import numpy as np
import pytest
import torch
from _exact import ENTROPIES, Table, double, rng
from scipy.optimize import brentq, minimize

from wgflow import FUNCTIONALS, SGD, Critic, Particles, transport_cost

ATOMS, NU = double([[0.0], [1.0], [2.0]]), double([0.2, 0.3, 0.5])
COST = transport_cost(torch.zeros_like(ATOMS), ATOMS)  # from the atom at 0, with h = 1: (0, 1/2, 2)
# λ (None: not determined), the law after the step, the value of the step. The five of the specification first; the
# others follow from them: a shifted critic, the same f, a constant-free form, a hard constraint.
KL = (0.444813, 0.404689, 0.150497)
CHI2 = (0.315, 0.3975, 0.2875)
ROWS = {
    "kl": (0.799337, KL, 0.799337),
    "chi2": (1.15, CHI2, 0.961875),
    "softplus": (1.156115, (0.304250, 0.395032, 0.300717), 0.968372),
    "js_exact": (0.434463, (0.677451, 0.264209, 0.058340), 0.587197),
    "js_nonsat": (0.674759, (0.585424, 0.414576, 0.0), 0.515566),
    "kl_uncentred": (1.799337, KL, 0.799337),
    "kl_dv": (None, KL, 0.799337),
    "chi2_signed": (1.15, CHI2, 0.961875),
    "chi2_tight": (1.15, CHI2, 0.961875),
    "identity": (None, (0.2, 0.3, 0.5), 0.3 * 0.5 + 0.5 * 2.0),
}
DIGITS = 2e-6
END = {"js_exact": 0.69}  # its conjugate is infinite from log 2 on


def functional(name):
    return FUNCTIONALS[name](Particles(ATOMS, NU.log()))


def on_atoms(values):
    """The function with these values at the atoms."""
    return lambda y: values[torch.cdist(y, ATOMS).argmin(1)]


def test_every_registered_entropy_has_its_row():
    assert set(ROWS) == set(ENTROPIES)


def test_the_cost_is_half_the_squared_distance():
    assert COST.tolist() == [0.0, 0.5, 2.0]


@pytest.mark.parametrize("name", [n for n in ENTROPIES if ROWS[n][0] is not None])
def test_the_row_follows_from_the_mass_condition(name):
    """Solve Σ_j ν_j (f*)'(λ - c_j) = 1 by bisection, an independent way to the same row."""
    F, (expected, rho, value) = functional(name), ROWS[name]

    def excess(lam):
        return float((NU * F.ratio(lam - COST)).sum()) - 1

    lam = brentq(excess, -3, END.get(name, 4), xtol=1e-14)
    assert lam == pytest.approx(expected, abs=DIGITS)
    torch.testing.assert_close(NU * F.ratio(lam - COST), double(rho), rtol=0, atol=DIGITS)
    assert lam - float((NU * F.f_star(lam - COST)).sum()) == pytest.approx(value, abs=DIGITS)


@pytest.mark.parametrize("name", ENTROPIES)
def test_the_maximum_of_the_semi_dual_is_the_row(name):
    """Maximise v^c(0) - F*(-v) over the critic's values at the atoms; v^c(0) = t is the largest with t + v_j <= c_j."""
    F, (lam, rho, value) = functional(name), ROWS[name]

    def loss(z):
        v = double(z[1:]).requires_grad_(True)
        conjugate = F.conjugate(on_atoms(-v))
        (grad,) = torch.autograd.grad(conjugate, v)
        return float(conjugate.detach()) - z[0], np.concatenate([[-1.0], grad.numpy()])

    slope = -np.hstack([np.ones((3, 1)), np.eye(3)])
    constraint = {"type": "ineq", "fun": lambda z: COST.numpy() - z[1:] - z[0], "jac": lambda z: slope}
    bounds = [(None, None)] + [(-END.get(name, np.inf), None)] * 3
    best = minimize(
        loss, np.zeros(4), jac=True, method="SLSQP", bounds=bounds, constraints=constraint, options={"ftol": 1e-15}
    )
    v = double(best.x[1:]).requires_grad_(True)
    assert -best.fun == pytest.approx(value, abs=DIGITS)
    (weights,) = torch.autograd.grad(F.conjugate(on_atoms(-v)), v)  # ∂F*/∂φ = ρ
    torch.testing.assert_close(-weights, double(rho), rtol=0, atol=1e-5)
    if lam is not None:
        assert best.x[0] == pytest.approx(lam, abs=1e-5)


def play(name, rounds=300, damping=0.1):
    """The adversarial game on weights: Critic ascends its objective, the mover descends cost + its surrogate."""
    F, critic = functional(name), Critic(Table(ATOMS), SGD(1.0), iters=5)
    es, logits = critic.init(F, rng()), NU.log().clone()
    for _ in range(rounds):
        rho = Particles(ATOMS, logits)
        critic.refine(F, lambda _, rho=rho: rho, es, rng())
        phi, _ = critic.gradient(F, rho, es)
        logits = (logits - damping * (COST + phi)).log_softmax(0)
    return logits.exp()


# A hard constraint leaves the critic of a fixed law unbounded: there is no game to play by alternating updates.
@pytest.mark.parametrize("name", [n for n in ENTROPIES if n != "identity"])
def test_the_adversarial_game_ends_at_the_row(name):
    """js_exact and js_nonsat share the critic's objective; what the mover descends decides between their rows."""
    torch.testing.assert_close(play(name), double(ROWS[name][1]), rtol=0, atol=DIGITS)
