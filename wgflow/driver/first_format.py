"""Descriptions of runs as the first format of checkpoints has them: they tell less apart, and are compared as they were made."""

import dataclasses
import functools
import zlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wgflow.measures import Measure

if TYPE_CHECKING:
    from wgflow.driver.run import Run

_DIGESTED = 2**16


def describe_run(run: "Run") -> dict[str, Any]:
    """Return what made two runs the same one."""
    return {
        "functional": _describe(run.F),
        "solver": _describe(run.solver),
        "step_size": _describe(run.step_size),
        "seed": run.seed,
        "measure": _describe(run.state.measure),
    }


def _describe(obj: Any) -> Any:
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
        return [_describe(v) for v in obj]
    if isinstance(obj, functools.partial):
        return [_describe(obj.func), _describe(obj.args), {k: _describe(v) for k, v in obj.keywords.items()}]
    name = type(obj).__qualname__
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {"class": name} | _public({f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)})
    if isinstance(obj, Measure):
        return {"class": name} | _public(vars(obj))
    return getattr(obj, "__qualname__", name)


def _public(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: _describe(value) for name, value in attributes.items() if not name.startswith("_")}


def _digest(t: Tensor) -> int:
    entries = t.detach().reshape(-1)[:: max(1, t.numel() // _DIGESTED)].cpu().contiguous()
    return zlib.crc32(entries.view(torch.uint8).numpy().tobytes())
