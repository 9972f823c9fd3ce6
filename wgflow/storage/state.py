"""Saving and restoring everything that changes: tensors, networks, generators and nested dataclasses.

``state_dict`` turns a live object into plain containers of tensors, numbers and strings (what
``torch.load(weights_only=True)`` accepts); ``load_state`` fills a freshly initialized object of the same make.
Networks and optimizers are filled in place, so that aliases (an optimizer and its parameters) survive; tensors and
numbers are replaced.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import CheckpointError
from wgflow.core.inner import Carried
from wgflow.measures import Particles

_PLAIN = (int, float, str, bool, type(None))
_LOGS = ("log_w", "log_rho")
_SMALL = 2**10
"""Bytes of a storage that are no loss."""


def state_dict(obj: Any) -> Any:
    """Return the plain form of ``obj``.

    Raises
    ------
    CheckpointError
        For an object that has no plain form.
    """
    if isinstance(obj, Tensor):
        return obj.detach()
    if isinstance(obj, torch.Generator):
        return obj.get_state()
    if hasattr(obj, "state_dict"):
        return obj.state_dict()
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: state_dict(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, dict):
        return {key: state_dict(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [state_dict(value) for value in obj]
    if isinstance(obj, _PLAIN):
        return obj
    raise CheckpointError(f"{type(obj).__name__} cannot be saved: give it state_dict() and load_state_dict()")


def alone(value: Any) -> Any:
    """Return tensors, particles, and lists and dictionaries of them without what else their storages hold.

    A slice keeps the whole tensor that it is of in memory, and is written with all of it: parts of larger tensors are copied.
    """
    if isinstance(value, Tensor):
        part = value.layout == torch.strided and value.untyped_storage().nbytes() > max(value.nbytes, _SMALL)
        return value.clone() if part else value
    if isinstance(value, Particles):
        held = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        found = {name: alone(t) for name, t in held.items()}
        return value if all(found[name] is held[name] for name in held) else dataclasses.replace(value, **found)
    if type(value) is dict:
        return {key: alone(v) for key, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(alone, value))
    return value


def plain(saved: Any, where: str, held: Callable[[Tensor], Tensor] = alone) -> Any:
    """Return ``saved`` with NumPy's scalars as Python numbers, and for every tensor what ``held`` makes of it.

    Raises
    ------
    CheckpointError
        Naming what ``torch.load(weights_only=True)`` could not read back.
    """
    if isinstance(saved, Tensor):
        return held(saved)
    if saved is None:
        return saved
    if isinstance(saved, dict):
        kept = copy.copy(saved)  # with the version numbers that nn.Module.state_dict() attaches
        kept.update({key: plain(value, f"{where}[{key!r}]", held) for key, value in saved.items()})
        return kept
    if isinstance(saved, (list, tuple)):
        entries = [plain(value, f"{where}[{i}]", held) for i, value in enumerate(saved)]
        return tuple(entries) if isinstance(saved, tuple) else entries
    if isinstance(saved, np.generic):
        saved = saved.item()
    for kind in (bool, int, float, str):
        if isinstance(saved, kind):
            return kind(saved)
    name = f"{type(saved).__module__}.{type(saved).__qualname__}"
    raise CheckpointError(f"{where} is a {name}: checkpoints hold tensors, numbers, strings, lists and dicts only")


def on_host(saved: Any) -> tuple[Any, Callable[[], None]]:
    """Return a plain form with copies of its tensors on the host, and a function that waits until they are there.

    Tensors that share their storage do so again. A GPU copies into pinned memory in the order of its work, for which nobody waits.
    """
    copies: dict[tuple[torch.device, int, int], torch.UntypedStorage] = {}

    def copied(t: Tensor) -> Tensor:
        if t.layout != torch.strided or t.is_conj() or t.is_neg():
            return t.to("cpu", copy=True)
        storage = t.untyped_storage()
        key = storage.device, storage.data_ptr(), storage.nbytes()  # arrays of NumPy may begin at one place
        if key not in copies:
            content = torch.empty(0, dtype=torch.uint8, device=t.device).set_(storage)  # type: ignore[call-overload]
            room = torch.empty(len(content), dtype=torch.uint8, pin_memory=t.is_cuda)
            copies[key] = room.copy_(content, non_blocking=t.is_cuda).untyped_storage()
        there = torch.empty(0, dtype=t.dtype)
        return there.set_(copies[key], t.storage_offset(), t.shape, t.stride())  # type: ignore[call-overload]

    held = plain(saved, "saved", copied)
    cards = {device for device, *_ in copies if device.type == "cuda"}
    arrived = [torch.cuda.current_stream(device).record_event() for device in cards]

    def wait() -> None:
        for event in arrived:
            event.synchronize()

    return held, wait


def load_state(obj: Any, saved: Any, where: str = "state", device: torch.device | str = "cpu") -> Any:
    """Fill ``obj`` from ``saved`` and return it (or the value that replaces it).

    A tensor goes to the device of the one it replaces, or to ``device`` where there was None: a log density that is
    not known any more, weights that there are by now.

    Raises
    ------
    CheckpointError
        When the two do not have the same make; the message names the place.
    """
    if isinstance(obj, (Tensor, type(None))) and isinstance(saved, (Tensor, type(None))):
        return None if saved is None else saved.to(device if obj is None else obj.device)
    if isinstance(obj, Tensor):
        raise CheckpointError(f"{where}: a tensor was expected, the checkpoint holds {type(saved).__name__}")
    if isinstance(obj, torch.Generator):
        try:
            obj.set_state(saved.cpu())
        except (RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{where}: {error}") from error
        return obj
    if hasattr(obj, "load_state_dict"):
        try:
            obj.load_state_dict(saved)
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{where}: {error}") from error
        return obj
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
        saved = _with_later_fields(obj, saved)
        _same_keys(fields, saved, where)
        new = {name: load_state(value, saved[name], f"{where}.{name}", device) for name, value in fields.items()}
        return dataclasses.replace(obj, **new)
    if isinstance(obj, dict):
        _same_keys(obj, saved, where)
        return {key: load_state(value, saved[key], f"{where}[{key!r}]", device) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        if not isinstance(saved, list) or len(saved) != len(obj):
            raise CheckpointError(f"{where}: {len(obj)} entries were expected, the checkpoint holds {saved!r:.60}")
        pairs = enumerate(zip(obj, saved, strict=True))
        return type(obj)(load_state(v, s, f"{where}[{i}]", device) for i, (v, s) in pairs)
    if isinstance(obj, _PLAIN) and isinstance(saved, _PLAIN):
        return saved
    raise CheckpointError(f"{where}: cannot restore {type(obj).__name__} from {type(saved).__name__}")


def _with_later_fields(obj: Any, saved: Any) -> Any:
    """Return what was saved with the defaults of numbers, and of what solvers begin with, that a state has got since."""
    if not isinstance(saved, dict):
        return saved
    fields = dataclasses.fields(obj)
    later = {f.name: f.default for f in fields if type(f.default) in (int, float)}
    return later | {f.name: {} for f in fields if f.default_factory is Carried} | saved


def _same_keys(have: dict, saved: Any, where: str) -> None:
    if not isinstance(saved, dict) or saved.keys() != have.keys():
        found = sorted(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
        raise CheckpointError(f"{where}: expected the entries {sorted(map(str, have))}, the checkpoint has {found}")


def first_nonfinite(saved: Any) -> str | None:
    """Name of the first floating-point tensor of a plain form with an entry that is not finite; None if there is none.

    Log weights and log densities may be minus infinity. Waits for the device once when all is well.
    """
    named = [(name, t) for name, t in _named(saved) if t.is_floating_point()]
    good = [(torch.isfinite(t) | (t == -torch.inf) if n.endswith(_LOGS) else torch.isfinite(t)).all() for n, t in named]
    device = next((t.device for t in good if t.is_cuda), torch.device("cpu"))
    if not good or bool(torch.stack([g.to(device) for g in good]).all()):
        return None
    return next(name for (name, _), g in zip(named, good, strict=True) if not g)


def _named(saved: Any, where: str = "state") -> list[tuple[str, Tensor]]:
    if isinstance(saved, Tensor):
        return [(where, saved)]
    if isinstance(saved, dict):
        return [pair for key, value in saved.items() for pair in _named(value, f"{where}.{key}")]
    if isinstance(saved, (list, tuple)):
        return [pair for i, value in enumerate(saved) for pair in _named(value, f"{where}[{i}]")]
    return []


def tensors(saved: Any) -> list[Tensor]:
    """Every tensor in a plain form, in order."""
    return [t for _, t in _named(saved)]
