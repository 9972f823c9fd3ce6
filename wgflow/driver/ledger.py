"""Keeps what updates report without waiting for the device, and looks at it once in a while."""

import math
from typing import Any

import torch

from wgflow.core.errors import Diverged
from wgflow.core.inner import RESIDUAL
from wgflow.core.ranks import anywhere, parallel
from wgflow.core.typing import Info
from wgflow.numerics.distances import readable

ADVICE = (
    "Nothing after the last checkpoint is kept. A smaller step size or learning rate, a bounded entropy (softplus, "
    "js_nonsat) or R1 helps."
)


class Ledger:
    """Sums of the reported quantities over the current window and over the current time step.

    Updates hand in 0-d tensors on the device; :meth:`settle` moves all of them to the host in one transfer.
    """

    def __init__(self, updates: int = 0) -> None:
        self.updates = updates
        self.pending: list[tuple[int, int, Info]] = []
        self.window: dict[str, list[float]] = {}
        self.step: dict[str, list[float]] = {}

    def add(self, k: int, info: Info) -> None:
        """Take the report of one update inside time step ``k``."""
        self.updates += 1
        self.pending.append((self.updates, k, info))

    def settle(self) -> None:
        """Fetch what is pending, check it and add it to the sums.

        Raises
        ------
        Diverged
            Naming the first quantity that is not finite, on every rank when it happens on one.
        """
        pending, self.pending = self.pending, []
        flat = [(u, k, name, value) for u, k, info in pending for name, value in info.items()]
        if not flat:
            return
        for (update, k, name, _), number in zip(flat, _numbers(flat), strict=True):
            if not math.isfinite(number) and not name.endswith(RESIDUAL):
                raise Diverged(
                    f"{name} became {number} at update {update}, in time step {k}.",
                    advice=ADVICE,
                    term=name,
                    step=k,
                    update=update,
                )
            for sums in (self.window, self.step):
                total = sums.setdefault(name, [0.0, 0])
                total[0] += number
                total[1] += 1

    @staticmethod
    def mean_and_clear(sums: dict[str, list[float]]) -> dict[str, float]:
        """Return the means of a window and start it anew."""
        means = {name: total / count for name, (total, count) in sums.items()}
        sums.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Plain form; settle first."""
        assert not self.pending
        return {"updates": self.updates, "window": dict(self.window), "step": dict(self.step)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore."""
        self.updates = saved["updates"]
        self.window = {k: list(v) for k, v in saved["window"].items()}
        self.step = {k: list(v) for k, v in saved["step"].items()}


def _at_hand(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or readable(value)


def _numbers(reported: list[tuple[int, int, str, Any]]) -> list[float]:
    """Return reported quantities as numbers, NaN where one is not finite on another rank."""
    values = [value for *_, value in reported]
    if not parallel() and all(map(_at_hand, values)):
        # Nothing is waited for, and most updates report one or two. A float is rounded as among several ranks.
        return [value.item() if isinstance(value, torch.Tensor) else float(torch.as_tensor(value)) for value in values]
    held = [value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value) for value in values]
    device = next((t.device for t in held if t.is_cuda), held[0].device)
    # In double precision what is finite in the flow's own precision stays finite.
    numbers = torch.stack([t.to(device, torch.float64) for t in held])
    # An inner solver that got nowhere is said to be unconverged; what it spoils shows in the other numbers.
    residual = torch.tensor([name.endswith(RESIDUAL) for _, _, name, _ in reported], device=device)
    bad = ~torch.isfinite(numbers) & ~residual
    numbers[anywhere(bad) & ~bad] = math.nan  # or the other ranks would wait for ever for the one that stops
    return numbers.tolist()
