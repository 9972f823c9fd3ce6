"""Every check of a transport map catches one that is broken on purpose."""

import pytest
import torch

import wgflow as wg
from wgflow.maps import Affine
from wgflow.testing import checks_for
from wgflow.testing._maps import MAP


def broken(**held):
    """Return an affine map with other attributes; functions are called with the map, the right method and its arguments."""
    for name, f in list(held.items()):
        if callable(f):
            held[name] = lambda self, *a, n=name, f=f, **k: f(self, getattr(super(Broken, self), n), *a, **k)
    Broken = type("Broken", (Affine,), held)
    return Broken(2)


def logdet(change):
    """Return a map whose log-determinant is changed, a function of it and of the generator."""

    def with_logdet(self, right, x, rng=None):
        y, value = right(x, rng)
        return y, change(value, rng)

    return broken(with_logdet=with_logdet)


def in_place(self, right, x):
    y = right(x)
    with torch.no_grad():
        x.add_(1e-3)
    return y


BROKEN = {
    "starts_at_the_identity": (
        broken(forward=lambda self, right, x: right(x) + 0.1),
        "a new map is not the identity: found",
    ),
    "training_leaves_the_identity": (
        broken(forward=lambda self, right, x: right(x).detach() + 0 * self.shift),
        "no weight of a new map feels an objective",
    ),
    "treats_every_point_by_itself": (
        broken(forward=lambda self, right, x: right(x) + (right(x) - x).mean(0)),
        r"the image of a point depends on the others: found .* at \[\d, \d\]",
    ),
    "logdet_is_that_of_the_jacobian": (logdet(lambda v, rng: 2 * v), "the log-determinant is not that of the Jacobian"),
    "logdet_is_differentiable": (
        logdet(lambda v, rng: v.detach() + 0 * v),
        "the gradient of the log-determinant is not that",
    ),
    "inverse_undoes_the_map": (broken(inverse=lambda self, right, y: right(y) + 0.1), r"inverse\(T\(x\)\) is not x"),
    "says_what_it_cannot": (broken(has_logdet=False), "with_logdet works and is not declared: set has_logdet"),
    "estimates_are_unbiased": (
        logdet(lambda v, rng: v if rng is None else v + 0.1 + torch.randn(v.shape, generator=rng) / 10),
        "the mean of 500 estimates is off by more than 5 standard errors",
    ),
    "state_dict_restores_it": (
        broken(load_state_dict=lambda self, right, saved, strict=True: None),
        "a map with loaded weights is another map",
    ),
    "points_of_another_kind_are_refused": (
        broken(forward=lambda self, right, x: right(x[:, :2].to(self.shift))),
        r"points \(7, 3\) of torch.float64 are mapped: begin forward with self.flat\(x\)",
    ),
    "inputs_are_left_as_they_were": (broken(forward=in_place), "a use of the map changes its points or its weights"),
    "single_precision_keeps_half_of_the_digits": (
        broken(forward=lambda self, right, x: right(x).double()),
        "the image is torch.float64 for points of torch.float32",
    ),
}


def test_there_is_a_broken_map_for_every_check():
    assert set(BROKEN) == set(MAP.checks)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_map_is_caught(name):
    T, said = BROKEN[name]
    check = next(c for c in checks_for(T) if c.name == name)
    with pytest.raises(AssertionError, match=said):
        check()


def test_a_map_is_copied_before_it_is_moved():
    T = Affine(2)
    wg.testing.check_map(T)
    assert all(bool((p == 0).all()) for p in T.parameters())


class Shear(wg.maps.TransportMap):
    """It keeps volumes: its log-determinant is the constant 0."""

    has_logdet = invertible = True

    def __init__(self):
        super().__init__(2)
        self.slope = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        x = self.flat(x)
        return torch.stack([x[:, 0], x[:, 1] + self.slope * x[:, 0].sin()], 1)

    def with_logdet(self, x, rng=None):
        return self(x), x.new_zeros(len(x))

    @torch.no_grad()
    def inverse(self, y):
        y = self.flat(y)
        return torch.stack([y[:, 0], y[:, 1] - self.slope * y[:, 0].sin()], 1)


def test_a_map_that_keeps_volumes_is_right():
    assert wg.testing.check_map(Shear()).skipped == {}
