"""Networks by name: the generator and the critic of a recipe."""

import importlib
from collections.abc import Mapping
from typing import Any

from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.registry import near_misses
from wgflow.generative.nets import NETWORKS, NetworkPair


def network_pair(name: str) -> NetworkPair:
    """Return the pair called ``name``, or the one at ``package.module:NAME``; raises ``BadInput`` with near misses."""
    if name in NETWORKS:
        return NETWORKS[name]
    if ":" not in name:
        raise BadInput(f"no network is called {name!r}: {near_misses(name, sorted(NETWORKS))}, or package.module:NAME")
    pair = named_object(name, "network")
    if not isinstance(pair, NetworkPair):
        raise BadInput(
            f"network={name!r} is a {type(pair).__name__}; expected a NetworkPair(generator=..., critic=...)"
        )
    return pair


def networks(
    name: str,
    channels: int | None,
    event_shape: tuple[int, ...],
    classes: int = 0,
    levels: Mapping[str, tuple[int, ...]] | None = None,
    **further: int,
) -> tuple[Any, Any]:
    """Return a fresh generator and critic for images (c, h, w) of this shape, or for vectors (d,).

    With ``classes`` both are for points with a label behind them. ``levels`` are sizes of the generator, ``further`` of the critic.
    """
    pair = network_pair(name)
    vectors = len(event_shape) == 1
    sizes: dict[str, Any] = {"dim": event_shape[0]} if vectors else {"image_shape": tuple(event_shape)}
    if channels is not None:
        sizes["width" if vectors else "channels"] = channels
    try:
        made = pair.labelled(classes) if classes else pair
        generator, critic = made.generator(**sizes, **(levels or {})), made.critic(**sizes, **further)
    except TypeError as error:
        given = ", ".join(f"{name}={value}" for name, value in (sizes | dict(levels or {}) | further).items())
        what = "; in a latent space of principal components networks are for vectors, such as toy" if vectors else ""
        raise BadInput(f"network={name!r} cannot be made with {given}: {error}{what}") from error
    for attribute in ("source_shape", "noise_shape", "reference"):
        if not hasattr(generator, attribute):
            raise BadInput(
                f"network={name!r}: its generator has no {attribute}; source_shape, noise_shape (or None) and reference() "
                "say what it eats and what stands for it before the first step"
            )
    return generator, critic


def named_object(name: str, what: str) -> Any:
    """Return the object at ``package.module:NAME``; raises ``BadInput`` that says what it was wanted for."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except WgflowError:
        raise
    except Exception as error:  # whatever the module does
        raise BadInput(f"{what}={name!r} cannot be imported: {type(error).__name__}: {error}") from error


def whole_numbers(text: str, name: str) -> tuple[int, ...]:
    """Return the numbers that a text like ``1,2,2`` holds; raises ``BadInput`` that calls it ``name``."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 2**16 for word in words):
        raise BadInput(f"{name}={text!r}: expected whole numbers from 1 up with commas between them, such as 1,2,2")
    return tuple(map(int, words))
