"""Fitting kernel score models: splits, early stopping, resume, memorisation."""

import math
import warnings

import pytest
import torch
from _exact import rng

from wgflow import (
    KL,
    BadInput,
    Checkpoint,
    Langevin,
    Noising,
    Particles,
    Progress,
    Reversed,
    StopWhen,
    fit_kernel_score,
    presets,
    solve,
)


def band(n: int, seed: int = 0, width: float = 0.05) -> torch.Tensor:
    """Points near a line in the plane: N(0, 1) along (1, 1), ``width`` across."""
    z = torch.randn(n, 2, generator=rng(seed), dtype=torch.float64) * torch.tensor([1.0, width], dtype=torch.float64)
    return z @ torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)


def rows(x):
    return {tuple(row) for row in x.tolist()}


def test_no_point_is_in_two_parts():
    """Check 16, by construction, and with every point three times."""
    x = band(60).repeat(3, 1)
    points = presets.split_points(x, 20, 0.25)
    parts = [rows(points.centres), rows(points.train), rows(points.held_out)]
    assert [len(p) for p in parts] == [20, 30, 10]
    assert len(set.union(*parts)) == 60
    assert (len(points.centres), len(points.train)) == (20, 90)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (band(10), {"num_centres": 9}, "10 distinct points"),
        (band(4).repeat(5, 1), {"num_centres": 10}, "4 distinct points of 20"),
        (torch.zeros(10, 1, 4, 4), {}, "flatten"),
        (torch.full((10, 2), math.inf), {}, "finite"),
        (band(10), {"held_out": 1.0}, "held_out"),
        (band(40), {"rank": "half"}, "rank="),
    ],
)
def test_what_makes_no_sense_is_refused(x, options, message):
    with pytest.raises(BadInput, match=message):
        fit_kernel_score(x, **options)


def test_it_learns_the_direction_across_and_beats_the_isotropic_kernel():
    """Entropy of the band: log(2πe) + log 0.05. The kernel density estimate has to choose one width for both directions."""
    fit = fit_kernel_score(band(800), num_centres=60, max_iters=600)
    fresh = band(2000, seed=9)
    kde = presets.isotropic_kde(fit.points)
    truth = -(math.log(2 * math.pi * math.e) + math.log(0.05))
    ours = float(fit.law.log_prob(fresh).mean())
    assert truth - 0.25 < ours < truth + 0.05
    assert ours > float(kde.log_prob(fresh).mean()) + 0.25
    std, axes = torch.linalg.eigh(fit.law.precision.covariance)
    # Centres are spread by 0.05 across already, so that their kernels are narrower.
    assert 0.01 < float(std[:, 0].median().sqrt()) < 0.05 < 0.2 < float(std[:, 1].median().sqrt())
    assert (axes[:, :, 0] @ torch.tensor([1.0, -1.0], dtype=torch.float64)).abs().median() > math.sqrt(2) * 0.99


def test_the_best_look_is_kept():
    fit = fit_kernel_score(band(80), num_centres=40, max_iters=2000, patience=3, look_every=10)
    _, losses = fit.solution.curve("functional")
    assert fit.solution.status == "stopped"
    assert min(losses) == losses[-4]
    own = -fit.law.log_prob(fit.points.held_out).mean()
    assert float(own) == pytest.approx(losses[-4], rel=1e-9)


def test_it_resumes_bit_for_bit(tmp_path):
    """Stopped after three looks of six, in another process's place, with the best law of before."""
    options = {"num_centres": 30, "max_iters": 60, "look_every": 10, "callbacks": [Progress(disable=True)]}
    whole = fit_kernel_score(band(120), **options)
    stop = StopWhen(lambda row: row["k"] >= 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            presets._kernel_score, "solve", lambda *a, callbacks, **o: solve(*a, callbacks=[*callbacks, stop], **o)
        )
        part = fit_kernel_score(band(120), **options, checkpoint=Checkpoint(tmp_path))
    assert len(part.solution.history) == 3
    again = fit_kernel_score(band(120), **options, checkpoint=Checkpoint(tmp_path))
    assert again.solution.curve("functional") == whole.solution.curve("functional")
    x = band(50, seed=5)
    assert torch.equal(again.law.log_prob(x), whole.law.log_prob(x))


def test_a_precision_at_its_ceiling_is_named():
    flat = band(300, width=1e-6)
    with pytest.warns(RuntimeWarning, match=r"precisions at \d+ of 50 centers .* bounded by"):
        fit_kernel_score(flat, num_centres=50, ceiling=5.0, max_iters=300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_kernel_score(band(300, width=0.5), num_centres=50, max_iters=60)


def nearest_ratio(x, data):
    """Return distances to the nearest over those to the second nearest."""
    two = torch.cdist(x, data).topk(2, largest=False).values
    return two[:, 0] / two[:, 1]


def test_the_model_copies_no_data_and_the_empirical_kernel_does():
    """Check 16: the reverse flow of the data ends on them (ratio below 1/3 above 0.99); the model's draws are as near as fresh data."""
    fit = fit_kernel_score(band(800, width=0.3), num_centres=60, max_iters=400)
    data, fresh = fit.points.centres, band(2000, seed=9, width=0.3)
    chance = (nearest_ratio(fresh, data) < 1 / 3).double().mean()
    share = (nearest_ratio(fit.law.draw(2000, rng(2)).x, data) < 1 / 3).double().mean()
    assert abs(float(share - chance)) < 0.06
    empirical = fit.law.isotropic(data, 1e-6)
    start = Reversed(empirical, Noising(0.5), 4.0).draw(300, rng(3))
    copies = presets.probability_flow(empirical, start, horizon=4.0, last=1e-7).solve().measure.x
    assert (nearest_ratio(copies, data) < 1 / 3).double().mean() > 0.99


def test_the_fitted_law_is_a_target_and_a_start():
    law = fit_kernel_score(band(300, width=0.5), num_centres=50, max_iters=100).law
    start: Particles = law.draw(200, rng(1))
    flow = solve(KL(law), Langevin(), start, step_size=0.01, num_steps=20)
    assert abs(float(law.log_prob(flow.measure.x).mean() - law.log_prob(start.x).mean())) < 0.3
