"""What the caller may have switched for a thread or for the process, and what a computation needs in its place."""

import copy
import dataclasses
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeVar

import torch

from wgflow.core.errors import BadInput

T = TypeVar("T")


@contextmanager
def ordinary() -> Iterator[None]:
    """Compute as in a fresh program: with gradients, without inference mode, autocast and a default device.

    A network that is to run in half precision enters autocast itself.

    Raises
    ------
    BadInput
        When a tensor of inference mode is met where a gradient must pass.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(without_autocast())
        if torch.empty(0).device.type != "cpu":  # get_default_device of torch 2.6 fails after set_default_device(None)
            stack.enter_context(torch.device("cpu"))
        try:
            yield
        except (RuntimeError, BadInput) as error:
            if "nference tensor" not in str(error):
                raise
            raise BadInput(
                "a tensor of the functional, the solver or a function of yours was made under torch.inference_mode() and "
                "cannot pass gradients: make it outside, or use its clone() made outside"
            ) from error


def outside_inference(part: T) -> T:
    """Return a part of a flow with copies in the place of tensors of inference mode, which cannot pass gradients."""
    if isinstance(part, torch.Tensor):
        return part.clone() if part.is_inference() else part  # type: ignore[return-value]
    if isinstance(part, tuple):
        return type(part)(map(outside_inference, part)) if type(part) is tuple else part  # type: ignore[return-value]
    if isinstance(part, type) or not (dataclasses.is_dataclass(part) or type(part).__module__.startswith("wgflow.")):
        return part
    held = getattr(part, "__dict__", {})
    changed = {name: new for name, old in held.items() if (new := outside_inference(old)) is not old}
    if not changed:
        return part
    part = copy.copy(part)
    for name, value in changed.items():
        object.__setattr__(part, name, value)
    return part


@contextmanager
def without_autocast() -> Iterator[None]:
    """Keep float32 in float32 whatever the caller has switched on."""
    with _off("cpu"), _off("cuda"):
        yield


def _off(kind: str) -> AbstractContextManager[object]:
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


class _MatmulPrecision:
    """The precision of products of float32 matrices, which the whole process shares: held by the first, freed by the last."""

    def __init__(self) -> None:
        self.lock, self.holders, self.before = threading.Lock(), 0, ""

    def __enter__(self) -> None:
        with self.lock:
            if self.holders == 0:
                self.before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            self.holders += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.holders -= 1
            if self.holders == 0:
                torch.set_float32_matmul_precision(self.before)


_matmul_precision = _MatmulPrecision()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep products of float32 matrices in float32: distances lose all meaning in TF32 or under autocast."""
    if device.type == "cpu" and not torch.is_autocast_enabled("cpu"):  # nothing to hold, and blocks are many
        yield
        return
    with without_autocast(), _matmul_precision if device.type == "cuda" else nullcontext():
        yield
