"""Plain descriptions of configurations, to tell one run from another."""

import copyreg
import enum
import functools
import hashlib
import math
import threading
import weakref
from collections.abc import Iterator
from functools import singledispatchmethod
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wgflow.core.compiling import MARK
from wgflow.core.moved import told_name
from wgflow.storage.code import attributes, code_digest, globals_read, held_in, is_library, members

UNKNOWN = "cannot tell"
# Levels, objects and entries beyond which a description says that it cannot be told, or that it is a digest.
_DEEP, _MANY, _LONG = 60, 20_000, 100
_CONTAINERS = (dict, list, tuple, set, frozenset)
_OF_ANY_NETWORK = (vars(nn.Module()).keys() | {MARK, "_compiled_call_impl"}) - {"training"}


def describe(obj: Any) -> Any:
    """Return numbers, strings, lists and dictionaries that two equal configurations share, in this process or another.

    Objects are described by their class and all attributes but cached values; classes and functions of installed packages by
    name, others by their code as well, with defaults, closures and the globals that they read; networks by class, settings,
    weights and buffers; tensors and arrays by shape, dtype and a digest of all entries. A class whose objects hold more than
    decides a run says what does, by a method ``run_identity()``. Where an object does not show what it holds, its description
    says that it cannot be told.
    """
    return _Description().of(obj)


def digest(obj: Any) -> str:
    """Return the digest of a description: what stands for code in a name."""
    return _digest(repr(describe(obj)).encode())


class _Description:
    """A description in progress: what it is inside of, and what it has described already."""

    def __init__(self) -> None:
        self.inside: list[int] = []
        self.known: dict[int, tuple[Any, Any]] = {}  # with the object: nobody else can have its address then

    def of(self, obj: Any) -> Any:
        if obj is None:
            return None
        if isinstance(obj, enum.Enum):
            return f"{type(obj).__qualname__}.{obj.name}"
        identity = getattr(type(obj), "run_identity", None)
        if identity is not None:
            return self.of(identity(obj))
        if isinstance(obj, float) and math.isnan(obj):
            return "nan"
        for plain in (bool, int, float, str):
            if isinstance(obj, plain):
                return plain(obj)
        if id(obj) in self.known:
            return self.known[id(obj)][1]
        if id(obj) in self.inside:
            return f"what it is part of, {len(self.inside) - self.inside.index(id(obj))} levels up"
        if len(self.inside) > _DEEP or len(self.known) > _MANY:
            return {UNKNOWN: "which holds too much to look through"}
        self.inside.append(id(obj))
        try:
            ours = isinstance(obj, _CONTAINERS) and not is_library(type(obj))
            found = self.anything(obj) if ours else self.look(obj)
        finally:
            self.inside.pop()
        self.known[id(obj)] = obj, found
        return found

    def all(self, named: dict[str, Any]) -> dict[str, Any]:
        return {name: self.of(value) for name, value in named.items()}

    @singledispatchmethod
    def look(self, obj: Any) -> Any:
        return self.anything(obj)

    def anything(self, obj: Any) -> Any:
        """Any object: its class, its entries, and its attributes or what it would be made of again."""
        cls = type(obj)
        head = {"class": cls.__qualname__, **self.code(cls)}
        registered = copyreg.dispatch_table.get(cls)
        try:
            made = obj.__reduce_ex__(4) if registered is None else registered(obj)
        except Exception:  # whatever a class of somebody's says of itself
            return {UNKNOWN: f"a {cls.__module__}.{cls.__qualname__}"}
        if isinstance(made, str):
            return head | {"name": made}
        kind = next((k for k in _CONTAINERS if isinstance(obj, k)), None)
        entries = [kind(obj)] if kind else [list(part) for part in made[3:5] if part is not None]
        if entries:
            head["entries"] = self.of(entries)
        if registered is None and cls.__reduce_ex__ is object.__reduce_ex__ and cls.__reduce__ is object.__reduce__:
            return head | self.all(dict(sorted(attributes(obj).items())))
        return head | {"made of": [self.of(part) for part in made[:3]]}

    @look.register
    def _(self, t: Tensor) -> Any:
        kind = f"tensor {tuple(t.shape)} {t.dtype}"
        if t.layout != torch.strided or t.is_quantized or t.is_meta:
            return {UNKNOWN: f"a {t.layout} {kind}"}
        seen = hashlib.sha256()
        rows = torch.atleast_1d(t.detach().resolve_conj().resolve_neg())
        for part in rows.split(max(1, 2**24 * len(rows) // max(rows.numel(), 1))):  # never a copy of the whole
            seen.update(part.reshape(-1).cpu().contiguous().view(torch.uint8).numpy().data)
        return f"{kind} {seen.hexdigest()[:16]}"

    @look.register
    def _(self, a: np.ndarray) -> Any:
        if a.dtype.hasobject:
            return self.of(a.tolist())
        return f"array {a.shape} {a.dtype} {_digest(np.ascontiguousarray(a).tobytes())}"

    @look.register
    def _(self, x: np.generic) -> Any:
        return self.of(x.item())

    @look.register(bytes)
    @look.register(bytearray)
    @look.register(memoryview)
    def _(self, b: bytes | bytearray | memoryview) -> Any:
        return f"{len(bytes(b))} bytes {_digest(bytes(b))}"

    @look.register(torch.dtype)
    @look.register(np.dtype)
    @look.register(complex)
    def _(self, x: Any) -> Any:
        return str(x)

    @look.register
    def _(self, d: torch.device) -> Any:
        return d.type

    @look.register(list)
    @look.register(tuple)
    def _(self, values: list | tuple) -> Any:
        found = [self.of(v) for v in values]
        if len(found) > _LONG and all(isinstance(v, (bool, int, float, str)) for v in found):
            return f"{len(found)} entries {_digest(repr(found).encode())}"
        return found

    @look.register(set)
    @look.register(frozenset)
    def _(self, values: set | frozenset) -> Any:
        return {"set": sorted((self.of(v) for v in values), key=repr)}

    @look.register(dict)
    @look.register(MappingProxyType)
    def _(self, values: Any) -> Any:
        return {k if isinstance(k, str) else repr(self.of(k)): self.of(v) for k, v in values.items()}

    @look.register
    def _(self, f: FunctionType) -> Any:
        if getattr(f, "asked_at_points", False):  # a check around a method: the method decides, in the check's place
            return self.look(f.__wrapped__)  # type: ignore[attr-defined]
        if hasattr(f, "_torchdynamo_orig_callable"):  # of torch.compile
            return self.of(f._torchdynamo_orig_callable)
        held: dict[str, Any] = {"function": f.__qualname__}
        if is_library(f):
            held["function"] = f"{told_name(f.__module__)}.{f.__qualname__}"
        else:
            held |= {"code": code_digest(f), "globals": self.all(globals_read(f))}
        held["closure"] = self.all(dict(zip(f.__code__.co_freevars, map(held_in, f.__closure__ or ()), strict=True)))
        held["defaults"] = self.of(list(f.__defaults__ or ()))
        held["keywords"] = self.of(f.__kwdefaults__ or {})
        held["attributes"] = self.all(
            {k: v for k, v in vars(f).items() if k != "__wrapped__"}
        )  # that is in its closure
        return {name: value for name, value in held.items() if value not in ({}, [])}

    @look.register
    def _(self, m: MethodType) -> Any:
        return {"function": self.of(m.__func__), "self": self.of(m.__self__)}

    @look.register
    def _(self, f: BuiltinFunctionType) -> Any:
        if f.__self__ is None or isinstance(f.__self__, (ModuleType, type)):
            return {"function": f"{f.__module__}.{f.__qualname__}"}
        return {"function": f.__qualname__, "self": self.of(f.__self__)}

    @look.register
    def _(self, p: functools.partial) -> Any:
        return {"function": self.of(p.func), "arguments": self.of(p.args), "keywords": self.of(p.keywords)}

    @look.register(type(functools.cache(len)))
    def _(self, f: Any) -> Any:
        return self.of(f.__wrapped__)

    @look.register(classmethod)
    @look.register(staticmethod)
    def _(self, f: Any) -> Any:
        return self.of(f.__func__)

    @look.register
    def _(self, p: property) -> Any:
        return [self.of(p.fget), self.of(p.fset)]

    @look.register
    def _(self, module: ModuleType) -> Any:
        return told_name(module.__name__)

    @look.register(type(threading.Lock()))
    @look.register(type(threading.RLock()))
    @look.register(weakref.ReferenceType)
    def _(self, obj: Any) -> Any:
        return type(obj).__name__

    @look.register
    def _(self, cls: type) -> Any:
        """What a class of the user's does, as one digest with those of its bases; one of a library by name."""
        held = [self.all(members(c)) for c in cls.__mro__ if not is_library(c)]
        if not held:
            return cls.__qualname__
        found = {"class": cls.__qualname__, "code": _digest(repr(held).encode())}
        unknown = next(_unknown(held), None)
        return found | ({"part of it": unknown} if unknown else {})

    def code(self, cls: type) -> dict[str, Any]:
        """The part of a class's description that its objects have as well."""
        found = self.of(cls)
        return {} if isinstance(found, str) else {name: value for name, value in found.items() if name != "class"}

    @look.register
    def _(self, net: nn.Module) -> Any:
        if hasattr(net, "_orig_mod"):  # of torch.compile
            return self.of(net._orig_mod)
        if isinstance(net, torch.jit.ScriptModule):
            return {"class": "ScriptModule", "graph": _digest(str(net.inlined_graph).encode()), **self.weights(net)}
        settings = {name: value for name, value in attributes(net).items() if name not in _OF_ANY_NETWORK}
        hooks = {name: list(vars(net)[name].values()) for name in ("_forward_hooks", "_forward_pre_hooks")}
        settings |= {name: held for name, held in hooks.items() if held}
        parts = dict(net.named_children())
        return {
            "class": type(net).__qualname__,
            **self.code(type(net)),
            **self.all(settings | parts),
            **self.weights(net),
        }

    def weights(self, net: nn.Module) -> dict[str, Any]:
        fixed = {name: "fixed" for name, p in net.named_parameters(recurse=False) if not p.requires_grad}
        held = dict((*net.named_parameters(recurse=False), *net.named_buffers(recurse=False)))
        return self.all(held) | {f"{name} is": how for name, how in fixed.items()}

    @look.register
    def _(self, optimizer: torch.optim.Optimizer) -> Any:
        return {"class": type(optimizer).__qualname__, "state": self.of(optimizer.state_dict())}

    @look.register
    def _(self, rng: torch.Generator) -> Any:
        return {"class": "Generator", "state": self.of(rng.get_state())}


def _digest(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _unknown(found: Any) -> Iterator[dict[str, str]]:
    if isinstance(found, dict) and UNKNOWN in found:
        yield found
    for value in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from _unknown(value)


def differences(ours: Any, theirs: Any, where: str = "", settled: bool = False) -> list[str]:
    """Return where two descriptions differ, as sentences.

    ``settled`` leaves out what code, closures and private attributes decide: who gave the run a name answers for them.
    """
    marks = [d[UNKNOWN] for d in (ours, theirs) if isinstance(d, dict) and UNKNOWN in d]
    if marks:
        return [] if settled else [f"whether {where}, {marks[0]}, is the same cannot be told"]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if settled and any("function" in d and "class" not in d for d in (ours, theirs)):
            return []
        if ours.get("class") != theirs.get("class"):
            ours, theirs = {"class": ours.get("class")}, {"class": theirs.get("class")}
        found = []
        for key in ours.keys() | theirs.keys():
            if not (settled and (key.startswith("_") or key == "code")):
                path = f"{where}.{key}" if where else str(key)
                found += differences(ours.get(key), theirs.get(key), path, settled)
        return sorted(found)
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [s for i, (a, b) in pairs for s in differences(a, b, f"{where}[{i}]", settled)]
    return [] if ours == theirs else [f"{where} is {_short(ours)} here and {_short(theirs)} there"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
