"""The same part of a flow on another device or in another precision: the one walk over all that it holds."""

import copy
import dataclasses
import functools
from collections.abc import Iterator
from types import MethodType
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Device, FloatingPoint, checked

T = TypeVar("T")


class Placed:
    """A part of a flow, which can be moved as a whole to another device or precision."""

    is_part: ClassVar[bool] = True
    """It is never taken for a function, whatever its call does."""
    goes_to: ClassVar[str] = ""
    """Where such a part belongs, said where it is given in another place."""
    stays: ClassVar[frozenset[str]] = frozenset()
    """Names of what it holds that stays on its device when the part is moved."""

    @checked
    def to(self, device: Device | FloatingPoint | None = None, dtype: FloatingPoint | None = None) -> Self:
        r"""Return a copy on a device, in a floating-point type, or both; ``self`` stays as it is.

        Moved are the tensors, networks, optimizers and dtypes that it holds, and what these hold in turn. What a function has closed
        over cannot be seen and stays where it is: a factory of networks is called as before, and a potential ``lambda x: (x - m)...``
        goes on with its ``m``. Tensors that are there already are shared, networks are always copied.

        Parameters
        ----------
        device : torch.device or str, optional
            Such as ``"cuda"``. A dtype may stand in its place, as in PyTorch.
        dtype : torch.dtype, optional
            A floating-point type, such as ``torch.float64``. Integers and images of 8 bits stay what they are.

        Examples
        --------
        >>> import torch
        >>> import wgflow as wg
        >>> F = wg.EnergyDistance(wg.Particles(torch.zeros(3, 2))).to(torch.float64)
        >>> F.target.x.dtype
        torch.float64
        """
        if isinstance(device, torch.dtype):
            if dtype is not None:
                raise BadInput(f"to({device}, {dtype}): expected one dtype")
            device, dtype = None, device
        return placed(self, device, dtype)

    def double(self) -> Self:
        """Return a copy in ``torch.float64``, as :meth:`to` does."""
        return placed(self, None, torch.float64)


def placed(part: T, device: torch.device | str | None, dtype: torch.dtype | None) -> T:
    """Return a copy of anything that a flow is made of on another device, in another precision; None leaves either."""
    where = None if device is None else torch.empty(0, device=device).device
    return _Placing(where, dtype).of(part)


class _Placing:
    """A copy in progress. Two places that hold one object hold one copy of it: an optimizer and the network that it trains."""

    def __init__(self, device: torch.device | None, dtype: torch.dtype | None) -> None:
        self.device, self.dtype = device, dtype
        self.made: dict[int, Any] = {}
        self.alive: list[Any] = []

    def of(self, obj: Any) -> Any:
        if id(obj) in self.made:
            return self.made[id(obj)]
        new = self._new(obj)
        if new is not obj:
            self.made[id(obj)] = new
            self.alive.append(obj)  # nobody else can have its address then
        return new

    def _new(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return self._tensor(obj)
        if isinstance(obj, torch.dtype):
            return self.dtype if self.dtype is not None and obj.is_floating_point else obj
        if isinstance(obj, torch.device):
            return obj if self.device in (None, obj) else self.device
        if isinstance(obj, torch.Generator):
            return self._generator(obj)
        if isinstance(obj, nn.Module):
            return self._network(obj)
        if isinstance(obj, torch.optim.Optimizer):
            return self._optimizer(obj)
        if isinstance(obj, dict):
            return self._same(obj, {key: self.of(value) for key, value in obj.items()})
        if type(obj) in (list, tuple):
            return self._same(obj, type(obj)(map(self.of, obj)))
        if isinstance(obj, MethodType):
            holder = self.of(obj.__self__)
            return obj if holder is obj.__self__ else MethodType(obj.__func__, holder)
        if isinstance(obj, functools.partial):
            func, args, keywords = parts = self.of((obj.func, obj.args, obj.keywords))
            same = all(a is b for a, b in zip(parts, (obj.func, obj.args, obj.keywords), strict=True))
            return obj if same else functools.partial(func, *args, **keywords)
        if _holds_parts(obj):
            return self._object(obj)
        return obj

    def _tensor(self, t: Tensor) -> Tensor:
        new = t.detach().to(self.device, self.dtype if t.is_floating_point() else None)
        if new.dtype == t.dtype and new.device == t.device:
            return t
        if isinstance(t, nn.Parameter):
            return nn.Parameter(new, t.requires_grad)
        return new.requires_grad_(t.requires_grad)

    def _generator(self, rng: torch.Generator) -> torch.Generator:
        """A copy that stands where it stands; on a device of another type one that begins at a hash of that."""
        from wgflow.core.rng import aside, generator

        device = self.device or rng.device
        if device.type != rng.device.type:
            return generator(aside(rng).initial_seed(), device)
        return generator(0, device).set_state(rng.get_state())

    def _network(self, net: nn.Module) -> nn.Module:
        new = copy.deepcopy(net, self.made).to(self.device, self.dtype)
        self.made |= {id(a): b for a, b in zip(_weights(net), _weights(new), strict=True)}
        for old, made in zip(net.parameters(), new.parameters(), strict=True):
            made.grad = None if old.grad is None else old.grad.to(made)
        for module in new.modules():
            for name, value in vars(module).items():
                if _holds_parts(value):
                    setattr(module, name, self.of(value))
        return new

    def _optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        new, saved = copy.copy(optimizer), copy.deepcopy(optimizer.state_dict())
        new.param_groups = [{**g, "params": list(map(self.of, g["params"]))} for g in optimizer.param_groups]
        new.state = type(optimizer.state)(dict)
        new.load_state_dict(saved)  # which knows what of a state has the type of its weights
        return new

    def _object(self, obj: Any) -> Any:
        computed = _computed(obj)
        held = {n: v for n, v in vars(obj).items() if n not in computed and not hasattr(v, "placed_anew")}
        stays, here = getattr(type(obj), "stays", frozenset[str]()), _Placing(None, self.dtype)
        new = {name: (here if name in stays else self).of(value) for name, value in held.items()}
        if all(new[name] is value for name, value in held.items()):
            return obj
        made = copy.copy(obj)
        for name, value in vars(obj).items():
            if name in computed:
                del vars(made)[name]
            else:
                object.__setattr__(made, name, new[name] if name in new else value.placed_anew())
        return made

    @staticmethod
    def _same(old: Any, new: Any) -> Any:
        pairs = zip(old.values(), new.values(), strict=True) if isinstance(old, dict) else zip(old, new, strict=True)
        return old if all(a is b for a, b in pairs) else new


def tensors_in(obj: Any) -> Iterator[Tensor]:
    """Yield the tensors, and the weights of the networks, that a part of a flow holds where :func:`placed` looks."""
    if isinstance(obj, Tensor):
        yield obj
    elif isinstance(obj, nn.Module):
        yield from _weights(obj)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            yield from tensors_in(value)
    elif isinstance(obj, dict):
        yield from tensors_in(list(obj.values()))
    elif isinstance(obj, MethodType):
        yield from tensors_in(obj.__self__)
    elif isinstance(obj, functools.partial):
        yield from tensors_in([obj.args, obj.keywords])
    elif _holds_parts(obj) and not hasattr(obj, "placed_anew"):
        yield from tensors_in([value for name, value in vars(obj).items() if name not in _computed(obj)])


def _weights(net: nn.Module) -> list[Tensor]:
    return [*net.parameters(), *net.buffers()]


def _holds_parts(obj: Any) -> bool:
    if isinstance(obj, type) or not hasattr(obj, "__dict__") or callable(getattr(obj, "__wrapped__", None)):
        return False
    ours = type(obj).__module__.startswith("wgflow.")
    return isinstance(obj, Placed) or dataclasses.is_dataclass(obj) or ours


def _computed(obj: Any) -> frozenset[str]:
    """Names under which an object keeps what it has computed: it is computed again from what was moved."""
    cls: Any = type(obj)
    return _computed_by(cls)


@functools.cache
def _computed_by(cls: Any) -> frozenset[str]:
    return frozenset(n for c in cls.__mro__ for n, v in vars(c).items() if isinstance(v, functools.cached_property))
