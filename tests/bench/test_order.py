"""Orders from errors: slopes that are known, and what is left out of them."""

import math

import pytest

from wgflow.bench.order import fit

H = (0.2, 0.1, 0.05, 0.025)
EPS = 2.0**-52


def observed(errors, spreads=(0.0,) * 4, **settings):
    return fit(H, errors, spreads, **({"floor": 0.0, "scale": 1.0, "eps": EPS} | settings))


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 4.0])
def test_a_power_has_its_exponent(p):
    order = observed([0.1 * h**p for h in H])
    assert order.value == pytest.approx(p)
    assert order.spread == pytest.approx(0, abs=1e-9)
    assert order.step_sizes == H
    assert order.reason == ""


@pytest.mark.parametrize(
    ("errors", "settings", "left", "reason"),
    [
        ([0.2, 0.1, 0.05, 0.05], {"floor": 0.02}, 2, "within 3 times the sampling floor 2.0e-02"),
        ([9.0, 5.0, 0.05, 0.025], {}, 2, "unstable"),
        ([None, 0.1, 0.05, 0.025], {}, 3, "no error"),
        ([1e-11, 1e-12, 2e-14, 1e-14], {}, 2, "rounding"),
        ([4e-3, 2e-3, 1e-5, 1e-5], {"eps": 2.0**-23}, 2, "rounding"),
    ],
)
def test_what_is_no_error_in_time_is_left_out_and_named(errors, settings, left, reason):
    order = observed(errors, **settings)
    assert len(order.step_sizes) == left
    assert order.reason == reason
    assert order.value is not None


def test_errors_that_are_lost_in_their_bars_are_left_out():
    order = observed([0.2, 0.1, 0.05, 0.025], (0.01, 0.01, 0.01, 0.013))
    assert order.step_sizes == H[:3]
    assert order.reason == "error bars"


def test_orders_look_above_the_floor():
    def order(h, errors, floor):
        return fit(h, errors, [0.0] * len(h), floor=floor, scale=1.0, eps=EPS).value

    assert order((1 / 5, 1 / 10, 1 / 20), (0.4, 0.1, 0.025), 0.0) == pytest.approx(2)
    assert order((1 / 5, 1 / 10, 1 / 20, 1 / 40), (0.4, 0.2, 0.1, 0.1), 0.04) == pytest.approx(1)
    assert order((1 / 5, 1 / 10, 1 / 20), (None, 0.1, 0.01), 0.05) is None


def test_fewer_than_two_errors_have_no_order():
    order = observed([0.2, None, None, 5.0])
    assert order.value is None
    assert str(order) == ""
    assert order.reason == "no error, unstable"
    assert fit((0.1,), (0.1,), (0.0,), floor=0.0, scale=1.0, eps=EPS).reason == "one step size"


def test_the_spread_is_that_of_the_slopes_or_of_the_error_bars():
    """Slopes 1, 1 and 2, whose weights in the fit to four equal halvings are 3, 4 and 3 tenths."""
    bent = observed([0.8, 0.4, 0.2, 0.05])
    assert bent.value == pytest.approx(1.3)
    assert bent.spread == pytest.approx(0.7)
    assert str(bent) == "1.30 ± 0.70"
    # Two errors with bars of 10 %: the slope is log2 of their ratio, with the error sqrt(2) 0.1 / log 2.
    two = fit((0.2, 0.1), (0.4, 0.2), (0.04, 0.02), floor=0.0, scale=1.0, eps=EPS)
    assert two.value == pytest.approx(1)
    assert two.spread == pytest.approx(math.sqrt(2) * 0.1 / math.log(2))
    assert fit((0.2, 0.1), (0.4, 0.2), (0.0, 0.0), floor=0.0, scale=1.0, eps=EPS).spread is None


def test_an_unknown_start_leaves_everything_in():
    assert observed([8.0, 4.0, 2.0, 1.0], scale=math.inf).value == pytest.approx(1)
