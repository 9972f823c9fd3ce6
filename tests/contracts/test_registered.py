"""What every registered estimator, kernel, map and measure owes its callers: registering is enrolling."""

import pytest
from _contract import Contract

from wgflow import ESTIMATORS, KERNELS, MAPS, MEASURES
from wgflow.measures import MovingMeasure

NO_POTENTIAL = ("the_first_variation_is_centred", "gradients_are_central_differences")
NOT_POINTWISE, NO_STATE = "pointwise_velocities_see_one_point", "state_dict_restores_it"
RANDOM = ("order_of_the_particles_does_not_matter", "splitting_a_particle_changes_nothing")
SKIPPED_ESTIMATORS = {
    "critic": (),
    "autograd": (NOT_POINTWISE, NO_STATE, "wrong_arguments_are_refused"),
    "blob": (NOT_POINTWISE, NO_STATE),
    "kde": (NOT_POINTWISE, NO_STATE, "gradients_are_central_differences"),
    "stein": (NOT_POINTWISE, NO_STATE, *NO_POTENTIAL),
    "learned_score": (NOT_POINTWISE, *NO_POTENTIAL),
    "proximal_score": (NOT_POINTWISE, *NO_POTENTIAL),
    "evaluation_noise": (NOT_POINTWISE, *NO_POTENTIAL, *RANDOM),
    "two_batch": (NOT_POINTWISE,),
    "mean_shift": NO_POTENTIAL,
    "unit_speed": (NOT_POINTWISE, *NO_POTENTIAL),
    "total": (NOT_POINTWISE, *NO_POTENTIAL),
}
NO_RULE, NO_DENSITY, NO_CURVATURE = (
    "a_rule_looks_at_the_law_alone",
    "its_integral_is_known",
    "curvature_is_the_derivative_of_the_slope",
)
CONDITIONAL = "is_positive_definite_where_it_is_characteristic"
SKIPPED_KERNELS = {
    "median_rbf": (),
    "nearest_rbf": (),
    "rbf": (NO_RULE,),
    "inverse_multiquadric": (NO_RULE, NO_DENSITY),
    "laplace": (NO_RULE, NO_DENSITY, NO_CURVATURE),
    "matern": (NO_RULE, NO_DENSITY, NO_CURVATURE),
    "riesz": (NO_RULE, NO_DENSITY, NO_CURVATURE),
    "logarithmic": (NO_RULE, NO_DENSITY, NO_CURVATURE, CONDITIONAL, "wrong_arguments_are_refused"),
    "power_law": (NO_RULE, NO_DENSITY, NO_CURVATURE, CONDITIONAL),
    "random_fourier": (NO_RULE,),
    "nystrom": (NO_RULE,),
}
MOVES = (
    *("follows_a_move", "a_successor_starts_where_the_measure_is", "a_coupling_can_be_evaluated_again"),
    *("an_accepted_successor_is_the_measure", "state_dict_restores_it"),
)
DENSITY = ("log_prob_is_one_number_a_point", "score_is_the_gradient_of_log_prob", "draws_follow_the_density")
CAN_DRAW, ATOMS, NO_DATACLASS = (
    "a_measure_without_draws_says_so",
    "atoms_are_those_it_counts",
    "wrong_arguments_are_refused",
)
SKIPPED_MEASURES = {
    "standard_normal": (CAN_DRAW, ATOMS, NO_DATACLASS, *MOVES),
    "gaussian": (CAN_DRAW, ATOMS, NO_DATACLASS, *MOVES),
    "gaussian_mixture": (CAN_DRAW, ATOMS, NO_DATACLASS, *MOVES),
    "dataset": (CAN_DRAW, *DENSITY, *MOVES),
    "smoothed": (CAN_DRAW, ATOMS, *DENSITY, *MOVES),
    "proximal_mixture": (CAN_DRAW, ATOMS, *MOVES),
    "labelled": (CAN_DRAW, *DENSITY, *MOVES),
    "balanced": (CAN_DRAW, ATOMS, *DENSITY, *MOVES),
    "of_every_class": (CAN_DRAW, ATOMS, *DENSITY, *MOVES),
    "labelled_latent": (CAN_DRAW, ATOMS, *DENSITY, *MOVES),
    "paired": (CAN_DRAW, ATOMS, *DENSITY, *MOVES),
    "unnormalised": (
        *("draws_are_points_with_weights", "the_generator_decides_the_draw", "draws_follow_the_density"),
        *(ATOMS, NO_DATACLASS, *MOVES),
    ),
    "local_gaussians": (CAN_DRAW, ATOMS, *MOVES),
    "reversed": (CAN_DRAW, ATOMS, *MOVES),
    "kernel_score_model": (CAN_DRAW, ATOMS, "follows_a_move"),
    "particles": (CAN_DRAW, ATOMS, *DENSITY),
    "pushforward": (CAN_DRAW, ATOMS, *DENSITY),
    "chain": (CAN_DRAW, ATOMS, "draws_follow_the_density", "follows_a_move"),
    "grid": (CAN_DRAW, ATOMS, "draws_follow_the_density", *MOVES[:-1]),
}
ALL_OF_A_MAP = ("affine", "icnn_gradient", "neural_ode", "residual")
NO_SCORE = ("score_is_the_gradient_of_log_prob",)
CONTRACTS = {
    "estimator": Contract(ESTIMATORS, lambda name: ESTIMATORS[name].example(), SKIPPED_ESTIMATORS),
    "kernel": Contract(KERNELS, lambda name: KERNELS[name].example(), SKIPPED_KERNELS),
    "map": Contract(MAPS, lambda name: MAPS[name].example(), dict.fromkeys(ALL_OF_A_MAP, ())),
    # The density of a grid has steps, that of a chain is asked for without gradient.
    "measure": Contract(
        MEASURES, lambda name: MEASURES[name].example(), SKIPPED_MEASURES, {"grid": NO_SCORE, "chain": NO_SCORE}
    ),
}


@pytest.mark.parametrize(
    ("kind", "name", "check"), [(kind, *case) for kind, c in CONTRACTS.items() for case in c.cases]
)
def test_contract(kind, name, check):
    CONTRACTS[kind].holds(name, check)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, c in CONTRACTS.items() for name in c.left])
def test_what_is_not_checked_does_not_apply(kind, name):
    CONTRACTS[kind].skips(name)


def test_a_measure_that_moves_is_checked_as_one():
    moving = {name for name in MEASURES if issubclass(MEASURES[name], MovingMeasure)}
    assert {name for name, check in CONTRACTS["measure"].cases if check.name == "state_dict_restores_it"} >= moving
