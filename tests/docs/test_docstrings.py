"""Every public name says what it takes, what it returns and what it raises, and shows itself in an example."""

import ast
import importlib
import inspect
import re
import textwrap

import pytest

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


def public() -> dict[str, object]:
    """Classes and functions by their shortest public name; one that two rooms export is looked at once."""
    found: dict[int, tuple[str, object]] = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            thing = getattr(module, name)
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


def raised(thing: object) -> set[str]:
    """Return the names of the exceptions in the code of a function, or of what constructs a class."""
    if getattr(thing, "_is_protocol", False):
        return set()
    own = [vars(thing).get(n) for n in ("__init__", "__post_init__")] if inspect.isclass(thing) else [thing]
    found = set()
    for function in filter(None, map(inspect.unwrap, filter(None, own))):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError):
            continue  # what a dataclass has made
        raises = (node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise))
        found |= {ast.unparse(exc.func).split(".")[-1] for exc in raises if isinstance(exc, ast.Call)}
    return found


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
