"""Methods: presets as recipes see them, with the options that a person can write as words and numbers."""

import ast
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union, cast

from wgflow import KERNELS, Flow, Kernel
from wgflow.core.docstrings import summary
from wgflow.core.errors import BadInput
from wgflow.core.registry import Registry, near_misses
from wgflow.core.rules import Range, resolved, rule_of
from wgflow.core.words import NOTHING, kinds, read, shortened
from wgflow.generative.settings import SETTINGS
from wgflow.presets import PRESETS, option_texts

NETWORKS_OF = ("generator", "critic", "noise", "reference")
METHOD = "method."
"""Before the name of an option, so that it is not taken for a field of a recipe."""
AUTO = "auto"
"""In the place of a batch: one that fits, which a training finds by trial."""
ROLES = ("target", "latent", "initial", "encoder", *NETWORKS_OF)
"""Parameters of a preset that the rest of a recipe gives: data, networks and where the flow starts."""
NAMED: Mapping[type, Registry[Any]] = {Kernel: KERNELS}
"""Classes whose objects are written by name, ``rbf(8.0)``."""
_PLAIN = (bool, int, float, str, type(None))
TEXTS = {
    "step_size": "Size of a time step.",
    "num_steps": "Time steps.",
    "batch": "Points in one draw, over all processes.",
    "kernel": "A kernel by its registered name, such as rbf(8.0).",
    "iters": "Updates in a time step.",
}
"""What options of these names are, where a preset does not say."""


@dataclass(frozen=True)
class Option:
    """One option of a preset that can be written as text.

    Attributes
    ----------
    name, about : str
        Its name, and what the preset says of it.
    hint : object
        The part of its annotation that can be written.
    default : object
        As a person would write it; None also where the preset's own is an object.
    needed : bool
        The preset has no default.
    own : object
        The default of the preset.

    Examples
    --------
    >>> from wgflow.generative.methods import method
    >>> kernel = method("svgd").options["kernel"]
    >>> kernel.read(" rbf(2.0) ", "kernel"), kernel.made("rbf(2.0)")
    ('rbf(2.0)', RBF(bandwidth=2.0))
    """

    name: str
    hint: Any
    default: Any
    about: str
    needed: bool = False
    own: Any = None

    @property
    def word(self) -> str:
        """What stands for a value in the help."""
        return _word(self.hint)

    def read(self, value: Any, name: str) -> Any:
        """Return a value as plain data, checked; raises ``BadInput`` that calls it ``name``."""
        if self.name == "batch" and value == AUTO:
            return AUTO
        if value is None or (
            isinstance(value, str) and value.strip().lower() in NOTHING and str not in kinds(self.hint)
        ):
            if self.default is None:
                return None
            value = None
        return _plain(self.hint, value, name)

    @property
    def tried(self) -> Any:
        """A value to try the preset with, where it has no default."""
        return "rbf(1.0)" if self.hint in NAMED else 1

    def unsaid(self, value: Any) -> bool:
        """Whether a value leaves it to the preset."""
        return value is None and type(None) not in kinds(self.hint)

    def made(self, value: Any) -> Any:
        """Return what the preset is given: a plain value itself, an object for its name."""
        registry = NAMED.get(self.hint)
        return value if registry is None else _called(registry, value, self.name)


def _plain(hint: Any, value: Any, name: str) -> Any:
    if hint in NAMED:
        if not isinstance(value, str):
            raise BadInput(
                f"{name}={shortened(value)}: expected the name of a {_word(hint)} with its numbers, such as rbf(8.0)"
            )
        _called(NAMED[hint], value, name)
        return value.strip()
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, (list, tuple)) or (parts[-1] is not ... and len(given) != len(parts)):
            raise BadInput(f"{name}={shortened(value)}: expected {len(parts)} values with commas between them")
        hints = [parts[0]] * len(given) if parts[-1] is ... else parts
        return tuple(_plain(h, v.strip() if isinstance(v, str) else v, name) for h, v in zip(hints, given, strict=True))
    plain, rule = read(hint, value, name), rule_of(hint)
    return plain if rule is None else rule(plain, f"{name}={{}}")


def _word(hint: Any) -> str:
    if hint in NAMED:
        return hint.__name__.lower()
    if typing.get_origin(hint) is tuple:
        return ",".join("..." if part is ... else _word(part) for part in typing.get_args(hint))
    choices = [
        c
        for part in (hint, *typing.get_args(hint))
        if typing.get_origin(part) is typing.Literal
        for c in typing.get_args(part)
    ]
    kind = next(k for k in kinds(hint) if k is not type(None))
    return "|".join(map(str, choices)) or {int: "n", float: "x", bool: "true|false", str: "text"}[kind]


def _called(registry: Registry[Any], text: str, name: str) -> Any:
    """Return the object that ``rbf(8.0)`` stands for: a registered name with plain numbers, nothing that is run."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if not isinstance(call.func, ast.Name):
            raise ValueError(text)
        values = [ast.literal_eval(a) for a in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise BadInput(f"{name}={shortened(text)}: expected a name with its numbers, such as rbf(8.0)") from error
    cls = registry[call.func.id]
    try:
        return cls(*values, **named)
    except TypeError as error:
        raise BadInput(f"{name}={shortened(text)}: {error}") from error


def _writable(annotation: Any) -> Any:
    """Return the part of an annotation that can be written as text, None where there is none."""
    if annotation in _PLAIN or annotation in NAMED:
        return annotation
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return annotation
    if origin is typing.Annotated:
        ours = any(isinstance(extra, Range) for extra in args[1:])
        return annotation if ours else _writable(args[0])
    if origin is tuple:
        parts = [part if part is ... else _writable(part) for part in args]
        return None if None in parts else tuple[tuple(parts)]  # type: ignore[misc]
    if origin in (Union, types.UnionType):
        parts = [part for part in map(_writable, args) if part is not None]
        some = [part for part in parts if part is not type(None)]
        if len(some) == 1 and (some[0] in NAMED or typing.get_origin(some[0]) is tuple):
            return some[0]
        return Union[tuple(parts)] if some else None  # noqa: UP007
    return None


@dataclass(frozen=True)
class Method:
    """A preset as recipes see it.

    Attributes
    ----------
    name, about : str
        Its name, and the first line of its docstring.
    preset : callable
        Returns the flow.
    roles : tuple of str
        Its parameters that the rest of a recipe gives.
    options : mapping
        What else it can be told, by name.

    Examples
    --------
    >>> from wgflow.generative.methods import method
    >>> method("mala").roles, sorted(method("mala").options)
    (('target', 'initial'), ['num_steps', 'step_size'])
    """

    name: str
    about: str
    preset: Callable[..., Flow]
    roles: tuple[str, ...]
    options: Mapping[str, Option] = field(repr=False)

    @property
    def defaults(self) -> dict[str, Any]:
        """What options are where they are not given: of :data:`SETTINGS`, or the preset's own."""
        settings = SETTINGS.get(self.name, {})
        return {name: settings.get(name, o.default) for name, o in self.options.items()}

    def takes(self, field: str) -> bool:
        """Whether a field of a recipe is for this method: networks, their average and a cloud are not for all."""
        asked = {
            "labels": "generator" in self.roles,
            "network": self.trains,
            "channels": self.trains,
            "compile": self.trains,
            "multipliers": "generator" in self.roles,
            "attention": "generator" in self.roles,
            "checkpointing": self.trains,
            "augment": "critic" in self.roles,
            "ema_half_life": self.averages,
            "particles": self.moves_images,
            "encoder": "encoder" in self.roles,
        }
        return asked.get(field, True)

    def check_extend(self, extend: int) -> None:
        """Raise ``BadInput`` where more time steps are asked for of a method that has a fixed number."""
        if extend and "num_steps" not in self.options:
            raise BadInput(
                f"extend={extend}: method {self.name} solves one time step, and more of them are another flow; begin anew with more "
                "iterations of that step instead"
            )

    @property
    def trains(self) -> bool:
        """Whether it trains networks of the recipe; else it moves the images themselves or makes its own."""
        return "generator" in self.roles or "critic" in self.roles

    @property
    def moves_images(self) -> bool:
        """Whether it moves a cloud of images, without a generator."""
        return "initial" in self.roles

    @property
    def averages(self) -> bool:
        """Whether the recipe says, by its half-life, how the generator is averaged."""
        return "ema" in inspect.signature(self.preset).parameters and "batch" in self.options


def method(name: str) -> Method:
    """Return the preset called ``name`` as a method; raises ``BadInput`` with near misses, or where recipes cannot say what it needs."""
    if name not in PRESETS:
        raise BadInput(f"no method is called {shortened(name)}: {near_misses(name, [m.name for m in methods()])}")
    found = _method(name, cast(Any, PRESETS[name]))
    if isinstance(found, str):
        raise BadInput(
            f"method {name} cannot be said in a recipe: {found}. Compose it in Python and train it with fit()"
        )
    return found


def methods() -> Iterator[Method]:
    """Yield the presets that recipes can name."""
    for name in PRESETS:
        found = _method(name, cast(Any, PRESETS[name]))
        if isinstance(found, Method):
            yield found


@functools.cache
def _method(name: str, preset: Any) -> Method | str:
    """Read the signature of a preset; returns the reason where a recipe cannot give what it needs."""
    texts, options, roles = option_texts(preset), dict[str, Option](), list[str]()
    for p in inspect.signature(preset).parameters.values():
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        hint = _writable(resolved(p.annotation, preset.__module__))
        if p.annotation is p.empty and isinstance(p.default, (bool, int, float, str)):
            hint = type(p.default)
        if p.name in ROLES and hint is None:
            roles.append(p.name)
            continue
        needed = p.default is p.empty
        if hint is None:
            if needed:
                return f"{p.name} is an object that no text stands for"
            continue
        plain = needed or isinstance(p.default, (*_PLAIN, tuple))
        default = p.default if plain and not needed else None
        about = texts.get(p.name) or TEXTS.get(p.name, f"{p.name.replace('_', ' ').capitalize()} of the method.")
        if p.name == "batch":
            about += f" {AUTO}: the default, halved until the memory holds it."
        options[p.name] = Option(p.name, hint, default, about, needed, p.default)
    if "target" not in roles:
        return "it has no parameter target"
    if "batch" in options:
        options.pop("ema", None)
    return Method(name, summary(preset), preset, tuple(roles), options)
