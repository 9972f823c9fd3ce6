"""The same object in another precision: differences of rounded numbers say nothing in float32."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wgflow.core.fields import Checked

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
    """Return a copy with the floating-point tensors, networks and dtypes that it holds in another precision.

    It looks into what wgflow defines, dataclasses, containers and bound methods. What a function has closed over stays as it is.
    """
    return _cast(obj, dtype)


def tensors_in(obj: Any) -> Iterator[Tensor]:
    """Yield the tensors, and the weights of the networks, that an object holds where :func:`cast` looks."""
    if isinstance(obj, Tensor):
        yield obj
    elif isinstance(obj, nn.Module):
        yield from (*obj.parameters(), *obj.buffers())
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            yield from tensors_in(value)
    elif isinstance(obj, dict):
        yield from tensors_in(list(obj.values()))
    elif isinstance(obj, MethodType):
        yield from tensors_in(obj.__self__)
    elif _holds_fields(obj):
        yield from tensors_in(list(vars(obj).values()))


def _holds_fields(obj: Any) -> bool:
    return isinstance(obj, Checked) or (dataclasses.is_dataclass(obj) and not isinstance(obj, type))


def _cast(obj: Any, dtype: torch.dtype) -> Any:
    if isinstance(obj, Tensor):
        return obj.detach().to(dtype) if obj.is_floating_point() else obj
    if isinstance(obj, torch.dtype):
        return dtype if obj.is_floating_point else obj
    if isinstance(obj, nn.Module):
        return copy.deepcopy(obj).to(dtype)
    if isinstance(obj, dict):
        return {key: _cast(value, dtype) for key, value in obj.items()}
    if type(obj) in (list, tuple):
        return type(obj)(_cast(value, dtype) for value in obj)
    if isinstance(obj, MethodType):
        return MethodType(obj.__func__, _cast(obj.__self__, dtype))
    if _holds_fields(obj):
        made = copy.copy(obj)
        for name, value in vars(obj).items():
            object.__setattr__(made, name, _cast(value, dtype))
        return made
    return obj
