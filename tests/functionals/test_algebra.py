"""Sums and multiples of functionals: values, conjugates against a numerical supremum, and what is refused."""

import math
from dataclasses import dataclass

import pytest
import torch
from _exact import ALL, Affine, Atoms, Quadratic, Table, double, hermite, mlp, rng, trapezoid

from wgflow import (
    FUNCTIONALS,
    JKO,
    KL,
    SGD,
    Autograd,
    BadInput,
    Critic,
    Dataset,
    ForwardEuler,
    Functional,
    Particles,
    PotentialEnergy,
    Pushforward,
    Scaled,
    Smoothed,
    SquaredW2,
    StandardNormal,
    Sum,
    Unsupported,
    instance_noise,
    solve,
    why_not,
)

ATOMS, NU, RHO = double([[0.0], [1.0], [2.0]]), double([0.2, 0.3, 0.5]), double([0.35, 0.35, 0.3])
TARGET = Particles(ATOMS, NU.log())
KNOWN = Particles(ATOMS, RHO.log(), log_rho=RHO.log())
V = PotentialEnergy(lambda y: 0.3 * y[:, 0] - 0.1)
W = PotentialEnergy(lambda y: y[:, 0].square() / 5)


def on_atoms(name):
    """A divergence to the same law with both its forms: counting density for the value, points for the conjugate."""
    return FUNCTIONALS[name](Atoms(ATOMS, NU)), FUNCTIONALS[name](TARGET)


def test_values_add_and_multiply():
    F, _ = on_atoms("kl")
    kl, v, w = (float(t.value(KNOWN)) for t in (F, V, W))
    assert float((2 * F).value(KNOWN)) == pytest.approx(2 * kl)
    assert float((F + 0.5 * V + W).value(KNOWN)) == pytest.approx(kl + v / 2 + w)
    assert float((2 * (F + V)).value(KNOWN)) == pytest.approx(2 * (kl + v))
    assert kl == pytest.approx(float((RHO * (RHO / NU).log()).sum()))


def test_sums_are_flat_and_do_not_depend_on_brackets():
    F, _ = on_atoms("kl")
    assert (F + V) + W == F + (V + W) == Sum((F, V, W))


@pytest.mark.parametrize("name", ["kl", "chi2", "softplus", "js_exact", "js_nonsat"])
@pytest.mark.parametrize("c", [0.5, 3.0])
def test_conjugates_are_suprema_over_a_grid_of_measures(name, c):
    """sup over ρ >= 0 on the atoms of ⟨φ, ρ⟩ - c D(ρ|ν) - ⟨2V + W, ρ⟩; it splits over the atoms."""
    _, F = on_atoms(name)
    phi = double([0.05, -0.3, 0.1])
    p = torch.arange(0, 12 * 4096, dtype=torch.float64)[:, None] / 4096

    def sup(potential):
        return float((NU * (p * (phi - potential) - c * F.f(p)).amax(0)).sum())

    look_up = lambda y: phi[torch.cdist(y, ATOMS).argmin(1)]  # noqa: E731
    potential = 2 * V.potential(ATOMS) + W.potential(ATOMS)
    assert float((c * F).conjugate(look_up)) == pytest.approx(sup(0), abs=1e-6)
    assert float((c * F + 2 * V + W).conjugate(look_up)) == pytest.approx(sup(potential), abs=1e-6)
    assert float((c * F + 4 * (0.5 * V) + W).conjugate(look_up)) == pytest.approx(sup(potential), abs=1e-6)


def test_kl_plus_a_potential_is_kl_to_a_tilted_law():
    """KL(ρ|ν) + ⟨V, ρ⟩ = KL(ρ | ν e^{-V}/Z) - log Z, so the Donsker–Varadhan conjugates differ by log Z."""
    tilt = NU * torch.exp(-V.potential(ATOMS))
    tilted = FUNCTIONALS["kl_dv"](Particles(ATOMS, tilt.log()))
    _, F = on_atoms("kl_dv")
    net = Table(ATOMS)
    net.v.data = double([0.4, -0.3, 0.1])
    shift = float((F + V).conjugate(net).detach() - tilted.conjugate(net).detach())
    assert shift == pytest.approx(math.log(tilt.sum()), abs=1e-12)


def test_a_jko_step_of_kl_plus_a_quadratic_potential_has_the_narrower_gaussian_as_target():
    """KL to N(0, 1) plus |y|²/2 is KL to N(0, 1/2): from N(2, 1/4) with h = 1/2 the mean goes to 2 (1/2)/(1/2 + 1/2)."""
    F = KL(trapezoid(), ALL) + PotentialEnergy(lambda y: y[:, 0].square() / 2)
    solver = JKO(Critic(Quadratic(), SGD(0.2)), SGD(0.05), iters=1200, batch=ALL)
    net = solve(F, solver, Pushforward(hermite(), Affine(0.5, 2.0)), step_size=0.5, num_steps=1).measure.net
    h, s, a = 0.5, 0.5, 2.0
    std = (s + math.sqrt(s * s + 4 * h * (1 + h * a))) / (2 * (1 + h * a))
    assert (net.b.item(), net.A.item()) == pytest.approx((1.0, std), abs=1e-5)


@pytest.mark.parametrize("name", ["kl", "js_nonsat", "chi2_tight"])
def test_what_a_critic_sees_of_a_multiple_and_of_a_sum(name):
    _, F = on_atoms(name)
    rho, net = Particles(ATOMS, RHO.log()), mlp(1)
    flat = lambda y: net(y)[:, 0]  # noqa: E731
    assert torch.equal((3 * F).variational(flat, rho), 3 * F.variational(flat, rho))
    assert torch.equal((3 * F).surrogate(flat, rho), 3 * F.surrogate(flat, rho))
    assert torch.equal((F + V).variational(flat, rho), F.variational(flat, rho))
    torch.testing.assert_close((V + F).surrogate(flat, rho), F.surrogate(flat, rho) + V.value(rho))
    v = flat(ATOMS)
    assert torch.equal((3 * F).witness(v), 3 * F.witness(v))
    assert torch.equal((F + V).witness(v), F.witness(v))


@pytest.mark.parametrize("name", ["kl", "softplus", "js_exact"])
def test_the_variational_form_of_a_multiple_is_its_conjugates(name):
    """⟨φ, ρ⟩ - (cF)*(φ) at φ = c witness(v)."""
    _, F = on_atoms(name)
    rho, net = Particles(ATOMS, RHO.log()), Table(ATOMS)
    net.v.data = double([0.4, -0.3, 0.1])
    F3 = 3 * F
    by_conjugate = rho.mean(F3.witness(net(ATOMS))) - F3.conjugate(lambda y: F3.witness(net(y)))
    torch.testing.assert_close(F3.variational(net, rho), by_conjugate)


def test_the_potential_of_a_critic_is_the_first_variation_of_a_multiple():
    critic = Critic(Table(ATOMS))
    for name in ("kl", "js_nonsat"):
        _, F = on_atoms(name)
        es = critic.init(F, rng())
        es.net.v.data = double([0.4, -0.3, 0.1])
        rho = Particles(ATOMS, RHO.log())
        phi = critic.potential(3 * F, ATOMS, es)
        centred, _ = critic.gradient(3 * F, rho, es)
        torch.testing.assert_close(phi - rho.mean(phi), centred)


def test_the_potential_of_a_critic_holds_the_potential_energies_of_a_sum():
    critic, (_, F) = Critic(Table(ATOMS)), on_atoms("kl")
    es = critic.init(F, rng())
    es.net.v.data = double([0.4, -0.3, 0.1])
    own = critic.potential(F, ATOMS, es)
    torch.testing.assert_close(critic.potential(3 * (F + V), ATOMS, es), 3 * (own + V.at_points(ATOMS)))
    rho = Particles(ATOMS, RHO.log())
    centred, _ = critic.gradient(F + V, rho, es)
    phi = critic.potential(F + V, ATOMS, es)
    torch.testing.assert_close(phi - rho.mean(phi), centred)


@dataclass(frozen=True)
class Entropic(Functional):
    """Declares an energy and a temperature."""

    energy: Functional | None
    temperature: float

    def split_entropy(self):
        return self.energy, self.temperature


def test_temperatures_and_energies_are_split_off():
    assert (Entropic(V, 0.5) + W + Entropic(None, 0.25)).split_entropy() == (V + W, 0.75)
    assert (2 * Entropic(V, 0.5)).split_entropy() == (2 * V, 1.0)
    assert (2 * Entropic(None, 0.5)).split_entropy() == (None, 1.0)
    assert (Entropic(None, 1.0) + V).split_entropy() == (V, 1.0)


def test_time_and_randomness_reach_every_term():
    data = Dataset(torch.arange(20.0)[:, None])
    F = 2 * (KL(Smoothed(data, instance_noise), batch=4) + PotentialEnergy(V.potential))
    assert F.batch >= 4
    assert F.at(3, 0.3).term.terms[0].target.k == 3
    one, two, other = (F.freeze(rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.data().x, two.data().x)
    assert not torch.equal(one.data().x, other.data().x)
    assert one.data().x.shape == (4, 1)


@pytest.mark.parametrize("c", [0.0, math.inf, math.nan, 10**400, True, "2", torch.ones(2)])
def test_multipliers_must_be_finite_numbers_other_than_0(c):
    with pytest.raises(BadInput, match=r"times 0|c=.* expected a finite number"):
        Scaled(c, V)
    with pytest.raises(TypeError):
        "two" * V
    with pytest.raises(TypeError):
        V + 1.0


@dataclass(frozen=True)
class SecondMoment(Functional):
    """A functional with a value that is not called a potential energy."""

    def value(self, rho):
        return rho.mean(rho.x[:, 0].square())


def test_what_has_no_conjugate_or_value_says_so_and_advises():
    _, F = on_atoms("kl")
    phi = lambda y: y[:, 0]  # noqa: E731
    with pytest.raises(Unsupported, match=r"exactly one term of a sum; 2 of \(KL, KL\).*Autograd"):
        (F + F).variational(phi, KNOWN)
    with pytest.raises(Unsupported, match="exactly one term of a sum; 0 of"):
        (V + W).conjugate(phi)
    with pytest.raises(Unsupported, match="SecondMoment is not a potential energy"):
        (F + SecondMoment()).conjugate(phi)
    with pytest.raises(Unsupported, match=r"PotentialEnergy has no conjugate.*Autograd"):
        V.conjugate(phi)
    with pytest.raises(Unsupported, match=r"log_rho.*not known.*Critic"):
        (2 * F).value(Particles(ATOMS))
    with pytest.raises(Unsupported, match="freeze"):
        KL(StandardNormal(1)).conjugate(phi)
    with pytest.raises(Unsupported, match=r"not a dataclass: write @dataclass.* or override freeze"):
        type("Bare", (Functional,), {})().freeze(rng())


@pytest.mark.parametrize(
    ("F", "estimator", "advice"),
    [
        (KL(StandardNormal(1)) + V, Critic(mlp(1)), None),
        (3 * (KL(StandardNormal(1)) + 2 * V) + SecondMoment(), Critic(mlp(1)), None),
        (V + 2 * W, Autograd(), None),
        (SecondMoment() + V, Autograd(), None),
        (KL(StandardNormal(1)) + V, Autograd(), "Critic"),
        (V + W, Critic(mlp(1)), "Autograd"),
        (2 * V, Critic(mlp(1)), "Autograd"),
    ],
)
@pytest.mark.parametrize("solver", [JKO, ForwardEuler])
def test_compatibility_looks_into_sums_and_multiples(F, estimator, advice, solver):
    reason = why_not(F, solver(estimator), Particles(torch.zeros(3, 1)))
    assert (reason is None) == (advice is None)
    assert advice is None or f"{solver.__name__}(estimator={advice}" in reason


def test_a_sum_that_would_need_two_critics_says_so():
    two = KL(StandardNormal(1)) + 2 * KL(StandardNormal(1))
    reason = why_not(two, JKO(Critic(mlp(1))), Particles(torch.zeros(3, 1)))
    assert "exactly one term of a sum, and KL, Scaled would each need one" in reason


def test_a_negative_multiple_gives_no_number_for_what_it_does_not_have():
    F, rho = -1 * SquaredW2(Particles(ATOMS)), Particles(ATOMS + 1)
    net = lambda y: y[:, 0]  # noqa: E731
    for ask in (lambda: F.prox(rho, 0.1), lambda: F.remaining(rho), lambda: F.variational(net, rho)):
        with pytest.raises(Unsupported, match="concave"):
            ask()
    with pytest.raises(Unsupported, match="concave"):
        (-2 * on_atoms("kl")[1]).conjugate(net)
    assert float(F.value(rho)) < 0
