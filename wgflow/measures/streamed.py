"""Data that stay in the memory of the host, or on its disk, and are read beside the flow."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from wgflow.core.beside import Beside
from wgflow.core.errors import BadInput
from wgflow.core.fields import Device
from wgflow.core.rng import generator
from wgflow.measures.base import Measure, register_measure
from wgflow.measures.dataset import Dataset
from wgflow.measures.derived import Derived
from wgflow.measures.particles import Particles

_PHILOX = 16
"""Bytes of the state of a GPU's generator: its seed, and how far it has come."""


@register_measure("streamed")
@dataclass(frozen=True, eq=False)
class Streamed(Derived):
    r"""Data larger than the card, or than the memory: they stay on the host, and draws of them are on the device of the flow.

    A draw is the one that the base gives for the same generator, to the last bit, so runs resume exactly and a run that was begun with
    the data in memory goes on with them streamed. While the flow goes on, a thread reads the next batch ahead: it draws from a copy
    of the generator, put where the last gaps between draws let expect it. On a GPU that is right whenever updates are alike, and the
    batch is pinned and copied beside the update. On a CPU it is right where the flow draws nothing else. A batch that was read in
    vain is thrown away, and the right one read while the flow waits.

    Parameters
    ----------
    base : Measure
        The data, on the CPU: a ``Dataset`` or ``ImageData`` of a tensor that is mapped from a file, with weights or labels as ever.
        Labels go inside, ``Streamed(Labelled(data))``; ``Labelled(Streamed(data))`` draws the same without reading ahead.
    device : torch.device or str
        Where the draws are to be; moving a flow (``F.to(...)``) changes it and leaves the data where they are.

    Raises
    ------
    BadInput
        When the base is not on the CPU.

    Examples
    --------
    Points in a file of NumPy; mode ``"c"`` never writes to it:

    >>> import tempfile
    >>> import numpy as np
    >>> import torch
    >>> import wgflow as wg
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/points.npy", np.random.default_rng(0).standard_normal((1000, 2), dtype=np.float32))
    ...     x = torch.from_numpy(np.load(f"{folder}/points.npy", mmap_mode="c"))
    ...     F = 0.5 * wg.EnergyDistance(wg.Streamed(wg.Dataset(x)), batch=100)
    ...     flow = wg.solve(F, wg.ForwardEuler(), wg.Particles(torch.full((50, 2), 3.0)), step_size=1.0, num_steps=3)
    >>> flow.measure.x.shape
    torch.Size([50, 2])
    """

    device: Device = torch.device("cpu")  # type: ignore[assignment]  # noqa: RUF009 (it is immutable)
    _ahead: "_Ahead" = field(default_factory=lambda: _Ahead(), init=False, repr=False)

    stays = frozenset({"base"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self._place)
        if self.base.device.type != "cpu":
            raise BadInput(
                f"Streamed(base={type(self.base).__name__}): its points are on {self.base.device} already, expected them on the CPU"
            )

    @classmethod
    def example(cls) -> "Streamed":
        """Return a tiny instance."""
        return cls(Dataset.example())

    @property
    def _place(self) -> torch.device:
        return torch.device(self.device)

    def run_identity(self) -> Measure:
        """Return the base: where its points are is no part of a run."""
        return self.base

    def at(self, k: int, t: float) -> Self:
        """Return itself, unless the base changes along the flow."""
        base = self.base.at(k, t)
        return self if base is self.base else replace(self, base=base)

    @property
    def num_atoms(self) -> int | None:
        """As many as the base has."""
        return self.base.num_atoms

    @property
    def num_points(self) -> int | None:
        """As many as the base has."""
        return self.base.num_points

    @property
    def labels(self) -> Tensor | None:  # type: ignore[override]
        """Those of the base, on the host."""
        return self.base.labels

    def whole(self, rng: torch.Generator) -> Particles:
        """Return all points of the base."""
        return _moved(self._ahead.alone(self.base.whole, rng), self._place)

    def take(self, index: Tensor, rng: torch.Generator) -> Particles:
        """Return the points of these numbers, read while the flow waits."""
        return _moved(self._ahead.alone(self.base.take, index, rng), self._place)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return the ``n`` points that the base draws."""
        return self._ahead.draw(self.base, n, rng, self._place)


@dataclass
class _Batch:
    """A draw that was read ahead: what it begins with, what it gives, and where the generator stands then."""

    n: int
    before: Tensor
    points: Particles | None = None
    after: Tensor | None = None
    arrived: torch.cuda.Event | None = None


class _Ahead:
    """Reads the batch that is likely to be asked for next.

    What is drawn in between moves the generator by a gap. In a loop, gaps recur: the one that came last time after the present one,
    with the size of its draw, is expected again.
    """

    def __init__(self) -> None:
        self.beside, self.batch = Beside(), _Batch(0, torch.empty(0))
        self.last: Tensor | None = None
        self.gap: tuple[int, int] | None = None
        self.follows: dict[tuple[int, int] | None, tuple[int, int]] = {}
        self.stream: torch.cuda.Stream | None = None

    def placed_anew(self) -> "_Ahead":
        """Return one that has seen nothing, for a copy of the measure."""
        return _Ahead()

    def __reduce__(self) -> tuple[type["_Ahead"], tuple[()]]:
        return _Ahead, ()

    def alone(self, read: Callable[..., Particles], *args: Any) -> Particles:
        """Read while nothing else is read."""
        self.beside.wait()
        return read(*args)

    def draw(self, base: Measure, n: int, rng: torch.Generator, device: torch.device) -> Particles:
        """Return what the base draws, read ahead where that was expected, and begin to read what is expected next."""
        self.beside.wait()
        batch, before = self.batch, rng.get_state()
        if batch.points is not None and batch.after is not None and batch.n == n and torch.equal(batch.before, before):
            rng.set_state(batch.after)
            points = _received(batch)
        else:
            points = _moved(base.draw(n, rng), device)
        self._expect(n, before, rng.get_state())
        self._begin(base, rng.device, device)
        return points

    def _expect(self, n: int, before: Tensor, after: Tensor) -> None:
        moved = None if self.last is None else _gap(self.last, before)
        gap = None if moved is None else (moved, n)
        if gap is not None:
            self.follows[self.gap] = gap
        self.gap, self.last = gap, after
        next_gap = gap and self.follows.get(gap, gap)
        self.batch = _Batch(0, after) if next_gap is None else _Batch(next_gap[1], _further(after, next_gap[0]))

    def _begin(self, base: Measure, draws_on: torch.device, device: torch.device) -> None:
        batch = self.batch
        if batch.n == 0:
            return
        if device.type == "cuda" and self.stream is None:
            self.stream = torch.cuda.Stream(device)

        def read() -> None:
            rng = generator(0, draws_on).set_state(batch.before)
            with torch.no_grad(), torch.cuda.stream(self.stream):  # without a stream, that does nothing
                batch.points = _moved(base.draw(batch.n, rng), device)
                batch.arrived = None if self.stream is None else self.stream.record_event()
            batch.after = rng.get_state()

        self.beside.start(read)


def _gap(earlier: Tensor, later: Tensor) -> int | None:
    """Return how far a generator has come from one state to another; None where that cannot be said."""
    if torch.equal(earlier, later):
        return 0
    if len(earlier) != _PHILOX:
        return None
    # States of generators are on the host, those of a GPU's as well.
    (seed, begin), (same, end) = earlier.view(torch.int64).tolist(), later.view(torch.int64).tolist()
    return end - begin if seed == same else None


def _further(state: Tensor, gap: int) -> Tensor:
    """Return the state of a generator after a gap."""
    moved = state.clone()
    if gap:
        moved.view(torch.int64)[1] += gap
    return moved


def _moved(p: Particles, device: torch.device) -> Particles:
    """Return points of the host on a device, without waiting for the copy."""
    if device.type == "cpu":
        return p

    def there(t: Tensor) -> Tensor:
        return (t.pin_memory() if device.type == "cuda" else t).to(device, non_blocking=True)

    w, rho = (None if t is None else there(t) for t in (p.log_w, p.log_rho))
    return replace(p, x=there(p.x), log_w=w, log_rho=rho)


def _received(batch: _Batch) -> Particles:
    """Return the points that were read ahead, for the stream that asks for them."""
    points = batch.points
    assert points is not None
    if batch.arrived is not None:
        present = torch.cuda.current_stream(points.device)
        present.wait_event(batch.arrived)
        for t in (points.x, points.log_w, points.log_rho):
            if t is not None:
                t.record_stream(present)
    return points
