"""The moments of a run."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wgflow.core.fields import Checked
from wgflow.core.instead import suggest
from wgflow.core.typing import Info
from wgflow.driver.checkpoint import Checkpoint
from wgflow.driver.solution import Save
from wgflow.functionals import Functional

if TYPE_CHECKING:
    from wgflow.driver.run import Run


class Callback(Checked):
    """The moments of a run. A callback reads the state and never writes it; metrics use generators of their own.

    Examples
    --------
    A callback that counts the steps:

    >>> import torch
    >>> import wgflow as wg
    >>> class Count(wg.Callback):
    ...     steps = 0
    ...
    ...     def on_step(self, run, row):
    ...         self.steps += 1
    >>> F = wg.PotentialEnergy(lambda x: x.square().sum(1))
    >>> count = Count()
    >>> flow = wg.solve(F, wg.ForwardEuler(), wg.Particles(torch.ones(1, 1)), step_size=0.1, num_steps=3, callbacks=[count])
    >>> count.steps
    3
    """

    def on_start(self, run: "Run") -> str | None:
        """Before the first update, after a resume; may return ``run.STOP``."""

    def on_update(self, run: "Run", info: Info) -> None:
        """After every update. ``info`` holds 0-d tensors on the device: reading one waits for it."""

    def on_log(self, run: "Run", window: dict[str, float]) -> None:
        """After every ``log_every`` updates, with the means of what they reported."""

    def on_step(self, run: "Run", row: dict[str, Any]) -> str | None:
        """After every time step, with its record; may return ``run.STOP``."""

    def on_stop(self, run: "Run", row: dict[str, Any]) -> None:
        """After the :meth:`on_step` of all where one of them stops the run, before the record of the step is kept."""

    def on_end(self, run: "Run") -> None:
        """At the end, also of a run that failed, if :meth:`on_start` did not."""

    def state_dict(self) -> dict[str, Any]:
        """Plain form of what must survive a resume; nothing by default."""
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


suggest(
    Callback,
    (Checkpoint, "Checkpoints are no callback: solve(..., checkpoint={value})"),
    (Save, "What to keep of the states is no callback: solve(..., save={value})"),
    (Functional, "A functional along the flow is Evaluate([FunctionalValue(F)])"),
    (Callable, "Write a subclass of Callback with on_step, or StopWhen(condition)"),
)


def say_unrecorded(callback: Callback, key: str, run: "Run") -> None:
    """Warn at the end of a run when no record has had the quantity that a callback goes by."""
    history = run.solution.history
    if history and not any(key in row for row in history):
        known = ", ".join(sorted(history[-1]))
        warnings.warn(
            f"{type(callback).__name__}: no time step has recorded {key!r}; the last one has {known}", stacklevel=3
        )
