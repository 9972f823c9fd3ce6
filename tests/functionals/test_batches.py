"""How much of a target a functional uses: all of a finite one, fresh draws of others, minibatches where they are asked for."""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import wgflow as wg
from wgflow.measures.realised import DRAWS, WHOLE

RNG = torch.Generator


def cloud(n: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=RNG().manual_seed(seed)).double() + shift


Y = cloud(800, 1.0)
LOG_W = torch.linspace(-1, 1, 800).double()
FINITE = {
    "particles": wg.Particles(Y),
    "weighted particles": wg.Particles(Y, LOG_W),
    "data set": wg.Dataset(Y),
    "weighted data set": wg.Dataset(Y, LOG_W),
    "labelled": wg.Labelled(wg.Dataset(Y, labels=torch.arange(800) % 3)),
    "of every class": wg.OfEveryClass(wg.Dataset(Y, LOG_W), 2),
}


@pytest.mark.parametrize("name", FINITE)
def test_a_finite_target_is_used_whole(name):
    target = FINITE[name]
    nu = wg.EnergyDistance(target).freeze(RNG().manual_seed(0)).target
    assert torch.equal(nu.x[:, :2], Y)
    torch.testing.assert_close(
        nu.w, LOG_W.softmax(0) if "weight" in name or "every" in name else nu.w.new_full((800,), 1 / 800)
    )
    again = wg.EnergyDistance(target).freeze(RNG().manual_seed(1)).target
    assert torch.equal(again.x, nu.x)
    few = wg.EnergyDistance(target, batch=64).freeze(RNG().manual_seed(0)).target
    assert len(few) == 64
    assert few.log_w is None


def test_noise_on_a_finite_target_is_fresh_and_on_every_point():
    F = wg.EnergyDistance(wg.Smoothed(wg.Dataset(Y), lambda k: 0.1))
    first, second = (F.freeze(RNG().manual_seed(s)).target.x - Y for s in (0, 1))
    assert first.shape == (800, 2)
    assert not torch.equal(first, second)
    assert abs(float(first.std()) - 0.1) < 5 * 0.1 / math.sqrt(2 * 1600)


BY_CLASS = wg.Balanced(wg.Labelled(wg.Dataset(Y, labels=torch.arange(800) % 3)))
IN_TURN = {
    "classes": BY_CLASS,
    "classes of noisy data": wg.Smoothed(BY_CLASS, lambda k: 0.1),
}


@pytest.mark.parametrize("name", IN_TURN)
def test_a_batch_that_always_lacks_the_last_parts_of_the_target_is_refused(name):
    """Nothing of them would ever be seen, and the flow would end as done."""
    target = IN_TURN[name]
    start = wg.Particles(torch.zeros(4, *target.event_shape, dtype=torch.float64))
    for F in (wg.EnergyDistance(target, batch=2), 0.5 * wg.SquaredMMD(target, wg.RBF(1.0), batch=2)):
        with pytest.raises(wg.BadInput, match="batch=2 is less than the 3 parts of the target"):
            wg.solve(F, wg.ForwardEuler(), start, step_size=0.1, num_steps=1)
    assert wg.EnergyDistance(target, batch=3).freeze(RNG()).target.x.shape[0] == 3


def test_ranks_draw_the_parts_together():
    from wgflow.generative import Sharded

    part = Sharded(BY_CLASS, rank=0, world=2)
    assert len(wg.EnergyDistance(part, batch=2).freeze(RNG()).target) == 2
    assert part.parts_in_turn == 2


@pytest.mark.parametrize("target", [wg.StandardNormal(2), wg.GaussianMixture(torch.zeros(1, 2), 1.0)])
def test_of_infinitely_many_points_fresh_ones_are_drawn(target):
    F = wg.EnergyDistance(target)
    first, second = (F.freeze(RNG().manual_seed(s)).target for s in (0, 1))
    assert len(first) == len(second) == DRAWS
    assert not torch.equal(first.x, second.x)


def test_the_value_is_that_of_the_whole_cloud():
    """The energy distance by its definition, of all 800 points."""
    x = wg.Particles(cloud(50))
    mean = lambda a, b: torch.cdist(a, b).mean()  # noqa: E731
    exact = 2 * mean(x.x, Y) - mean(x.x, x.x) - mean(Y, Y)
    torch.testing.assert_close(wg.EnergyDistance(wg.Dataset(Y)).freeze(RNG()).value(x), exact)


def test_a_large_finite_target_is_refused_before_the_first_step(tmp_path: Path):
    big = wg.Dataset(torch.zeros(WHOLE + 1, 2).double())
    start = wg.Particles(cloud(5))

    def run(F):
        return wg.solve(F, wg.ForwardEuler(), start, step_size=0.1, num_steps=1, checkpoint=wg.Checkpoint(tmp_path))

    inside = wg.Annealed(
        lambda s: 0.5 * wg.EnergyDistance(big) + wg.Entropy(wg.KernelDensity(wg.RBF(s))), lambda k: 1.0
    )
    for F in (wg.EnergyDistance(big), inside):
        with pytest.raises(wg.BadInput, match=rf"{WHOLE + 1} points.*batch=256.*batch={WHOLE + 1}"):
            run(F)
    assert not list(tmp_path.glob("update-*"))
    assert run(wg.EnergyDistance(big, batch=64)).status == "done"


def test_the_batch_of_a_sum_and_of_what_is_made_of_others():
    nu, V = wg.Dataset(Y), wg.PotentialEnergy(lambda x: x.sum(1))
    assert (wg.EnergyDistance(nu, 8) + V).batch == 8
    assert (wg.EnergyDistance(nu, 8) + wg.EnergyDistance(nu)).batch is None
    assert (V + V).batch is None
    assert (2.0 * wg.EnergyDistance(nu)).matched(7).batch == 7
    both = (wg.EnergyDistance(nu) + wg.EnergyDistance(nu, 8)).matched(9, only_open=True)
    assert [t.batch for t in both.terms] == [9, 8]


def test_a_field_between_samples_asks_for_equally_many():
    law = wg.Pushforward(wg.StandardNormal(2), lambda: torch.nn.Linear(2, 2), regression=wg.Regression(wg.Adam()))
    data = wg.Dataset(Y.float())
    assert "batch=800" in wg.why_not(wg.EnergyDistance(data), wg.ForwardEuler(wg.TwoBatch()), law)
    assert wg.why_not(wg.EnergyDistance(wg.StandardNormal(2)), wg.ForwardEuler(wg.TwoBatch()), law) is None
    assert wg.why_not(wg.EnergyDistance(data), wg.ForwardEuler(wg.TwoBatch(), batch=800), law) is None


def test_an_exact_implicit_step_pairs_with_the_whole_target():
    """As many particles as points: with h to infinity every point has a particle on it."""
    F = 0.5 * wg.SquaredW2(wg.Dataset(Y[:40]))
    flow = wg.solve(F, wg.Proximal(), wg.Particles(cloud(40)), step_size=1e9, num_steps=1)
    torch.testing.assert_close(flow.measure.x.sort(0).values, Y[:40].sort(0).values, atol=1e-6, rtol=0)


def test_a_flow_to_a_cloud_gets_flat_and_one_by_minibatches_in_their_noise():
    start = wg.Particles(cloud(100))

    def run(batch, **options):
        flat = wg.StopWhenFlat("flow/dissipation", absolute=1e-5, **options)
        F = 0.5 * wg.EnergyDistance(wg.Dataset(Y), batch)
        return wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=120, callbacks=[flat], save=wg.Save(0))

    whole, noisy, unaware = run(None), run(64), run(64, noise=0.0)
    assert (whole.status, noisy.status, unaware.status) == ("stopped", "stopped", "done")
    exact = wg.EnergyDistance(wg.Dataset(Y)).freeze(RNG())
    begun, ended, left = (float(exact.value(p)) for p in (start, whole.measure, noisy.measure))
    assert ended < 0.02 * begun
    assert left < 0.05 * begun


# --- runs from before -------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


class Kill(wg.Callback):
    def on_step(self, run, row):
        if run.state.k == 3:
            raise Killed


def _as_written_before(folder: Path) -> None:
    """Give a checkpoint the description that the tree before open batches wrote for the same run."""
    from wgflow.storage import files as store

    path = store.files(folder)[0]
    saved = torch.load(path, weights_only=True)
    assert saved["run"]["version"] == 3
    saved["run"] |= {"version": 2}
    update = int(path.name.split("-")[1])
    for old in store.files(folder):
        old.unlink()
    store.write(saved, folder, update)


@pytest.mark.parametrize("annealed", [False, True])
def test_an_earlier_run_goes_on_with_the_minibatches_it_had(tmp_path: Path, annealed: bool):
    """Its script says no batch: it was one of 256, in its description as well."""

    def run(batch, **options):
        made = lambda s: 0.5 * s * wg.EnergyDistance(wg.Dataset(Y), **batch)  # noqa: E731
        F = wg.Annealed(made, _one) if annealed else made(1.0)
        check = wg.Checkpoint(tmp_path, every_updates=1, name="mine")
        return wg.solve(
            F, wg.ForwardEuler(), wg.Particles(cloud(20)), step_size=0.5, num_steps=6, checkpoint=check, **options
        )

    given = {"batch": 256}
    with pytest.raises(Killed):
        run(given, callbacks=[Kill()])
    _as_written_before(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = run({})
    tmp_path = tmp_path / "uninterrupted"
    assert torch.equal(resumed.measure.x, run(given).measure.x)


def _one(k: int) -> float:
    return 1.0


def test_a_run_with_an_open_batch_is_not_one_of_256(tmp_path: Path):
    F = wg.EnergyDistance(wg.Dataset(Y))
    run = lambda F, n: wg.solve(  # noqa: E731
        F, wg.ForwardEuler(), wg.Particles(cloud(20)), step_size=0.5, num_steps=n, checkpoint=wg.Checkpoint(tmp_path)
    )
    run(F, 1)
    with pytest.raises(wg.CheckpointError, match="batch is 256 here and None there"):
        run(replace(F, batch=256), 2)
    assert run(F, 2).state.k == 2
