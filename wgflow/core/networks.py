"""Networks of the user: copied, looked at before a flow starts, and called so that what they refuse is said."""

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wgflow.core.compiling import run
from wgflow.core.errors import BadInput, WgflowError

Net = TypeVar("Net", bound=nn.Module)


def copied(net: Net) -> Net:
    """Return a deep copy; raises ``BadInput`` for a network that PyTorch cannot copy."""
    if isinstance(net, torch.jit.ScriptModule):
        raise BadInput("a TorchScript module cannot be copied and trained: pass the nn.Module that it was made from")
    try:
        return copy.deepcopy(net)
    except RuntimeError as error:
        raise BadInput(
            f"{type(net).__name__} cannot be copied: {_first_line(error)}. The weight_norm and spectral_norm of torch.nn.utils "
            "keep computed tensors: use those of torch.nn.utils.parametrizations"
        ) from error


def trainable(net: Net) -> Net:
    """Return a network whose tensors can be trained; raises ``BadInput`` naming the first one that cannot."""
    for name, t in itertools.chain(net.named_parameters(), net.named_buffers()):
        if is_lazy(t):
            raise BadInput(f"{type(net).__name__}: {name} has no shape yet. Pass a batch through the network first")
        if t.is_meta:
            raise BadInput(
                f"{type(net).__name__}: {name} is on the device meta and has no values. Load its weights first"
            )
        if t.is_inference():
            raise BadInput(f"{type(net).__name__}: {name} was made in inference mode. Make the network outside of it")
    return net


@contextmanager
def running_statistics_held(net: nn.Module) -> Iterator[None]:
    """Evaluate a network as in training, with the statistics of its batch, and leave its running statistics as they are."""
    tracking = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


REFUSALS = (RuntimeError, TypeError, ValueError, IndexError)
"""What PyTorch raises for tensors that do not fit."""


def called(net: Any, who: str, *inputs: Tensor) -> Any:
    """Return ``net(*inputs)``.

    Raises
    ------
    BadInput
        When the network refuses them: the message has what it was given, its own precision and PyTorch's reason. Also when it
        changes them in place, which would move the particles themselves.
    """
    if torch.compiler.is_compiling():  # as a part of a loss, whose first call has looked at the network
        return net(*inputs)
    before = _versions(inputs)
    try:
        value = run(net, *inputs)
    except (WgflowError, torch.OutOfMemoryError):
        raise
    except REFUSALS as error:
        raise cannot_take(who, inputs, error, _other_precision(net, inputs)) from error
    if _versions(inputs) != before:
        raise BadInput(
            f"{who} changes in place what it is given, and with it the points of the flow. Make a new tensor: x = x * 2 instead of "
            "x *= 2, no inplace=True in the first layer"
        )
    return value


def cannot_take(who: str, inputs: tuple[Tensor, ...], error: Exception, advice: str = "") -> BadInput:
    """Return the error that says what something was given, and PyTorch's reason against it."""
    given = " and ".join(f"{tuple(t.shape)} {t.dtype}" for t in inputs)
    return BadInput(f"{who} cannot take {given}: {_first_line(error)}{advice}")


def _versions(inputs: tuple[Tensor, ...]) -> list[int]:
    return [0 if t.is_inference() else t._version for t in inputs]


def _other_precision(net: Any, inputs: tuple[Tensor, ...]) -> str:
    weights = (p.dtype for p in net.parameters() if p.is_floating_point()) if isinstance(net, nn.Module) else iter(())
    own = next(weights, None)
    if own is None or all(t.dtype == own for t in inputs):
        return ""
    return f". Its weights are {own}: convert the network, net.to({inputs[0].dtype}), or the points"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(".  ")[0][:200]
