"""Random generators: every draw names its own, and building a network is part of the seed."""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from wgflow._typing import NetSource
from wgflow.errors import BadInput

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


@contextmanager
def global_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Start the global generators of the CPU and of ``device`` at ``seed``, and put them back at the end.

    ``torch.manual_seed`` would also seed the other devices, which nobody puts back.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


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

    PyTorch's layers draw their initial weights from the global generator; this makes initialisation a function of
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
        When ``net`` is neither a module nor a callable that returns one.
    """
    if isinstance(net, nn.Module):
        return copy.deepcopy(net).to(rng.device)
    built = seeded(net, rng) if callable(net) else net
    if not isinstance(built, nn.Module):
        raise BadInput(f"expected an nn.Module or a function that returns one, got {type(built).__name__}")
    return built.to(rng.device)
