"""What a run has made, as a law of images, and its file: a generator, a chain of maps or a cloud of images."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wgflow import Chain, LabelledLatent, Measure, Particles, Pushforward
from wgflow.core.behind import Keeping
from wgflow.core.errors import BadInput
from wgflow.core.networks import copied
from wgflow.core.version import VERSION
from wgflow.generative.folder import RECORD, plain_record, write_tensors
from wgflow.generative.latent_space import Decoded, Space
from wgflow.generative.nets.labelled import LabelledGenerator, WithoutLabels
from wgflow.generative.runtime import Autocast, Sharded
from wgflow.measures import Derived
from wgflow.solvers import JKOState

if TYPE_CHECKING:
    from wgflow.driver.run import Run


def present(run: "Run") -> Measure:
    """Return the law in training as one samples it: averaged weights, in evaluation mode, and the draws of a single process.

    Before the first update this is the untrained network, not the reference map that the flow starts from.
    """
    state = run.state
    if not isinstance(state.measure, Pushforward):
        return _as_one(plain(state.present.inference()))
    rho = state.successor.measure(state.measure) if isinstance(state, JKOState) else state.measure
    assert isinstance(rho, Pushforward)
    rho = replace(rho, reference=None).inference()
    latent = labels_of(rho)  # as often as in the data: training takes the classes in turn
    return _as_one(plain(rho if latent is None else replace(rho, latent=latent)))


def _as_one(rho: Measure) -> Measure:
    """Return a law whose latents are not a rank's share of them."""
    if not isinstance(rho, Pushforward):
        return rho
    latent, noise = _whole(rho.latent), None if rho.noise is None else _whole(rho.noise)
    same = latent is rho.latent and noise is rho.noise
    return rho if same else replace(rho, latent=latent, noise=noise)


def _whole(measure: Measure) -> Measure:
    if isinstance(measure, Sharded):
        return _whole(measure.base)
    if not isinstance(measure, Derived):
        return measure
    base = _whole(measure.base)
    return measure if base is measure.base else replace(measure, base=base)


def labels_of(measure: Measure) -> LabelledLatent | None:
    """Return the latent with labels that a generator maps, None for one without."""
    held: Any = measure.latent if isinstance(measure, Pushforward) else None
    while held is not None and not isinstance(held, LabelledLatent):
        held = getattr(held, "base", None)
    return held


def plain(rho: Measure) -> Measure:
    """Return a law without what is only for training: a chain as one network after another, a generator without its latents behind."""
    if isinstance(rho, Chain):
        return Pushforward(rho.base, nn.Sequential(*map(copied, rho.maps)).requires_grad_(False).eval())
    if isinstance(rho, Pushforward) and isinstance(rho.map, Keeping):  # the latent behind what is made of it
        return replace(rho, net=rho.map.net, reference=None)
    if not isinstance(rho, (Pushforward, Particles)):
        raise BadInput(
            f"images are drawn from a Pushforward, a Chain or Particles; this flow moves {type(rho).__name__}"
        )
    return rho


def pictured(rho: Measure, space: Space | None) -> Measure:
    """Return a law of images: decoded where the flow lives in a latent space, clouds cut to [-1, 1]."""
    if isinstance(rho, Particles):
        x = rho.x.detach()
        return Particles(x.clamp(-1, 1) if space is None else space.decode(x), rho.log_w)
    if not isinstance(rho, Pushforward):
        return rho
    net = rho.map
    inside = net.net if isinstance(net, Autocast) else net
    if isinstance(inside, LabelledGenerator):
        net = WithoutLabels(net, inside.data_shape)
    if space is not None:
        net = Decoded(net, space)
    return rho if net is rho.map else replace(rho, net=net, reference=None)


def export(rho: Measure, path: Path, record: Mapping[str, Any] | None = None) -> None:
    """Write what was learned as safetensors: weights without the wrappers of precision, tied ones under every name; or points.

    Its metadata say what it is of, in JSON under one name, since several have no order: with the ``record`` of the run as ``recipe``, by
    which it can be loaded alone.
    """
    if isinstance(rho, Particles):
        held: dict[str, Tensor] = {"x": rho.x} | ({} if rho.log_w is None else {"log_w": rho.log_w})
        about: dict[str, Any] = {"network": "none: x are the points", "output": str(tuple(rho.x.shape))}
    else:
        assert isinstance(rho, Pushforward)
        net = rho.map.net if isinstance(rho.map, Autocast) else rho.map
        held, laws = net.state_dict(), [m for m in (rho.latent, rho.noise) if m is not None]
        about = {
            "network": f"{type(net).__module__}.{type(net).__qualname__}",
            "input": " and ".join(f"(n, {', '.join(map(str, m.event_shape))})" for m in laws),
        }
    about |= {"version": VERSION} | ({} if record is None else {"recipe": plain_record(dict(record))})
    # safetensors refuses tensors that share memory.
    weights = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in held.items()}
    write_tensors(path, weights, {RECORD: json.dumps(about)})
