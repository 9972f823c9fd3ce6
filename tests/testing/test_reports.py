"""What the functions of wgflow.testing take, return and raise."""

import subprocess
import sys
from unittest import SkipTest

import pytest
import torch

import wgflow as wg
from wgflow.testing import Report, checks_for


def test_a_report_names_what_passed_and_what_did_not_apply():
    report = wg.testing.check_kernel(wg.RBF(1.0))
    assert isinstance(report, Report)
    assert "slope_is_the_derivative_of_the_profile" in report.passed
    assert report.skipped == {"a_rule_looks_at_the_law_alone": "it has no rule"}
    lines = str(report).splitlines()
    assert lines[0] == "RBF: 10 checks passed, 1 skipped"
    assert lines[-1] == "  skipped  a_rule_looks_at_the_law_alone (it has no rule)"
    assert repr(report) == str(report)


def test_an_excuse_is_repeated():
    why = {"order_shows_against_the_exact_flow": "it has momentum"}
    report = wg.testing.check_solver(wg.Accelerated(), excused=why)
    assert report.skipped["order_shows_against_the_exact_flow"] == "excused: it has momentum"


def test_an_excuse_for_no_check_is_refused():
    with pytest.raises(wg.BadInput, match="excused='slope': no check is called that"):
        wg.testing.check_kernel(wg.RBF(1.0), excused={"slope": "why"})
    with pytest.raises(wg.BadInput, match="did you mean 'its_integral_is_known'"):
        wg.testing.check_kernel(wg.RBF(1.0), excused={"integral_is_known": "why"})


def test_all_failures_are_said_at_once_and_errors_keep_their_trace():
    class Odd(wg.RBF):
        def slope(self, s):
            return 0 * s

        def log_integral(self, d):
            raise ZeroDivisionError("by what?")

    with pytest.raises(AssertionError) as error:
        wg.testing.check_kernel(Odd(1.0))
    first, *lines = str(error.value).splitlines()
    assert first == "Odd: 4 of 10 checks failed"
    assert [line.split(":")[0].strip() for line in lines] == [
        "slope_is_the_derivative_of_the_profile",
        "curvature_is_the_derivative_of_the_slope",
        "evaluate_is_profile_and_slope",
        "its_integral_is_known",
    ]
    assert lines[3].endswith("it raised ZeroDivisionError: by what?")
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_checks_are_the_same_every_time_and_keep_the_callers_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    drawn = []

    class Drawing(wg.RBF):
        def slope(self, s):
            drawn.append(float(torch.rand(())))
            return super().slope(s)

    for _ in range(2):
        wg.testing.check_kernel(Drawing(1.0))
    assert drawn
    assert drawn[: len(drawn) // 2] == drawn[len(drawn) // 2 :]
    wg.testing.check_solver(wg.ForwardEuler())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_function_that_holds_float32_is_told_what_to_do():
    a = torch.eye(2, dtype=torch.float32)
    F = wg.KL(wg.Unnormalised(lambda x: -(x @ a).square().sum(1), 2))
    with pytest.raises(AssertionError, match=r"raised BadInput: .* make tensors that your functions hold float64"):
        wg.testing.check_functional(F)


def test_one_that_does_not_say_what_its_points_are_is_asked_for_some():
    a = torch.eye(3, dtype=torch.float64)
    F = wg.PotentialEnergy(lambda x: (x @ a.to(x)).square().sum(1))
    with pytest.raises(
        wg.BadInput, match=r"PotentialEnergy does not take points of shape \(2,\): give some .*, measure=..."
    ):
        wg.testing.check_functional(F)
    assert "value_is_a_finite_scalar" in wg.testing.check_functional(F, measure=wg.StandardNormal(3)).passed


def test_a_divergence_whose_target_has_samples_alone_is_checked_by_its_dual():
    report = wg.testing.check_functional(wg.KL(wg.Dataset(torch.randn(20, 2))))
    assert report.skipped["value_is_a_finite_scalar"].startswith("no value is known here: Particles has no density")
    assert {"fenchel_young", "dual_forms_are_finite_scalars"} <= set(report.passed)


def test_what_can_be_evaluated_nowhere_fails_and_one_reason_is_said_once():
    nowhere = wg.EnergyDistance(wg.Unnormalised(lambda x: -x.square().sum(1), 2))
    with pytest.raises(AssertionError, match=r"no value of .* is known here: draw the target first") as error:
        wg.testing.check_functional(nowhere)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("check", "given", "said"),
    [
        ("check_functional", wg.RBF(1.0), r"expected a Functional, got RBF"),
        ("check_kernel", wg.RBF, r"expected a Kernel, got .*That is a class: write RBF\(...\)"),
        ("checks_for", wg.RBF, r"there are no checks for .* give an object, such as RBF\(...\)"),
        (
            "checks_for",
            3,
            "there are no checks for 3: expected a Functional, Estimator, Solver, Kernel, TransportMap or Measure",
        ),
    ],
)
def test_another_object_is_refused(check, given, said):
    with pytest.raises(wg.BadInput, match=said):
        getattr(wg.testing, check)(given)


def test_particles_of_the_user_are_taken_as_they_are():
    seen = []

    class Watched(wg.PotentialEnergy):
        """It notes where it is asked."""

        def value(self, rho):
            seen.append(rho.x.detach())
            return super().value(rho)

    x = torch.tensor([[0.5, 1.0], [2.0, 3.0]])
    excused = {"inputs_are_left_as_they_were": "it takes notes"}
    wg.testing.check_functional(Watched(lambda x: x.square().sum(1)), measure=wg.Particles(x), excused=excused)
    assert any(torch.equal(y, x.double()) for y in seen)
    assert not any(len(y) == 7 for y in seen[:3])


def test_a_check_tells_pytest_its_name_and_that_it_does_not_apply():
    """Both are what pytest looks at: ``__name__`` for the name of a parameter, unittest's exception for a skipped test."""
    check = checks_for(wg.Riesz())[1]
    assert check.__name__ == str(check) == check.name == "curvature_is_the_derivative_of_the_slope"
    assert (
        check.claim == "curvature(s) is the derivative of slope(s), where there is one, by autograd and by differences."
    )
    with pytest.raises(SkipTest, match="it has no curvature"):
        check()


def test_the_default_precision_is_put_back():
    before = torch.get_default_dtype()
    for check in checks_for(wg.RBF(1.0))[:2]:
        check()
    assert torch.get_default_dtype() == before


def test_wgflow_does_not_import_it_until_it_is_asked_for():
    script = "import sys, wgflow; assert 'wgflow.testing' not in sys.modules; wgflow.testing.check_map"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'tasting'"):
        wg.tasting  # noqa: B018


def test_what_belongs_to_another_kind_is_refused():
    with pytest.raises(wg.BadInput, match=r"checks_for\(a Kernel, measure=...\): expected the object alone"):
        checks_for(wg.RBF(1.0), measure=wg.StandardNormal(2))
    with pytest.raises(wg.BadInput, match=r"measur=\.\.\.\): expected measure"):
        checks_for(wg.EnergyDistance(wg.StandardNormal(2)), measur=wg.StandardNormal(2))
