"""What updates report becomes numbers: one by one where nothing is waited for, in one transfer elsewhere."""

import math

import pytest
import torch

from wgflow import Diverged
from wgflow.driver import ledger as module
from wgflow.driver.ledger import Ledger

REPORTED = {
    "single": torch.tensor(0.1),
    "half": torch.tensor(0.1, dtype=torch.bfloat16),
    "double": torch.tensor(1e300, dtype=torch.float64),
    "flag": torch.tensor(True),
    "count": 7,
    "plain": 0.25,
    "tracked": torch.tensor(2.0, requires_grad=True),
    "inner/residual": torch.tensor(math.nan),
}


@pytest.fixture(params=[True, False], ids=["one by one", "at once"])
def ledger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    if not request.param:
        monkeypatch.setattr(module, "readable", lambda t: False)
    return Ledger()


@pytest.mark.filterwarnings("error")
def test_both_ways_give_the_numbers_themselves(ledger: Ledger) -> None:
    ledger.add(0, REPORTED)
    ledger.add(0, {"single": torch.tensor(0.3), "count": 8})
    ledger.settle()
    means = ledger.mean_and_clear(ledger.step)
    assert math.isnan(means.pop("inner/residual"))
    assert means == {
        "single": (float(torch.tensor(0.1)) + float(torch.tensor(0.3))) / 2,
        "half": 0.10009765625,
        "double": 1e300,
        "flag": 1.0,
        "count": 7.5,
        "plain": 0.25,
        "tracked": 2.0,
    }
    assert all(type(v) is float for v in means.values())


def test_both_ways_name_the_first_that_is_not_finite(ledger: Ledger) -> None:
    ledger.add(3, REPORTED)
    ledger.add(4, {"fine": 1.0, "energy": torch.tensor(math.inf), "later": math.nan})
    with pytest.raises(Diverged, match=r"energy became inf at update 2, in time step 4") as caught:
        ledger.settle()
    assert (caught.value.term, caught.value.step, caught.value.update) == ("energy", 4, 2)
