r"""A measure as the image of a latent measure under one network: a draw costs one pass whatever the time step."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Decay, Positive, checked
from wgflow.core.networks import copied
from wgflow.core.rng import build
from wgflow.core.typing import NetSource, Points
from wgflow.measures._pushforward_successor import PushforwardSuccessor, mapped
from wgflow.measures.base import Measure, MovingMeasure, register_measure
from wgflow.measures.particles import Particles
from wgflow.measures.regression import Regression
from wgflow.measures.successor import Successor
from wgflow.measures.targets import StandardNormal
from wgflow.optim import Adam, Descent, update_average


@register_measure("pushforward")
@dataclass(eq=False)
class Pushforward(MovingMeasure):
    r"""The law of :math:`G(x)`, or of :math:`G(x, z)` with auxiliary noise, for :math:`x` from a latent measure.

    Parameters
    ----------
    latent : Measure
        Law of :math:`x`. Weights of its draws are kept: quadrature nodes as ``Particles`` make expectations exact.
    net : nn.Module or callable
        :math:`G`, a module (copied, never changed) or a function that makes one (called under the run's seed).
        ``G(x)`` has shape (n, \*event); with ``noise`` the call is ``G(x, z)``.
    noise : Measure, optional
        Law of the auxiliary :math:`z`.
    reference : nn.Module, optional
        A fixed map :math:`Q` that gives the law :math:`Q_\#\text{latent}` before the first step, where it is not
        ``net``'s own: the identity, or an upsampling of the latent (S-JKO, Section 4.2).
    ema : float
        Decay per update of the running average of the weights; 0 keeps none. :func:`ema_decay` converts a half-life. Update
        :math:`t=0,1,\dots` decays by :math:`\min(d,\frac{1+t}{10+t})`: while a run is short, the average is over its last tenth and
        not over the network that it started from.
    regression : Regression, optional
        How to follow an explicit move; needed by explicit solvers only.

    Notes
    -----
    A draw costs one network call and no memory beyond it. A flow by an implicit solver holds the trained network,
    one frozen snapshot and, with ``ema``, the average.

    Examples
    --------
    The law of :math:`2x` for x from N(0, 1):

    >>> import torch
    >>> import wgflow as wg
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.constant_(net.weight, 2.0)
    >>> rho = wg.Pushforward(wg.StandardNormal(1), net)
    >>> round(rho.draw(10_000, torch.Generator().manual_seed(0)).x.std().item(), 1)
    2.0
    """

    latent: Measure
    net: NetSource
    noise: Measure | None = None
    reference: nn.Module | None = None
    ema: Decay = 0.0
    regression: Regression | None = None
    _live: "_Live | None" = field(default=None, repr=False)

    @classmethod
    def example(cls) -> "Pushforward":
        """Return a tiny instance."""
        return cls(
            StandardNormal(2),
            nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)),
            regression=Regression(Adam(1e-3)),
        )

    @property
    def device(self) -> torch.device:
        """Where the latent measure lives."""
        return self.latent.device

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point, found by a draw."""
        return self.inference().draw(2, torch.Generator(device=self.device)).x.shape[1:]

    @property
    def map(self) -> nn.Module:
        """The map in force: the reference until the first step is done, a network afterwards."""
        if self.reference is not None and (self._live is None or not self._live.moved):
            return self.reference
        return self._network

    @property
    def _network(self) -> nn.Module:
        if not isinstance(self.net, nn.Module):
            raise BadInput(
                "this Pushforward's network is a factory and is not built yet: call start(rng), as solve() does"
            )
        return self.net

    @property
    def _moving(self) -> "_Live":
        if self._live is None:
            raise BadInput("this Pushforward has not been started: call start(rng), as solve() does")
        return self._live

    def latents(self, n: int, rng: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Draw the inputs of the network, ``(x,)`` or ``(x, z)``, with the logarithms of their weights (None: equal)."""
        p = self.latent.draw(n, rng)
        if self.noise is None:
            return (p.x,), p.log_w
        return (p.x, self._noise(len(p), rng)), p.log_w

    def _noise(self, n: int, rng: torch.Generator) -> Tensor:
        """Draw ``n`` auxiliary inputs of equal weight, independent of the latent they are paired with."""
        assert self.noise is not None
        q = self.noise.draw(n, rng)
        in_order = isinstance(self.noise, Particles) and len(self.noise) <= n
        return (q.resampled(n, rng) if in_order or q.log_w is not None or len(q) != n else q).x

    def apply(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Map drawn latents to points: ``inputs`` is ``(x,)`` or ``(x, z)``."""
        # The fixed reference is a map of the source alone.
        return mapped(self.map, inputs[:1] if self.map is self.reference else inputs)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points with the weights of their latents, without gradient."""
        inputs, log_w = self.latents(n, rng)
        with torch.no_grad():
            return Particles(self.apply(inputs), log_w)

    def start(self, rng: torch.Generator) -> "Pushforward":
        """Return a private copy with its network built and its optimizer made."""
        net = build(self.net, rng)
        reference = None if self.reference is None else copied(self.reference).to(rng.device).eval()
        average = _frozen(net) if self.ema else None
        descent = None if self.regression is None else self.regression.optim.build(net.parameters())
        return replace(self, net=net, reference=reference, _live=_Live(average, descent))

    def follow(self, move: Callable[[Particles], Points], rng: torch.Generator) -> "Pushforward":
        """Regress the network onto moved samples of itself."""
        net, live = self._network, self._moving
        assert self.regression is not None, "why_not() asks for it"
        assert live.descent is not None
        inputs, log_w = self.latents(self.regression.batch, rng)
        with torch.no_grad():
            before = Particles(self.apply(inputs), log_w)
        outputs = lambda: mapped(net, inputs)  # noqa: E731
        self.regression.fit(net, outputs, before, move, live.descent, lambda: self.update_average(net))
        live.moved = True
        return self

    def snapshot(self) -> "Pushforward":
        """Return a frozen copy of the map in force."""
        moved = _Live(None, None, moved=self._moving.moved)
        return replace(self, net=_freeze(copied(self._network)), ema=0.0, regression=None, _live=moved)

    def update_average(self, net: nn.Module) -> None:
        """Take the weights of ``net``, this measure's or its successor's, into the running average, if one is kept."""
        live = self._live
        if live is not None and live.average is not None:
            update_average(live.average, net, min(self.ema, (1 + live.averaged) / (10 + live.averaged)))
            live.averaged += 1

    def inference(self) -> "Pushforward":
        """View this measure as one samples it after training: averaged weights if kept, in evaluation mode."""
        if self.map is self.reference:
            return self
        average = None if self._live is None else self._live.average
        return replace(self, net=_frozen(self.map) if average is None else average, reference=None)

    def propose(self, rng: torch.Generator, last: Successor | None = None) -> PushforwardSuccessor:
        """Return a network that starts at this one's weights, or ``last`` to be trained further."""
        if last is not None:
            assert isinstance(last, PushforwardSuccessor)
            return last
        net = copied(self._network).train()
        _freeze(self._network)
        return PushforwardSuccessor(net)

    def state_dict(self) -> dict[str, Any]:
        """Plain form of what moves: network, running average, optimizer."""
        net, live = self._network, self._moving
        return {
            "net": net.state_dict(),
            "moved": live.moved,
            "average": None if live.average is None else live.average.state_dict(),
            "averaged": live.averaged,
            "descent": None if live.descent is None else live.descent.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore in place what :meth:`state_dict` returned."""
        net, live = self._network, self._moving
        net.load_state_dict(saved["net"])
        live.moved = saved["moved"]
        if live.average is not None:
            live.average.load_state_dict(saved["average"])
            live.averaged = saved.get("averaged", 2**62)  # an older checkpoint: it averaged at one decay throughout
        if live.descent is not None:
            live.descent.load_state_dict(saved["descent"])


@dataclass(eq=False)
class _Live:
    """What a started pushforward changes in place."""

    average: nn.Module | None
    descent: Descent | None
    moved: bool = False
    averaged: int = 0
    """Updates that the average has seen."""


@checked
def ema_decay(half_life: Positive, batch: Count) -> float:
    r"""Decay per update :math:`d = 2^{-\text{batch}/\text{half-life}}`, the half-life counted in images.

    Parameters
    ----------
    half_life : float
        In images.
    batch : int
        Images in an update.

    Returns
    -------
    float
        The decay of one update.

    Examples
    --------
    >>> round(ema_decay(half_life=1_774_000, batch=256), 5)  # the 0.9999 of the CIFAR-10 experiments
    0.9999
    """
    return 0.5 ** (batch / half_life)


def _freeze(net: nn.Module) -> nn.Module:
    """Make a network a fixed map that still treats a batch as the trained one does.

    Batch normalization keeps using the statistics of the batch, so that at equal weights frozen and trained maps agree
    exactly, but no longer changes its running statistics.
    """
    net.requires_grad_(False).train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
    return net


def _frozen(net: nn.Module) -> nn.Module:
    """Return an evaluation-mode copy without gradients: the running average starts as one."""
    return copied(net).requires_grad_(False).eval()
