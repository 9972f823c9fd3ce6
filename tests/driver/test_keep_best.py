"""The law of the least record, and an end of runs that get no better."""

import math

import pytest
import torch

from wgflow import (
    BadInput,
    Checkpoint,
    Evaluate,
    ForwardEuler,
    KeepBest,
    Particles,
    PotentialEnergy,
    Save,
    StopAt,
    solve,
)

RECORDS = [3.0, 1.0, math.nan, 2.0, 1.0, 0.5]


def drifting(records, best, num_steps=6, **options):
    """One particle that moves by 1 a step; what is recorded of step k is the k-th number."""
    F = PotentialEnergy(lambda x: -x[:, 0])
    watch = Evaluate([lambda rho, rng: {"loss": [0.0, *records][int(rho.x[0, 0])]}])
    start = Particles(torch.zeros(1, 1, dtype=torch.float64))
    return solve(F, ForwardEuler(), start, step_size=1.0, num_steps=num_steps, callbacks=[watch, best], **options)


@pytest.mark.parametrize(("patience", "steps", "at"), [(None, 6, 6), (3, 5, 2), (4, 6, 6)])
def test_the_best_law_is_kept_until_patience_ends(patience, steps, at):
    """NaN and a tie are no betterment."""
    best = KeepBest("loss", patience)
    flow = drifting(RECORDS, best)
    assert (len(flow.history), int(best.measure.x)) == (steps, at)
    assert best.value == RECORDS[at - 1]


def test_it_survives_a_checkpoint(tmp_path):
    drifting(RECORDS, KeepBest("loss", 3), num_steps=4, checkpoint=Checkpoint(tmp_path))
    best = KeepBest("loss", 3)
    flow = drifting(RECORDS, best, checkpoint=Checkpoint(tmp_path))
    assert (len(flow.history), int(best.measure.x), best.value) == (5, 2, 1.0)


def test_the_last_law_of_a_stopped_run_counts():
    """It is evaluated out of turn: records 3 and 2 of the steps 2 and 4, and 0.5 of step 5, where another callback stops the run."""
    best = KeepBest("loss")
    watch = Evaluate([lambda rho, rng: {"loss": [0.0, 9.0, 3.0, 9.0, 2.0, 0.5][int(rho.x[0, 0])]}], every=2)
    start = Particles(torch.zeros(1, 1, dtype=torch.float64))
    F = PotentialEnergy(lambda x: -x[:, 0])
    flow = solve(F, ForwardEuler(), start, step_size=1.0, num_steps=9, callbacks=[watch, best, StopAt(5.0)])
    assert [row.get("loss") for row in flow.history] == [None, 3.0, None, 2.0, 0.5]
    assert (int(best.measure.x), best.value) == (5, 0.5)


def test_a_key_that_is_never_recorded_is_named():
    with pytest.warns(UserWarning, match="'los'.* has .*loss"):
        drifting(RECORDS, KeepBest("los"))


def test_records_that_are_no_numbers_keep_no_law_and_say_so():
    best = KeepBest("loss")
    with pytest.warns(UserWarning, match="no record of 'loss' is a finite number, and no law was kept"):
        drifting([math.nan, math.inf] * 3, best)
    assert best.measure is None


@pytest.mark.parametrize(
    ("given", "said"), [(Save(2), r"solve\(..., save=Save"), (Checkpoint("x"), r"checkpoint=Checkp")]
)
def test_what_is_no_callback_says_where_it_goes(given, said):
    with pytest.raises(BadInput, match=said):
        drifting(RECORDS, given)
