"""What rooms export and API pages list says what it takes, returns and raises, and shows itself in an example."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import wgflow

PAGES = Path(__file__).parents[2] / "docs" / "api"
ROOMS = (
    "wgflow",
    "wgflow.estimators",
    "wgflow.functionals",
    "wgflow.kernels",
    "wgflow.maps",
    "wgflow.measures",
    "wgflow.metrics",
    "wgflow.optim",
    "wgflow.plotting",
    "wgflow.presets",
    "wgflow.reference",
    "wgflow.solvers",
    "wgflow.bench",
    "wgflow.testing",
    "wgflow.generative",
    "wgflow.generative.data",
    "wgflow.generative.nets",
    "wgflow.generative.metrics",
)


def names() -> Iterator[tuple[str, str]]:
    """Yield the room and the name of what rooms export, then of what the API pages list."""
    for room in ROOMS:
        for name in importlib.import_module(room).__all__:
            yield room, name
    for page in sorted(PAGES.glob("*.rst")):
        _, *blocks = re.split(r"^\.\. currentmodule:: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for room, block in zip(blocks[::2], blocks[1::2], strict=True):
            for name in re.findall(r"^   (\w+)$", block, re.MULTILINE):
                yield room, name


def public() -> dict[str, object]:
    """Classes and functions by their shortest public name; one that two rooms export is looked at once."""
    found: dict[int, tuple[str, object]] = {}
    for room, name in names():
        thing = getattr(importlib.import_module(room), name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            found.setdefault(id(thing), (f"{room}.{name}", thing))
    return dict(found.values())


PUBLIC = public()


def sections(thing: object) -> dict[str, str]:
    """Return the text below each underlined heading of a docstring."""
    text = inspect.cleandoc(thing.__doc__ or "")
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(thing: object, *headings: str) -> list[list[str]]:
    """Return the names that sections describe, one list an entry: an entry may describe several."""
    text = "\n".join(sections(thing).get(h, "") for h in headings)
    heads = re.findall(r"^((?:\\?\*)*\w[\w, *\\]*?)(?: :.*)?$", text, re.MULTILINE)
    return [[name.strip().lstrip("\\*") for name in head.split(",")] for head in heads]


def inherited(thing: object) -> set[str]:
    """Return what a base class describes, or the preset whose options a preset takes over."""
    above = [e for base in getattr(thing, "__mro__", ())[1:] for e in entries(base, "Parameters", "Attributes")]
    return {name for entry in above for name in entry} | set(getattr(thing, "option_texts", {}))


def parameters(thing: object) -> list[str]:
    """Return the names that a caller gives; an exception is made by the library, and a protocol by nobody."""
    if inspect.isclass(thing) and (issubclass(thing, BaseException) or getattr(thing, "_is_protocol", False)):
        return []
    return [p for p in inspect.signature(thing).parameters if not p.startswith("_")]


def takes_options(thing: object) -> set[str]:
    """Return the name of ``**options``; what may be given there can be described in its place."""
    return {p.name for p in inspect.signature(thing).parameters.values() if p.kind is p.VAR_KEYWORD}


def code(function: object) -> list[ast.AST]:
    """Return the nodes of the code of a function; none of what a dataclass has made."""
    try:
        return list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    except (OSError, TypeError):
        return []


def in_code(function: object) -> set[str]:
    """Return the names of the exceptions in the code of a function."""
    raises = [node.exc for node in code(function) if isinstance(node, ast.Raise)]
    return {ast.unparse(exc.func).split(".")[-1] for exc in raises if isinstance(exc, ast.Call)}


def helpers(function: object) -> list[object]:
    """Return the functions of its own room that the code of a function calls by name."""
    called = {n.func.id for n in code(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    found = [inspect.unwrap(f) for name, f in function.__globals__.items() if name in called and inspect.isfunction(f)]
    return [f for f in found if f.__module__.rpartition(".")[0] == function.__module__.rpartition(".")[0]]


def raised(thing: object) -> set[str]:
    """Return the exceptions of a function, or of what constructs a class, and those of the package of what it calls in its room."""
    if getattr(thing, "_is_protocol", False):
        return set()
    own = [vars(thing).get(n) for n in ("__init__", "__post_init__")] if inspect.isclass(thing) else [thing]
    own = [inspect.unwrap(f) for f in own if inspect.isfunction(f)]
    ours = {e for f in own for helper in helpers(f) for e in in_code(helper) if hasattr(wgflow, e)}
    return ours.union(*map(in_code, own))


def faults(name: str) -> list[str]:
    """Return what the docstring of a public name lacks."""
    thing = PUBLIC[name]
    taken, own, said = parameters(thing), entries(thing, "Parameters"), sections(thing)
    told = {name for entry in own for name in entry}
    more = told - set(taken)
    attributes = {name for entry in entries(thing, "Attributes") for name in entry}  # so a result describes its fields
    missing = set(taken) - told - attributes - inherited(thing) - (takes_options(thing) if more else set())
    first = [entry[0] for entry in own if entry[0] in taken]
    gives = not inspect.isclass(thing) and inspect.signature(thing).return_annotation not in (None, "None")
    declared = re.findall(r"^\w[\w, ]*$", said.get("Raises", ""), re.MULTILINE)
    silent = raised(thing) - {e.strip() for line in declared for e in line.split(",")}
    found = {
        f"Parameters lacks {sorted(missing)}": missing,
        f"Parameters has {sorted(more)}, which the signature has not": more and not takes_options(thing),
        f"Parameters is not in the order of the signature, {taken}": first != sorted(first, key=taken.index),
        "Returns is missing": gives and not {"Returns", "Yields"} & set(said),
        f"Raises lacks {sorted(silent)}": silent,
        "Examples is missing": ">>> " not in said.get("Examples", ""),
    }
    return [fault for fault, there in found.items() if there]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_docstring_of_a_public_name_is_complete(name):
    assert not faults(name)
