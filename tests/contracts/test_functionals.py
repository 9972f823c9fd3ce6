"""What every registered functional owes its callers: registering is enrolling."""

import pytest
import torch
from _contract import Contract
from _exact import ENTROPIES, double, mlp, rng

from wgflow import FUNCTIONALS, Autograd, BadInput, Critic, Functional, Particles

FLAT, FORMS, BOUND = (
    "critics_are_high_on_data_and_low_on_the_model",
    "dual_forms_are_finite_scalars",
    "no_critic_exceeds_the_value",
)
NO_DIVERGENCE = (
    *("fenchel_young", "the_best_critic_attains_the_value", "vanishes_at_the_target_and_nowhere_else"),
    *("f_star_is_the_conjugate_of_f", "ratio_is_the_slope_of_f_star", "perspective_has_the_mean_of_f"),
)
NO_DUAL = (*NO_DIVERGENCE, FLAT, FORMS, BOUND)
VALUES = (
    *("entropy", "interaction", "kale", "mmd", "potential", "power_entropy", "sinkhorn", "sliced_w", "squared_ksd"),
    *("squared_mmd", "annealed", "in_features", "proximal_kl", "cross_entropy"),
)
SKIPPED = dict.fromkeys(ENTROPIES, ()) | dict.fromkeys(VALUES, NO_DUAL)
SKIPPED["w1"] = (*NO_DIVERGENCE, BOUND)  # a penalty keeps its critics in their class
SKIPPED["w2"] = NO_DIVERGENCE
SKIPPED["chi2_tight"] = (
    FLAT,
)  # a ratio of moments of the critic: not linear in the law, and flat at a constant critic
SKIPPED["identity"] = ("the_best_critic_attains_the_value",)  # the value is infinite
SKIPPED["learned_features"] = (
    *NO_DIVERGENCE,
    FLAT,
    BOUND,
    "value_is_a_finite_scalar",
)  # a supremum that a critic looks for
AT_DATA = ("implicit_score_matching", "negative_log_likelihood")  # the density of a law, away from its points
SKIPPED |= dict.fromkeys(AT_DATA, (*NO_DUAL, "value_is_a_finite_scalar"))
EXCUSED = dict.fromkeys(AT_DATA, ("has_a_primal_or_a_dual_form",)) | {
    "identity": ("value_is_a_finite_scalar",),  # off the target it is infinite, by definition
    "js_nonsat": ("the_best_critic_attains_the_value",),  # a game: critic and model follow different scalars
}
CONTRACT = Contract(FUNCTIONALS, lambda name: FUNCTIONALS[name].example(), SKIPPED, EXCUSED)


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("name", "check"), CONTRACT.cases)
def test_contract(name, check):
    CONTRACT.holds(name, check)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_is_a_functional_and_what_is_not_checked_does_not_apply(name):
    F = FUNCTIONALS[name].example()
    assert isinstance(F, Functional)
    assert type(F).registered_name == name
    CONTRACT.skips(name)


# --- estimators: the same derivatives by either way ----------------------------------------------------------------

LINEAR = [name for name, check in CONTRACT.cases if check.name == FLAT]


def particles():
    return Particles(torch.randn(7, 2, generator=rng(2)), torch.randn(7, generator=rng(3)))


def test_autograd_gives_the_potential_and_its_gradient():
    F, p = FUNCTIONALS["potential"].example(), particles()
    phi, slope = Autograd().gradient(F, p, None)
    potential = p.x.square().sum(1) / 2
    torch.testing.assert_close(phi, potential - p.mean(potential))
    torch.testing.assert_close(slope, p.x)
    torch.testing.assert_close(Autograd().velocity(F, p, None), -p.x)


@pytest.mark.parametrize("name", LINEAR)
def test_critic_gives_the_witness_and_its_gradient(name):
    F, p, estimator = FUNCTIONALS[name].example().freeze(rng(5)), particles(), Critic(mlp(2, seed=1))
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
        FUNCTIONALS[name](Particles(double([[0.0, 0.0]])), batch=0)
