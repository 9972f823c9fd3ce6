"""Plain descriptions of configurations, to tell one run from another."""

import dataclasses
import functools
from typing import Any

from torch import Tensor, nn

from wgflow.measures import Measure


def describe(obj: Any) -> Any:
    """Return numbers, strings, lists and dictionaries that two equal configurations share.

    Networks are described by class and parameter count, measures by class and point shape, functions by name.
    """
    if isinstance(obj, (int, float, str, bool, type(None))):
        return obj
    if isinstance(obj, Tensor):
        return f"tensor {tuple(obj.shape)} {obj.dtype}"
    if isinstance(obj, nn.Module):
        return f"{type(obj).__qualname__} with {sum(p.numel() for p in obj.parameters())} parameters"
    if isinstance(obj, (list, tuple)):
        return [describe(v) for v in obj]
    if isinstance(obj, functools.partial):
        return [describe(obj.func), describe(obj.args), {k: describe(v) for k, v in obj.keywords.items()}]
    name = type(obj).__qualname__
    if isinstance(obj, Measure) and not dataclasses.is_dataclass(obj):
        return f"{name} on {tuple(obj.event_shape)}"
    if dataclasses.is_dataclass(obj):
        fields = [f for f in dataclasses.fields(obj) if not f.name.startswith("_")]
        return {"class": name} | {f.name: describe(getattr(obj, f.name)) for f in fields}
    return getattr(obj, "__qualname__", name)


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Return where two descriptions differ, as sentences."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in ours.keys() | theirs.keys():
            found += differences(ours.get(key), theirs.get(key), f"{where}.{key}" if where else str(key))
        return sorted(found)
    return [] if ours == theirs else [f"{where} is {ours!r} here and {theirs!r} there"]
