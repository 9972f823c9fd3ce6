"""Plain descriptions of configurations, to tell one run from another."""

import dataclasses
import functools
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from wgflow.measures import Measure

_DIGESTED = 2**16


def describe(obj: Any) -> Any:
    """Return numbers, strings, lists and dictionaries that two equal configurations share.

    Networks are described by class and parameter count, functions by name, tensors by shape, dtype and a digest of at
    least 65,536 entries spread over them (of all, where there are fewer), measures by their public attributes.
    """
    for plain in (bool, int, float, str):
        if isinstance(obj, plain):
            return plain(obj)
    if obj is None:
        return None
    if isinstance(obj, Tensor):
        return f"tensor {tuple(obj.shape)} {obj.dtype} {_digest(obj):08x}"
    if isinstance(obj, (torch.dtype, torch.device)):
        return str(obj)
    if isinstance(obj, nn.Module):
        return f"{type(obj).__qualname__} with {sum(p.numel() for p in obj.parameters())} parameters"
    if isinstance(obj, (list, tuple)):
        return [describe(v) for v in obj]
    if isinstance(obj, functools.partial):
        return [describe(obj.func), describe(obj.args), {k: describe(v) for k, v in obj.keywords.items()}]
    name = type(obj).__qualname__
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {"class": name} | _public({f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)})
    if isinstance(obj, Measure):
        return {"class": name} | _public(vars(obj))
    return getattr(obj, "__qualname__", name)


def _public(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: describe(value) for name, value in attributes.items() if not name.startswith("_")}


def _digest(t: Tensor) -> int:
    entries = t.detach().reshape(-1)[:: max(1, t.numel() // _DIGESTED)].cpu().contiguous()
    return zlib.crc32(entries.view(torch.uint8).numpy().tobytes())


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Return where two descriptions differ, as sentences."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in ours.keys() | theirs.keys():
            found += differences(ours.get(key), theirs.get(key), f"{where}.{key}" if where else str(key))
        return sorted(found)
    return [] if ours == theirs else [f"{where} is {ours!r} here and {theirs!r} there"]
