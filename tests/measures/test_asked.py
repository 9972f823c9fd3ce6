"""Functionals and estimators that are asked by hand: points are particles, and what is neither is refused in one sentence."""

import re

import numpy as np
import pytest
import torch
from _exact import rng
from torch import Tensor

import wgflow as wg
from wgflow import BadInput
from wgflow.solvers import State, advance

X = torch.randn(6, 2, generator=rng(1), dtype=torch.float64)
P = wg.Particles(X)
V = wg.PotentialEnergy(lambda x: x.square().sum(1))
COMPARED = [
    wg.FUNCTIONALS[name].example() for name in ("mmd", "sinkhorn", "w1", "sliced_w", "interaction", "potential")
]


class Own(wg.Functional):
    """A functional of the user's, with another name for the measure."""

    def value(self, p):
        return p.mean(p.x.square().sum(1))


@pytest.mark.parametrize("F", [*COMPARED, 2 * COMPARED[0], COMPARED[0] + V, Own()], ids=repr)
def test_points_are_taken_as_particles(F: wg.Functional) -> None:
    F = F if isinstance(F, Own) else F.freeze(rng(0))
    expected = F.value(wg.Particles(X.float()))
    assert torch.equal(F.value(X.float()), expected)
    assert torch.equal(F.value(X.numpy()), expected)  # an array takes the default type


def test_a_graph_through_the_points_stays() -> None:
    x = X.clone().requires_grad_()
    V.value(rho=x).backward()
    torch.testing.assert_close(x.grad, 2 * X / len(X))


def test_an_estimator_takes_points_as_well() -> None:
    torch.testing.assert_close(wg.Autograd().velocity(V, X, None), -2 * X)
    torch.testing.assert_close(wg.Autograd().velocity(F=V, rho=X, es=None), -2 * X)
    kernel, target = wg.RBF(1.0), wg.StandardNormal(2)
    torch.testing.assert_close(
        wg.Stein(kernel).velocity(wg.KL(target), X, None), wg.Stein(kernel).velocity(wg.KL(target), P, None)
    )


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (X.tolist(), r"torch.tensor\(x\)"),
        ("points.npy", r"numpy.load\(path\)"),
        (X[:, 0], r"x\[:, None\]"),
        (X.long().numpy(), "floating-point"),
        (np.full((3, 2), np.nan), "finite"),
        (np.zeros((0, 2)), "n >= 1"),
        (wg.StandardNormal(2), r"draw\(n, rng\)"),
        (wg.Particles, r"Particles\(\.\.\.\)"),
        (None, "None"),
    ],
)
def test_anything_else_is_refused(given: object, advice: str) -> None:
    for ask in (Own().value, V.value, lambda x: wg.Autograd().velocity(V, x, None)):
        with pytest.raises(BadInput, match=r"\(rho=.*expected a Particles") as caught:
            ask(given)
        assert re.search(advice, str(caught.value))


def test_a_kernel_takes_tensors_and_says_so() -> None:
    with pytest.raises(BadInput, match=r"x=<array of shape \(6, 2\).*torch.as_tensor"):
        wg.RBF(1.0)(X.numpy(), X)


def test_text_in_the_place_of_a_target_names_a_class_or_says_how_to_read_a_file() -> None:
    with pytest.raises(BadInput, match=r"did you mean StandardNormal"):
        wg.KL("standard_normal")
    with pytest.raises(BadInput, match=r"expected a Measure. Read the points of a file first: numpy.load"):
        wg.KL("points.npy")


def test_positions_are_no_measure_to_advance_to() -> None:
    with pytest.raises(BadInput, match=r"expected a MovingMeasure, such as state.measure.follow"):
        advance(State(P, k=0, t=0.0, rng=rng(0)), X, 0.1)


class Detached(Own):
    """Its value has lost the points."""

    def freeze(self, rng: torch.Generator) -> "Detached":
        return self

    def at(self, k: int, t: float) -> "Detached":
        return self

    def value(self, p) -> Tensor:
        return super().value(p).detach()


class Valueless(wg.Functional):
    """It has neither a value nor a conjugate."""


def test_functionals_that_are_not_complete_say_what_to_write() -> None:
    def run(F: wg.Functional) -> wg.Solution:
        return wg.solve(F, wg.ForwardEuler(), X, step_size=0.1, num_steps=1)

    with pytest.raises(BadInput, match="does not depend on the points differentiably"):
        run(Detached())
    with pytest.raises(
        wg.Unsupported, match=r"Own is not a dataclass: write @dataclass\(frozen=True\) above the class"
    ):
        run(Own())
    with pytest.raises(wg.Incompatible, match=r"Valueless has none. Write Valueless.value\(rho\), a 0-d tensor"):
        run(Valueless())
