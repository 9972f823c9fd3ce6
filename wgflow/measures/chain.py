r"""A measure as a base pushed through one trained map after another: the representation of the classic neural JKO scheme."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count
from wgflow.core.outputs import with_logdets
from wgflow.core.rng import build, generator
from wgflow.core.typing import NetSource, Points
from wgflow.maps import Affine, TransportMap
from wgflow.measures._chain_successor import ChainSuccessor
from wgflow.measures.base import Measure, MovingMeasure, register_measure
from wgflow.measures.particles import Particles
from wgflow.measures.successor import Successor
from wgflow.measures.targets import StandardNormal

_CHUNK = 2**14  # points of a stored cloud that go through a new map at once


@register_measure("chain")
@dataclass(eq=False)
class Chain(MovingMeasure):
    r"""The law of :math:`T_k\circ\dots\circ T_1(x)` for :math:`x` from a base measure, one map for every implicit step.

    Parameters
    ----------
    base : Measure
        :math:`\rho_0`. Weights of its draws are kept. Its log density (``log_prob``, or the ``log_rho`` of particles), where
        known, is carried through the maps; to descend KL or the entropy, where :math:`\log\rho_0` is only a constant
        of the value, data without a density may be given as ``Particles(x, log_rho=torch.zeros(len(x)))``.
    make_map : nn.Module or callable
        A :class:`TransportMap` (copied for every step, never changed) or a function that makes one (called under the
        run's seed). It takes the dtype and device of the base.
    cached : int, optional
        Keep that many points of the base and push them through every accepted map once; draws are distinct points of
        this cloud. None draws fresh points of the base and pushes them through all maps.
    density : bool
        Carry the log density where base and maps can. False spares the log-determinants for functionals that need
        samples only.
    warm_start : bool
        A new map starts at the weights of the last one instead of the identity.
    max_maps : int
        Longest chain that may be trained.

    Notes
    -----
    A fresh draw after k steps costs k map calls (with log-determinants where the density is carried), so K steps cost
    :math:`O(K^2)`. A draw from the cache costs none, K steps :math:`O(K)`, at the price of one fixed, finite sample: its
    errors are those of n points, and a large map may fit it too well. :meth:`inference` draws fresh points either way. Memory: all maps.

    Old maps are frozen, in evaluation mode, and pass no gradient. Sources: Mokrov et al. (2021) without the cache, Fan et
    al. (2022) and Xu et al. (2023) with it.

    Raises
    ------
    BadInput
        For counts below 1; when ``make_map`` gives no transport map, or one of another event shape than the base; when a
        step is begun that ``max_maps`` has no room for.

    Examples
    --------
    >>> from wgflow import StandardNormal
    >>> from wgflow.maps import Affine
    >>> rho = Chain(StandardNormal(2), lambda: Affine(2), cached=1000)
    >>> rho.carries_density
    True
    """

    base: Measure
    make_map: NetSource
    cached: Count | None = None
    density: bool = True
    warm_start: bool = True
    max_maps: Count = 1000
    _live: "_Live | None" = field(default=None, repr=False)
    _kind: TransportMap | None = field(default=None, repr=False)
    _dtype: torch.dtype | None = field(default=None, repr=False)

    replays_moves: ClassVar[bool] = True

    @classmethod
    def example(cls) -> "Chain":
        """Return a tiny instance."""
        return cls(StandardNormal(2), Affine(2))

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.base.event_shape

    @property
    def device(self) -> torch.device:
        """Where the base lives."""
        return self.base.device

    def run_identity(self) -> dict[str, Any]:
        """Return what decides a run from here, without what was only asked of the map and kept."""
        kept = ("_kind", "_dtype")
        return {"class": type(self).__qualname__} | {n: v for n, v in vars(self).items() if n not in kept}

    @property
    def maps(self) -> list[TransportMap]:
        """The accepted maps, first applied first."""
        return [] if self._live is None else self._live.maps

    @property
    def carries_density(self) -> bool:
        """Whether draws, and what an implicit step trains, know their log density."""
        known = self.base.has_density or getattr(self.base, "log_rho", None) is not None
        return self.density and known and self._map_kind.has_logdet

    @property
    def has_density(self) -> bool:
        """Whether :meth:`log_prob` is known: where the base's is and the maps invert."""
        return self.base.has_density and self._map_kind.has_logdet and self._map_kind.invertible

    @property
    def _map_kind(self) -> TransportMap:
        """A map of the kind that is trained, to ask what it can."""
        if self._kind is None:
            self._kind = self._new_map(generator(0, self.device))
        return self._kind

    def _new_map(self, rng: torch.Generator) -> TransportMap:
        return self._checked(build(self.make_map, rng))

    def _checked(self, made: nn.Module) -> TransportMap:
        if not isinstance(made, TransportMap):
            raise BadInput(
                f"a Chain needs transport maps, make_map gives a {type(made).__name__}: use "
                "Residual(d, net=...) or another of wgflow.maps"
            )
        if made.event_shape != self.event_shape:
            raise BadInput(
                f"the maps of this Chain are for points {tuple(made.event_shape)}, its base has {tuple(self.event_shape)}"
            )
        if self._dtype is None:
            self._dtype = self.base.draw(1, generator(0, self.device)).x.dtype
        return made.to(self._dtype)

    def _check_room(self, maps: int) -> None:
        if maps > self.max_maps:
            raise BadInput(
                f"this Chain has no room for {maps} maps, it is made for max_maps={self.max_maps}: give it room for as many as "
                "there are time steps, or use a Pushforward, whose size does not grow"
            )

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points with their weights and, where it is carried, their log density; without gradient."""
        return self._draw(n, rng, self.carries_density)

    def _draw(self, n: int, rng: torch.Generator, density: bool) -> Particles:
        live = self._live
        if live is None or live.cache is None:
            return replace(self._push(self._start(n, rng, density), self.maps, density), source=self)
        p = live.cache.draw(n, rng)
        if not density:
            p = replace(p, log_rho=None)
        return replace(self._push(p, live.maps[live.depth :], density), source=self)

    def _start(self, n: int, rng: torch.Generator, density: bool) -> Particles:
        p = self.base.draw(n, rng)
        log_rho = None
        if density:
            log_rho = self.base.log_density(p.x) if p.log_rho is None else p.log_rho
        return Particles(p.x, p.log_w, log_rho)

    @staticmethod
    @torch.no_grad()
    def _push(p: Particles, maps: list[TransportMap], density: bool) -> Particles:
        x, log_rho = p.x, p.log_rho
        for T in maps:
            if density:
                x, logdet = with_logdets(T.with_logdet(x), x, type(T).__name__)
                log_rho = cast(Tensor, log_rho) - logdet
            else:
                x = T(x)
        return replace(p, x=x, log_rho=log_rho)

    @torch.no_grad()
    def log_prob(self, x: Points) -> Tensor:
        r"""Return :math:`\log\rho_0(x_0)-\sum_j\log|\det\nabla T_j(x_{j-1})|` at given points, taken back through all maps.

        Raises
        ------
        Unsupported
            When the base has no density, or a map no inverse or log-determinant.
        """
        total = x.new_zeros(len(x))
        for T in reversed(self.maps):
            x, logdet = with_logdets(T.inverse_with_logdet(x), x, f"the inverse of {type(T).__name__}")
            total = total + logdet
        return self.base.log_density(x) - total

    def inference(self) -> "Chain":
        """View the chain without its cache: draws are fresh points of the base, through all maps."""
        return self if self._live is None else replace(self, _live=_Live(self._live.maps))

    def start(self, rng: torch.Generator) -> "Chain":
        """Return a private chain without maps, with the cached points drawn."""
        cache = None if self.cached is None else self._start(self.cached, rng, self.carries_density)
        return replace(self, _live=_Live([], None if cache is None else cache.start(rng)))

    def follow(self, move: Callable[[Particles], Points], rng: torch.Generator) -> "Chain":
        """Refuse: an explicit displacement is not a map that could be stored and applied to fresh points."""
        raise Unsupported(
            "a Chain trains a map at every step and cannot follow an explicit move. Use JKO; or Particles, or "
            "Pushforward(regression=Regression(Adam())), which can."
        )

    def propose(self, rng: torch.Generator, last: Successor | None = None) -> "ChainSuccessor":
        """Return a new map, the identity or, with ``warm_start``, equal to the last one."""
        T = self._new_map(rng)
        if self.warm_start and isinstance(last, ChainSuccessor):
            T.load_state_dict(last.map.state_dict())
        return ChainSuccessor(T.train())

    @property
    def _moving(self) -> "_Live":
        if self._live is None:
            raise BadInput("this Chain has not been started: call start(rng), as solve() does")
        return self._live

    def append(self, T: TransportMap) -> None:
        """Freeze a map and put it at the end; a cache goes through it now."""
        live = self._moving
        T.zero_grad()  # the last gradients would be kept as long as the map, at the size of the map
        self._check_room(len(live.maps) + 1)
        live.maps.append(self._checked(T).requires_grad_(False).eval())
        if live.cache is not None:
            density = live.cache.log_rho is not None
            pick = lambda t, i: None if t is None else t[i : i + _CHUNK]  # noqa: E731
            parts = [
                self._push(Particles(x, log_rho=pick(live.cache.log_rho, i * _CHUNK)), [live.maps[-1]], density)
                for i, x in enumerate(live.cache.x.split(_CHUNK))
            ]
            log_rho = torch.cat([cast(Tensor, p.log_rho) for p in parts]) if density else None
            live.cache = replace(live.cache, x=torch.cat([p.x for p in parts]), log_rho=log_rho)
            live.depth += 1

    def state_dict(self) -> dict[str, Any]:
        """Plain form of what moves: the maps and the cached points."""
        live = self._moving
        c = live.cache
        cache = None if c is None else {"x": c.x, "log_w": c.log_w, "log_rho": c.log_rho}
        return {"maps": [T.state_dict() for T in live.maps], "cache": cache}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned: maps are made by ``make_map`` and filled, however many there are."""
        live = self._moving
        self._check_room(len(saved["maps"]))
        maps = []
        for weights in saved["maps"]:
            T = self._new_map(generator(0, self.device))
            T.load_state_dict(weights)
            maps.append(T.requires_grad_(False).eval())
        if (live.cache is None) != (saved["cache"] is None):
            raise BadInput("a cached chain and one without cache do not have the same state: give it the same cached=")
        if live.cache is not None:
            ours, theirs = live.cache.x, saved["cache"]["x"]
            if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
                raise BadInput(
                    f"the saved chain keeps points {tuple(theirs.shape)} of {theirs.dtype}, this one {tuple(ours.shape)} of "
                    f"{ours.dtype}: give it the same base and cached="
                )
            x, log_w, log_rho = (None if t is None else t.to(self.device) for t in saved["cache"].values())
            live.cache, live.depth = Particles(cast(Tensor, x), log_w, log_rho), len(maps)
        live.maps[:] = maps


@dataclass(eq=False)
class _Live:
    """What a started chain changes in place: its maps, the cached points and how many maps these have been through."""

    maps: list[TransportMap]
    cache: Particles | None = None
    depth: int = 0
