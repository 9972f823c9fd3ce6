"""A flow over sums of all pairs that would take hours says so in its first update, and no other flow does."""

import itertools
import re
import warnings

import pytest
import torch

import wgflow as wg
from wgflow.numerics import pair_clock

N, SECOND = 1500, 1.0


def cloud(seed: int, n: int = N) -> wg.Particles:
    return wg.Particles(torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)))


X, Y = cloud(0), cloud(1)
V = wg.PotentialEnergy(lambda x: x.square().sum(1) / 2)
EXACT = {
    "mmd": (wg.SquaredMMD(Y, wg.RBF(1.0)), wg.ForwardEuler()),
    "interaction of a function": (wg.InteractionEnergy(lambda z: z.square().sum(-1)), wg.ForwardEuler()),
    "stein": (wg.KL(wg.StandardNormal(2)), wg.ForwardEuler(wg.Stein(wg.RBF(1.0)))),
    "blob": (V + wg.Entropy(), wg.ForwardEuler(wg.Blob(wg.KernelDensity(wg.RBF(1.0))))),
    "proximal score": (V + wg.Entropy(), wg.ForwardEuler(wg.ProximalScore(0.2))),
    "sinkhorn": (wg.SinkhornDivergence(Y, blur=2.0, tol=0.1), wg.ForwardEuler()),
}
CHEAP = {
    "random features": wg.SquaredMMD(Y, wg.RandomFourierFeatures(wg.RBF(1.0), 50)),
    "nystrom": wg.SquaredMMD(Y, wg.Nystrom(wg.RBF(1.0), Y.x[:50])),
    "sliced energy": wg.SlicedEnergyDistance(Y, 5),
    "sliced w": wg.SlicedWasserstein(Y, directions=5),
}


@pytest.fixture
def slow(monkeypatch):
    """A machine on which a look at the clock takes a second, and 1000 points are many."""
    seconds = itertools.count(0.0, SECOND)
    monkeypatch.setattr(pair_clock, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(pair_clock, "MANY", 1000)


def said(F, solver, steps, start=X):
    """Return the warnings of a flow, which are errors where they are not about its cost."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("error")
        warnings.simplefilter("always", wg.EfficiencyWarning)
        warnings.simplefilter("ignore", wg.NotConverged)
        wg.solve(F, solver, start, step_size=1e-3, num_steps=steps, save=wg.Save(every=0), callbacks=[wg.StopAt(1e-3)])
    return [str(w.message) for w in found]


@pytest.mark.parametrize("name", EXACT)
def test_hours_of_pairs_are_announced_once(slow, name):
    (message,) = said(*EXACT[name], 10_000)
    assert re.search(r"pairs of points .* takes about .* here, .* h for the 10000 updates", message)
    assert "batch=1000" in message
    assert "RandomFourierFeatures" in message


def test_the_numbers_are_those_of_the_sum(slow):
    """1500 points are six blocks of the upper half of all pairs, of which each takes a second here."""
    (message,) = said(wg.InteractionEnergy(wg.RBF(1.0)), wg.ForwardEuler(), 10_000)
    found = re.search(r"sums over (\S+) pairs .* about (\S+) s here, (\S+) h for the 10000", message)
    pairs, update, flow = map(float, found.groups())
    assert pairs == pytest.approx(N * N / 2, rel=0.1)
    assert update == pytest.approx(6 * SECOND, rel=0.5)
    assert flow == pytest.approx(10_000 * update / 3600, rel=0.1)


def test_a_first_block_that_waits_is_not_taken_for_the_others(slow, monkeypatch):
    reads = itertools.count()
    monkeypatch.setattr(pair_clock, "perf_counter", lambda: 1000.0 * (n > 0) + 0.5 * n if (n := next(reads)) else 0.0)
    assert not said(wg.InteractionEnergy(wg.RBF(1.0)), wg.ForwardEuler(), 1000)


def test_what_a_target_needs_once_is_not_taken_for_every_update(slow, monkeypatch):
    """Its own sum takes four times as long as the others of an update do, and is said where it alone takes too long."""

    def flow(steps: int) -> list[str]:
        target = cloud(steps, 6 * N)  # one that is not remembered
        return said(wg.SquaredMMD(target, wg.RBF(1.0)), wg.ForwardEuler(), steps, cloud(0, 1000))

    assert not flow(40)
    assert len(flow(400)) == 1
    monkeypatch.setattr(pair_clock, "TOO_LONG", 100.0)
    (message,) = flow(1)
    assert re.search(r"sums over 4e\+07 pairs .* about 1\d\d.* s here\. Cheaper", message)


def test_minutes_are_not(slow):
    assert not said(*EXACT["mmd"], 60)


@pytest.mark.parametrize("name", CHEAP)
def test_what_is_advised_is_not_warned_of(slow, name):
    assert not said(CHEAP[name], wg.ForwardEuler(), 10**6)


def test_few_points_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(pair_clock, "perf_counter", lambda: pytest.fail("the clock was read"))
    assert not said(*EXACT["mmd"], 10**9, cloud(0, 500))


def test_sums_outside_of_a_flow_are_not(slow, monkeypatch):
    monkeypatch.setattr(pair_clock, "TOO_LONG", 0.0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        EXACT["mmd"][0].value(X)
    assert not found


def test_as_an_error_it_ends_the_flow_before_its_first_step(slow):
    with warnings.catch_warnings():
        warnings.simplefilter("error", wg.EfficiencyWarning)
        with pytest.raises(wg.EfficiencyWarning):
            wg.solve(*EXACT["mmd"], X, step_size=1e-3, num_steps=10_000)
    assert not said(*EXACT["mmd"], 60)  # nothing is left behind
