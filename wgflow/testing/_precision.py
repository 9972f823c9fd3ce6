"""The same object in another precision: differences of rounded numbers say nothing in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from wgflow.core.placing import placed, tensors_in

__all__ = ["cast", "double_precision", "tensors_in"]

T = TypeVar("T")


@contextmanager
def double_precision() -> Iterator[None]:
    """Make float64 the default, for networks and measures that are made meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def cast(obj: T, dtype: torch.dtype) -> T:
    """Return a copy with the floating-point tensors, networks and dtypes that it holds in another precision."""
    return placed(obj, None, dtype)
