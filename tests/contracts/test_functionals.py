"""What every registered functional owes its callers: registering is enrolling."""

from dataclasses import replace

import pytest
import torch
from _exact import ENTROPIES, Atoms, double, mlp, rng

from wgflow import FUNCTIONALS, Autograd, BadInput, Critic, Functional, Gaussian, Particles

NAMES = list(FUNCTIONALS)
INFINITE = ("identity",)  # off the target the value is infinite, by definition
N = 7


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def critic(event_shape=(2,)):
    net = mlp(torch.Size(event_shape).numel(), seed=1)
    return lambda y: net(y.flatten(1))[:, 0]


def density(x):
    """A Gaussian whose ratio to the standard normal stays below 2, where every entropy is finite."""
    d = x[0].numel()
    return Gaussian(torch.full((d,), 0.1), 0.81 * torch.eye(d)).log_prob(x.flatten(1))


def particles(event_shape=(2,), n=N, seed=2):
    flat = torch.randn(n, torch.Size(event_shape).numel(), generator=rng(seed))
    x = flat.reshape(n, *event_shape)
    return Particles(x, torch.randn(n, generator=rng(seed + 1)), density(x))


def forms(name, F, event_shape=(2,)):
    """Every scalar of the measure that the functional offers, by name."""
    found = {}
    if F.can("value") and name not in INFINITE:
        found["value"] = F.value
    if F.can("conjugate") or F.can("variational"):
        net = critic(event_shape)
        found |= {"variational": lambda p: F.variational(net, p), "surrogate": lambda p: F.surrogate(net, p)}
    return found


def frozen(name, event_shape=(2,)):
    return FUNCTIONALS[name].example(event_shape).freeze(rng(5))


CASES = [(name, form) for name in NAMES for form in forms(name, FUNCTIONALS[name].example())]


def form_of(name, form, event_shape=(2,)):
    return forms(name, frozen(name, event_shape), event_shape)[form]


@pytest.mark.parametrize("name", NAMES)
def test_is_a_functional_with_a_primal_or_a_dual_form(name):
    F = FUNCTIONALS[name].example()
    assert isinstance(F, Functional)
    assert any(F.can(method) for method in ("value", "conjugate", "variational"))
    assert type(F).registered_name == name
    assert type(F).__doc__
    assert forms(name, F)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_is_a_finite_scalar(name, form):
    s = form_of(name, form)(particles())
    assert s.shape == ()
    assert bool(torch.isfinite(s))


@pytest.mark.parametrize(("name", "form"), CASES)
def test_does_not_depend_on_the_order_of_the_particles(name, form):
    s, p, order = form_of(name, form), particles(), torch.randperm(N, generator=rng(3))
    shuffled = Particles(p.x[order], p.log_w[order], p.log_rho[order])
    torch.testing.assert_close(s(shuffled), s(p), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_splitting_a_particle_into_halves_changes_nothing(name, form):
    s, p = form_of(name, form), particles()
    half = torch.cat([p.log_w, p.log_w[:1]])
    half[[0, N]] -= torch.log(torch.tensor(2.0))
    split = Particles(torch.cat([p.x, p.x[:1]]), half, torch.cat([p.log_rho, p.log_rho[:1]]))
    torch.testing.assert_close(s(split), s(p), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_weights_need_not_be_normalised_and_none_means_equal(name, form):
    s, p = form_of(name, form), particles()
    torch.testing.assert_close(s(replace(p, log_w=p.log_w + 3)), s(p), rtol=1e-12, atol=1e-12)
    equal = replace(p, log_w=torch.full((N,), 0.7))
    torch.testing.assert_close(s(equal), s(replace(p, log_w=None)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_gradients_in_positions_and_weights_are_central_differences(name, form):
    s, p = form_of(name, form), particles()

    def of(x, log_w):
        return s(Particles(x, log_w, density(x)))

    assert torch.autograd.gradcheck(of, (p.x.requires_grad_(True), p.log_w.requires_grad_(True)))


@pytest.mark.parametrize(("name", "form"), CASES)
def test_the_shape_of_a_point_does_not_matter(name, form):
    flat, image = ((4,), (1, 2, 2))
    torch.testing.assert_close(
        form_of(name, form, flat)(particles(flat)), form_of(name, form, image)(particles(image)), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(("name", "form"), CASES)
def test_freezing_is_the_only_door_of_randomness(name, form):
    F, p = FUNCTIONALS[name].example(), particles()
    one, two = (forms(name, F.freeze(rng(0)))[form](p) for _ in range(2))
    assert torch.equal(one, two)
    fixed = F.freeze(rng(0))
    assert torch.equal(forms(name, fixed)[form](p), one)
    assert torch.equal(forms(name, fixed.freeze(rng(9)))[form](p), one), "a frozen functional stays as it is"
    torch.manual_seed(0)
    before = torch.get_rng_state()
    forms(name, F.freeze(rng(0)))[form](p)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"


# chi2_tight is a ratio of moments of the critic: not linear in the law, and flat at a constant critic.
LINEAR = [
    name
    for name in NAMES
    if (FUNCTIONALS[name].supports("conjugate") or FUNCTIONALS[name].supports("variational")) and name != "chi2_tight"
]


@pytest.mark.parametrize("name", LINEAR)
def test_a_critic_ascends_what_depends_on_every_point_of_the_target(name):
    """The gradient of the objective in the critic's values exists at every data point and model point."""
    F, p = frozen(name), particles()
    v = torch.zeros(len(F.data()) + N, requires_grad=True)
    values = {id(F.data().x): v[:-N], id(p.x): v[-N:]}
    (grad,) = torch.autograd.grad(F.variational(lambda y: values[id(y)], p), v)
    assert bool((grad[:-N] > 0).all()), "high on data"
    assert bool((grad[-N:] < 0).all()), "low on the model"


# --- divergences on common atoms -----------------------------------------------------------------------------------

ATOMS = double([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
NU, RHO = double([0.25, 0.35, 0.4]), double([0.3, 0.5, 0.2])


@pytest.mark.parametrize("name", ENTROPIES)
def test_divergences_vanish_at_the_target_and_nowhere_else(name):
    F = FUNCTIONALS[name](Atoms(ATOMS, NU))
    at_target = F.value(Particles(ATOMS, NU.log(), NU.log()))
    assert float(at_target) == pytest.approx(0, abs=1e-15)
    assert float(F.value(Particles(ATOMS, RHO.log(), RHO.log()))) > 0.01


@pytest.mark.parametrize("name", ENTROPIES)
def test_fenchel_young(name):
    value = FUNCTIONALS[name](Atoms(ATOMS, NU)).value(Particles(ATOMS, RHO.log(), RHO.log()))
    F, rho = FUNCTIONALS[name](Particles(ATOMS, NU.log())), Particles(ATOMS, RHO.log())
    for seed in range(20):
        phi = F.witness(2 * torch.randn(3, generator=rng(seed)))
        assert float(rho.mean(phi) - F.conjugate(lambda y, phi=phi: phi)) <= float(value) + 1e-12


# The adversarial form of js_nonsat is not a bound of its value: the critic ascends 2 JS.
@pytest.mark.parametrize("name", [n for n in ENTROPIES if n != "js_nonsat"])
def test_no_critic_exceeds_the_value(name):
    value = FUNCTIONALS[name](Atoms(ATOMS, NU)).value(Particles(ATOMS, RHO.log(), RHO.log()))
    F, rho = FUNCTIONALS[name](Particles(ATOMS, NU.log())), Particles(ATOMS, RHO.log())
    for seed in range(20):
        v = 2 * torch.randn(3, generator=rng(seed))
        assert float(F.variational(lambda y, v=v: v, rho)) <= float(value) + 1e-12


# --- estimators: the same derivatives by either way ----------------------------------------------------------------


def test_autograd_gives_the_potential_and_its_gradient():
    F, p = FUNCTIONALS["potential"].example(), particles()
    phi, slope = Autograd().gradient(F, p, None)
    potential = p.x.square().sum(1) / 2
    torch.testing.assert_close(phi, potential - p.mean(potential))
    torch.testing.assert_close(slope, p.x)
    torch.testing.assert_close(Autograd().velocity(F, p, None), -p.x)


@pytest.mark.parametrize("name", LINEAR)
def test_critic_gives_the_witness_and_its_gradient(name):
    F, p, estimator = frozen(name), particles(), Critic(mlp(2, seed=1))
    es = estimator.init(F, rng())
    phi, slope = estimator.gradient(F, p, es)
    witness = estimator.potential(F, p.x, es)
    torch.testing.assert_close(phi, witness - p.mean(witness))
    x = p.x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(F.witness(es.net(x)[:, 0]).sum(), x)
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(estimator.velocity(F, p, es), -expected)


@pytest.mark.parametrize("name", ENTROPIES)
def test_a_batch_needs_a_point(name):
    with pytest.raises(BadInput, match="batch=0"):
        FUNCTIONALS[name](Particles(ATOMS), batch=0)
