"""How long the sums over pairs of a flow are going to take, said as soon as it can be told from the first of them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from time import perf_counter

from wgflow.core.errors import EfficiencyWarning

Blocks = Iterator[tuple[slice, slice]]

MANY = 10_000
"""Points on both sides from which on a sum over pairs is timed: it takes a good part of a second on a processor."""
LOOKED, TOO_LONG = 1.0, 3600.0
"""Seconds of sums after which it can be told how long all of them take, and seconds of all of them that are worth a warning."""


class PairClock:
    """Times the sums over pairs in the first update of a flow, within its block, and warns once where all of them would take hours.

    Parameters
    ----------
    updates : int
        How many updates the flow still has, the first one included.
    """

    __slots__ = ("looking", "pairs", "spent", "token", "updates")

    def __init__(self, updates: int) -> None:
        self.updates, self.looking, self.pairs, self.spent = updates, True, 0, 0.0

    def __enter__(self) -> None:
        self.token = _present.set(self if self.looking else None)

    def __exit__(self, *error: object) -> None:
        _present.reset(self.token)
        self.looking = False

    def over(self, blocks: Blocks, pairs: int) -> Blocks:
        """Yield the blocks of a sum over so many pairs, and look at the time after each.

        All take as long as those after the first one, which may have waited for memory, or for a library to be loaded.
        """
        begun, first, done, takes = perf_counter(), 0, 0, 0.0
        for i, j in blocks:
            yield i, j
            done += (i.stop - i.start) * (j.stop - j.start)
            elapsed = perf_counter() - begun
            if not first:
                begun, first, takes = begun + elapsed, done, elapsed
                continue
            takes = elapsed * max(pairs, done) / (done - first)
            if self.looking and self.spent + elapsed > LOOKED:
                self._look(self.pairs + pairs, self.spent + takes)
        self.pairs += pairs
        self.spent += takes

    def _look(self, pairs: int, seconds: float) -> None:
        if seconds * self.updates < TOO_LONG:
            return
        self.looking = False
        flow = (
            f", {_span(seconds * self.updates)} for the {self.updates} updates of this flow" if self.updates > 1 else ""
        )
        warnings.warn(
            f"one update sums over {pairs:.2g} pairs of points or more, which takes about {_span(seconds)} here{flow}. Cheaper: a "
            "kernel of features (RandomFourierFeatures, Nystrom), distances by sorting (SlicedEnergyDistance, SlicedWasserstein), a batch "
            "of a target with more points than the flow (batch=1000), or a GPU. See 'Large particle systems' in the documentation",
            EfficiencyWarning,
            stacklevel=2,
        )


def _span(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds > 3600 else f"{seconds:,.1f} s"


_present: ContextVar[PairClock | None] = ContextVar("wgflow_pair_clock", default=None)


@contextmanager
def once() -> Iterator[None]:
    """Time sums within the block as those that no later update takes again, such as a target's own."""
    clock = _present.get()
    with PairClock(1) if clock is not None and clock.looking else nullcontext():
        yield


def timed(blocks: Blocks, n: int, m: int, symmetric: bool = False) -> Blocks:
    """Return the blocks of a sum over pairs of n points and m; timed where these are many, in the first update of a flow."""
    clock = _present.get() if min(n, m) >= MANY else None
    return blocks if clock is None else clock.over(blocks, n * m // (1 + symmetric))
