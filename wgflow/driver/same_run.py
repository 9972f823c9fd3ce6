"""What makes two runs the same one, so that a checkpoint of one is a state of the other."""

import warnings
from typing import TYPE_CHECKING, Any

from wgflow.core.ranks import world
from wgflow.driver.earlier_batches import VERSION
from wgflow.storage.describe import describe, differences
from wgflow.storage.shares import as_one

if TYPE_CHECKING:
    from wgflow.driver.run import Run


def describe_run(run: "Run") -> dict[str, Any]:
    """Return what makes two runs the same one, before the first update.

    ``num_steps`` and the number of processes may change: they are not part of it.
    """
    start = {"state": describe(run.state)} if run.initial is None else {"measure": describe(run.initial)}
    found: dict[str, Any] = as_one({"functional": describe(run.F), "solver": describe(run.solver)} | start)
    return {"version": VERSION, "step_size": describe(run.step_size), "seed": run.seed} | found


def say_other_shares(processes: int) -> None:
    """Warn where a run goes on with another number of processes."""
    if processes != world():
        warnings.warn(
            f"this run was begun with {processes} processes and goes on with {world()}: the same up to the order of sums, but for "
            "terms that are no means over a batch (batch normalization, minibatch statistics, kl_dv), which see other shares",
            stacklevel=2,
        )


def another(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Return why two descriptions are not of the same run, or None.

    A name settles what only code and private attributes could tell, also where just one of the two has one: somebody
    has given it to go on with a run.
    """
    names = ours["name"], theirs["name"]
    if None not in names and names[0] != names[1]:
        return f"its name is {names[0]!r} here and {names[1]!r} there"
    differ = differences(ours | {"name": None}, theirs | {"name": None}, settled=names[0] is not None)
    if not differ:
        return None
    advice = ""
    if not differences(ours | {"name": None}, theirs | {"name": None}, settled=True):
        advice = (
            ". If it is the same run all the same, give it a name, which settles this: Checkpoint(..., name='mine')"
        )
    return "; ".join(differ) + advice
