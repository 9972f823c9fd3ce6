"""Random generators: every draw names its own, and building a network is part of the seed."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.networks import copied, trainable
from wgflow.core.typing import NetSource

T = TypeVar("T")


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on ``device`` that starts at ``seed``."""
    return torch.Generator(device=device).manual_seed(seed)


def mixed(*numbers: int) -> int:
    """One seed from several: distinct inputs give distinct streams."""
    seed = 0x9E3779B97F4A7C15
    for n in numbers:
        seed = ((seed ^ (n & (2**63 - 1))) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
    return seed % (2**62)


def aside(rng: torch.Generator) -> torch.Generator:
    """Return a generator that starts where ``rng`` stands, by a hash of its state, and leaves it there.

    For numbers that only some draws need: the others, and what is drawn afterwards, do not depend on them.
    """
    digest = hashlib.sha256(rng.get_state().numpy().tobytes()).digest()
    return generator(int.from_bytes(digest[:7]), rng.device)


class Stream:
    """Random numbers that the global generators give in its turns, from a seed on; outside of them they give others.

    PyTorch's layers draw from the generators of the process. A stream keeps their states, and puts its own ones there when
    its turn comes: turns exclude each other, and nobody sees that others have been in between. Between the turns of one
    thread alone nothing is moved.
    """

    _lock = threading.RLock()
    _present: "Stream | None" = None
    """Whose numbers the global generators give now; those of the world outside with None."""
    _outside: ClassVar[dict[torch.device, Tensor]] = {}

    def __init__(self, seed: int, device: torch.device) -> None:
        devices = [torch.device("cpu"), *([device] if device.type == "cuda" else [])]
        self.states = {d: generator(seed, d).get_state() for d in devices}

    def turn(self) -> "_Turn":
        """Draw from this stream; it stays in place afterwards, until another one or :meth:`close` moves it."""
        return _Turn(self)

    def saved(self) -> dict[str, Tensor]:
        """Return where it stands, by type of device."""
        with self.turn():
            return {device.type: _global_state(device) for device in self.states}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Go on from where :meth:`saved` stood."""
        with self.turn():
            for device in self.states:
                if device.type in saved:
                    _set_global_state(device, saved[device.type])

    def close(self) -> None:
        """Put the global generators back as they were outside."""
        with self._lock:
            if Stream._present is self:
                self._place(None)

    @classmethod
    def _place(cls, stream: "Stream | None") -> None:
        present = Stream._present
        if stream is present:
            return
        old = {} if present is None else present.states
        new = {} if stream is None else stream.states
        for device in old.keys() | new.keys():
            (old if device in old else cls._outside)[device] = _global_state(device)
            _set_global_state(device, (new if device in new else cls._outside)[device])
        Stream._present = stream


class _Turn:
    """The block in which a stream has its turn; every update of a flow is one."""

    __slots__ = ("before", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        Stream._lock.acquire()
        self.before = Stream._present
        try:
            Stream._place(self.stream)
        except BaseException:
            Stream._lock.release()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            if self.before is not None and self.before is not self.stream:  # inside of somebody's turn
                Stream._place(self.before)
        finally:
            Stream._lock.release()


def _global_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_global_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextmanager
def global_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Start the global generators of the CPU and of ``device`` at ``seed``, and put them back at the end."""
    stream = Stream(seed, device)
    try:
        with stream.turn():
            yield
    finally:
        stream.close()


def replayed(draw: Callable[[torch.Generator], T], rng: torch.Generator) -> Callable[[], T]:
    """Return a function that calls ``draw(rng)`` and sees the same random numbers at every call.

    The first call moves ``rng`` on as usual, later ones leave it where it is: an objective may be evaluated again at
    other parameters.
    """
    start = rng.get_state()
    first = True

    def call() -> T:
        nonlocal first
        if first:
            first = False
            return draw(rng)
        now = rng.get_state()
        rng.set_state(start)
        try:
            return draw(rng)
        finally:
            rng.set_state(now)

    return call


def seeded(factory: Callable[[], T], rng: torch.Generator) -> T:
    """Call ``factory`` with the global generators seeded from ``rng``, and put the global generators back after.

    PyTorch's layers draw their initial weights from the global generator; this makes initialization a function of
    ``rng`` and leaves no trace elsewhere.
    """
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    with global_generators(seed, rng.device):
        return factory()


def build(net: NetSource, rng: torch.Generator) -> nn.Module:
    """Return a private network from a module (deep copy) or from a factory (called under a seed from ``rng``).

    Raises
    ------
    BadInput
        When ``net`` is neither a module nor a callable that returns one, or it cannot be copied or trained.
    """
    if isinstance(net, nn.Module):
        return copied(trainable(net)).to(rng.device)
    built = seeded(net, rng) if callable(net) else net
    if not isinstance(built, nn.Module):
        raise BadInput(f"expected an nn.Module or a function that returns one, got {type(built).__name__}")
    return trainable(built).to(rng.device)
