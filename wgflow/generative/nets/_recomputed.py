"""Activation checkpointing: blocks of a network whose inner values are computed again on the way back instead of kept."""

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from wgflow.core.errors import BadInput


def recompute(net: nn.Module, name: str) -> None:
    """Let the blocks of a network that says which (``recomputable()``) be computed twice, bit for bit the same.

    Gradients are those without it, second derivatives as well. Weights keep their names.

    Raises
    ------
    BadInput
        For a network without such blocks, which is called ``name``.
    """
    modules: list[Any] = list(net.modules())
    blocks = [block for module in modules if hasattr(module, "recomputable") for block in module.recomputable()]
    if not blocks:
        raise BadInput(
            f"checkpointing=True, and the networks of network={name!r} have no blocks to be computed twice: of wgflow's, large has. A "
            "network of your own lists its in a method recomputable()"
        )
    for block in blocks:
        kind: Any = type(block)
        block.__class__ = _recomputing(kind)


@functools.cache
def _recomputing(cls: Any) -> type[nn.Module]:
    class Recomputing(cls):  # type: ignore[misc]
        def forward(self, *inputs: Any, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                return super().forward(*inputs, **named)
            # Nothing in these blocks is random, and looking at a generator would wait for the device.
            return checkpoint(super().forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

    Recomputing.__name__, Recomputing.__qualname__ = cls.__name__, cls.__qualname__
    return Recomputing
