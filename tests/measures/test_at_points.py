"""What a measure is asked at: its points, and nothing else."""

import pytest
import torch

from wgflow import MEASURES, BadInput, LocalGaussians, MovingMeasure, StandardNormal, Unnormalised, Unsupported

DENSE = [name for name in MEASURES if MEASURES[name].example().has_density]
WRONG = {
    "a list": lambda x: x.tolist(),
    "an array": lambda x: x.numpy(),
    "integers": lambda x: x.long(),
    "a point too long": lambda x: torch.cat([x, x], 1),
    "a point too short": lambda x: x[:, :0],
    "one point": lambda x: x[0],
    "a number": lambda x: x[0, 0],
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("ask", ["log_prob", "score", "hyvarinen_score", "log_density"])
@pytest.mark.parametrize("name", DENSE)
def test_what_is_no_point_is_refused(name, ask, wrong):
    measure = MEASURES[name].example()
    if isinstance(measure, MovingMeasure):
        measure = measure.start(torch.Generator())
    x = torch.zeros(3, *measure.event_shape)
    with pytest.raises(BadInput, match=rf"{type(measure).__name__}\.{ask} takes .*points \(n, 2\).*got"):
        getattr(measure, ask)(WRONG[wrong](x))


@pytest.mark.parametrize("ask", ["log_prob", "score", "hyvarinen_score"])
def test_another_precision_is_refused_by_name(ask):
    with pytest.raises(BadInput, match=rf"LocalGaussians\.{ask} cannot take \(3, 2\) torch.float64"):
        getattr(LocalGaussians.example(), ask)(torch.zeros(3, 2, dtype=torch.float64))


def test_a_density_that_is_a_static_method_or_a_property_is_asked_as_it_is():
    class Static(StandardNormal):
        @staticmethod
        def log_prob(x):
            return -x.square().sum(1)

    class Held(StandardNormal):
        @property
        def log_prob(self):
            return Static.log_prob

    x = torch.ones(3, 2)
    for law in (Static(2), Held(2)):
        assert torch.equal(law.log_prob(x), torch.full((3,), -2.0))
        assert torch.equal(law.score(x), -2 * x)


def test_a_density_without_a_sampler_is_not_supported_to_draw():
    with pytest.raises(Unsupported, match="cannot be drawn"):
        Unnormalised.example().draw(3, torch.Generator())
