"""Schedules by their formulas, and the rules that stop a run."""

import math
import sys
import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from _exact import double

from wgflow import (
    BadInput,
    Callback,
    Checkpoint,
    EnergyDistance,
    Evaluate,
    ForwardEuler,
    Geometric,
    Halving,
    Measure,
    Particles,
    Piecewise,
    PotentialEnergy,
    PowerDecay,
    Save,
    StandardNormal,
    StopAt,
    StopWhenFlat,
    solve,
)
from wgflow.storage.describe import describe

V = PotentialEnergy(lambda x: x.square().sum(1) / 2)
X = Particles(double([[1.0, 2.0]]))


def test_values():
    assert [Geometric(0.8, 0.5, floor=0.15)(k) for k in range(4)] == pytest.approx([0.8, 0.4, 0.2, 0.15])
    assert Geometric(1.0, 1.1)(2) == pytest.approx(1.21)
    assert [PowerDecay(0.5, 0.5, scale=4)(k) for k in (0, 12)] == pytest.approx([0.5, 0.25])
    assert [Piecewise((1.0, 2.0, 0.5), (2, 5))(k) for k in range(7)] == [1, 1, 2, 2, 2, 0.5, 0.5]
    assert [Halving(1.0, 3)(k) for k in (0, 2, 3, 5, 6)] == [1, 1, 0.5, 0.5, 0.25]


def test_a_schedule_of_step_sizes():
    """Forward Euler of x' = -x: the product of 1 - h_k, at the time that is their sum."""
    h = PowerDecay(0.5, 1.0)
    flow = solve(V, ForwardEuler(), X, step_size=h, num_steps=4)
    steps = [0.5 / (1 + k) for k in range(4)]
    assert flow.state.t == pytest.approx(sum(steps))
    torch.testing.assert_close(flow.measure.x, X.x * math.prod(1 - s for s in steps))


def test_equal_schedules_are_described_alike():
    assert describe(Geometric(1.0, 0.5)) == describe(Geometric(1.0, 0.5))
    assert describe(Geometric(1.0, 0.5)) != describe(Geometric(1.0, 0.6))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Geometric(0.0, 0.5),
        lambda: Geometric(1.0, -0.5),
        lambda: Geometric(1.0, 0.5, floor=math.inf),
        lambda: PowerDecay(math.nan, 1.0),
        lambda: PowerDecay(1.0, -1.0),
        lambda: PowerDecay(1.0, 1.0, scale=0.0),
        lambda: Piecewise((1.0, 2.0), (3, 4)),
        lambda: Piecewise((1.0, 2.0, 3.0), (4, 3)),
        lambda: Piecewise((1.0, -2.0), (3,)),
        lambda: Piecewise((1.0, 2.0), (0,)),
        lambda: Halving(1.0, 0),
        lambda: StopAt(0.0),
        lambda: StopAt(math.nan),
        lambda: StopWhenFlat("k", tolerance=-1.0),
        lambda: StopWhenFlat("k", patience=0),
    ],
)
def test_bad_settings(make):
    with pytest.raises(BadInput, match="expected"):
        make()


def run(*callbacks, num_steps=200, **options):
    return solve(V, ForwardEuler(), X, step_size=0.1, num_steps=num_steps, callbacks=callbacks, save=Save(0), **options)


def test_a_run_stops_at_a_time():
    """Ten steps of 0.1 sum to just less than 1."""
    flow = run(StopAt(1.0))
    assert (flow.status, flow.state.k) == ("stopped", 10)
    resumed = run(StopAt(1.0), state=flow.state)
    assert (resumed.status, resumed.state.k) == ("stopped", 10)
    assert run(StopAt(99.0), num_steps=3).status == "done"


def test_a_run_stops_when_it_is_flat():
    """Dissipation 5 · 0.81^k: the last 4 records are within 1 - 0.81³ = 47 % of the largest at once, never within 46 %."""
    assert run(StopWhenFlat("flow/dissipation", tolerance=0.47, patience=3)).state.k == 4
    assert run(StopWhenFlat("flow/dissipation", tolerance=0.46, patience=3)).status == "done"


def test_flatness_of_a_metric_that_is_evaluated_now_and_then():
    """It stops at the first pair of records within the tolerance, not of steps."""
    calls = []

    def metric(rho, rng):
        calls.append(len(calls))
        return {"level": 1 / (1 + 2 * calls[-1])}

    flow = run(Evaluate([metric], every=2), StopWhenFlat("level", tolerance=0.25, patience=1))
    levels = [row["level"] for row in flow.history if "level" in row]
    assert flow.status == "stopped"
    assert levels[-2] - levels[-1] <= 0.25 * levels[-2]
    assert levels[-3] - levels[-2] > 0.25 * levels[-3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(Evaluate([metric], every=2), StopWhenFlat("level"), num_steps=4)


def test_whether_a_flow_is_noisy_is_asked_of_every_run_anew():
    """The mean of x falls by -0.9 a step, without noise: it is not flat, whatever run the rule has seen before."""
    flat, look = StopWhenFlat("mean"), Evaluate([lambda rho, rng: {"mean": float(rho.x.mean())}])
    V, x = PotentialEnergy(lambda x: 0.5 * x.square().sum(1)), torch.ones(4, 2)
    noisy = EnergyDistance(StandardNormal(2), batch=4)
    solve(noisy, ForwardEuler(), Particles(x), step_size=0.1, num_steps=1, callbacks=[look, flat])
    flow = solve(V, ForwardEuler(), Particles(x), step_size=1.9, num_steps=60, callbacks=[look, flat])
    assert (flow.status, flow.state.k) == ("done", 60)


def test_a_key_that_nobody_records_is_named():
    with pytest.warns(UserWarning, match=r"no time step has recorded 'dissipation'.*flow/dissipation"):
        run(StopWhenFlat("dissipation"), num_steps=2)


def test_a_geometric_growth_ends_at_the_largest_number():
    """1.0 * 2^1023 is the last power of two that a float holds."""
    assert Geometric(1.0, 2.0)(1023) == 2.0**1023
    assert Geometric(1.0, 2.0)(1024) == Geometric(2.0, 1e300)(5000) == sys.float_info.max
    assert Geometric(1.0, 0.5, floor=0.1)(5000) == 0.1


def test_an_absolute_tolerance_is_for_what_goes_to_zero():
    """Dissipation 5 · 0.81^k: the last 4 records are within 1e-3 of each other once 5 · 0.81^(k-4) (1 - 0.81³) is."""
    first = next(k for k in range(4, 99) if 5 * 0.81 ** (k - 4) * (1 - 0.81**3) <= 1e-3)
    assert run(StopWhenFlat("flow/dissipation", tolerance=0.0, absolute=1e-3, patience=3)).state.k == first


@pytest.mark.parametrize("patience", [10, 40])
def test_noise_counts_as_no_change_and_a_drift_above_it_does(patience):
    """Records a (1 - b)^k + noise of size s: they stop when a window's drift is of the size of a window's error, not long before."""
    generator = torch.Generator().manual_seed(0)
    ends = []
    for _ in range(20):
        noise = 0.1 * torch.randn(2000, generator=generator)
        flow = _records(lambda k: 1 + 5 * 0.97**k + float(noise[k]), patience)  # noqa: B023
        ends.append(5 * 0.97 ** len(flow))
    left = torch.tensor(ends)
    error = 0.1 * (2 / patience) ** 0.5
    assert float(left.max()) < 6 * error / (1 - 0.97**patience)  # six standard errors of a window's change
    assert float(left.median()) < 3 * error / (1 - 0.97**patience)
    falling = _records(lambda k: -10.0 * error * k / patience + float(noise[k]), patience)
    assert len(falling) == 2000


@pytest.mark.parametrize("patience", [1, 2, 10])
def test_a_smooth_change_is_no_noise(patience):
    for smooth in (lambda k: 1 + 0.99**k, lambda k: -0.01 * k, lambda k: 1 / (1 + k)):
        ended = _records(smooth, patience, tolerance=1e-9)
        assert len(ended) == 2000 or abs(smooth(len(ended)) - smooth(len(ended) - patience)) < 1e-7


def _records(value, patience, **options):
    """Return the records before the one at which a flow with random numbers is flat; 2000 where it never is."""
    rule, history = StopWhenFlat("e", patience=patience, **options), []
    rule.load_state_dict({"random": True})
    run = SimpleNamespace(
        solution=SimpleNamespace(history=history), state=SimpleNamespace(rng=torch.Generator()), STOP="stop"
    )
    while len(history) < 2000:
        row = {"e": value(len(history))}
        if rule._flat(run, row) == "stop":
            break
        history.append(row)
    return history


def test_a_noisy_run_that_has_stopped_stops_again_at_once(tmp_path):
    F = EnergyDistance(StandardNormal(2), batch=32)
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))

    def go(**options):
        flat = StopWhenFlat("flow/dissipation", patience=5)
        return solve(
            F,
            ForwardEuler(),
            Particles(x),
            step_size=0.1,
            num_steps=500,
            callbacks=[flat],
            checkpoint=Checkpoint(tmp_path),
            **options,
        )

    first, again = go(), go()
    assert first.status == again.status == "stopped"
    assert first.state.k == again.state.k < 500


@dataclass(frozen=True, eq=False)
class Listed(Measure):
    """A law for each of two time steps."""

    k: int = 0
    event_shape = torch.Size([1])

    def at(self, k, t):
        return replace(self, k=(0, 1)[k])

    def draw(self, n, rng):
        return Particles(torch.full((n, 1), float(self.k)))


@pytest.mark.parametrize(
    ("short", "message"),
    [
        ({"step_size": lambda k: (0.1, 0.2)[k]}, "step_size at step 2: the function given has failed, IndexError"),
        ({"step_size": lambda k: 0.2 - 0.1 * k}, r"step_size=0\.0 at step 2: expected a positive number"),
        ({"F": EnergyDistance(Listed())}, r"Listed\.at\(3, 0\.4\) fails, IndexError"),
    ],
)
def test_what_is_there_for_fewer_steps_is_refused_before_the_first_and_serves_those(short, message):
    class Stop(Callback):
        def on_step(self, run, row):
            return run.STOP

    settings = {
        "F": V,
        "solver": ForwardEuler(),
        "initial": Particles(torch.ones(2, 1)),
        "step_size": 0.1,
        "callbacks": [Stop()],
    }
    with pytest.raises(BadInput, match=message + r".*The last one of num_steps=4 is step 3"):
        solve(**settings | short, num_steps=4)
    assert solve(**settings | short, num_steps=2).status == "stopped"
