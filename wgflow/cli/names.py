"""``wgflow list`` and ``wgflow show``: what is known by name, and what one of these names is."""

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wgflow.bench.tables import prose, terminal
from wgflow.core.brief import brief
from wgflow.core.docstrings import descriptions
from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import field_rules
from wgflow.core.registry import near_misses
from wgflow.core.rules import REFUSED, Rule
from wgflow.core.tex import plain

_WIDTH, _NARROW = 100, "    "


_USUAL = {
    "estimator": "How the first variation is found: an estimator.",
    "batch": "Points of a measure that is drawn from, in one update.",
    "kernel": "A kernel, see wgflow list.",
    "step_size": "Size of a time step, or a function of its number.",
    "num_steps": "Time steps.",
    "target": "Where to: a measure.",
    "initial": "Where from: a measure that moves.",
    "optim": "The minimizer.",
    "latent": "Source of the generator: a measure.",
    "generator": "The network that is trained, or a function that makes one.",
    "noise": "Auxiliary noise: of a generator its law, of a flow its size.",
    "encoder": "Frozen features in which points are compared; the points themselves when None.",
    "negatives": "Points that repel besides those of the moving law.",
    "temperatures": "Scales of the kernels.",
    "floor": "A lower bound.",
    "persistent": "Updates of the generator toward the targets of one step.",
    "lr": "Learning rate.",
    "ema": "Decay per update of a running average of the generator; 0 for none.",
    "blur": "Length over which transport is blurred.",
    "tol": "Tolerance of the inner solver.",
    "directions": "Directions drawn in a step.",
    "friction": "Friction of the momentum.",
    "restart": "Whether momentum that has come to point uphill is set to zero.",
    "rate": "Rate of the reaction.",
    "time": "Time of the regularization.",
    "max_iter": "Most iterations.",
    "length": "The length scale.",
    "nu": "Smoothness: 1.5 or 2.5.",
    "power": "The exponent.",
    "scale": "A factor of the bandwidth that the rule gives.",
}
"""What an option is where its part says nothing."""


def list_names() -> None:
    """List what is known by name, and the methods of wgflow train with what they are."""
    from wgflow.generative.catalogue import image_methods

    found = _kinds()
    kinds: dict[str, Iterable[str]] = {
        "recipes": found["recipe"],
        "data sets": (*found["data set"], "a folder of images", "an .npy or .npz file"),
        "networks": found["network"],
        **{
            f"{kind}s": found[kind]
            for kind in ("functional", "estimator", "solver", "kernel", "map", "measure", "metric")
        },
        "presets": found["method"],
        "features": found["features"],
        "problems": found["problem"],
        "records": found["record"],
    }
    width = terminal()
    for kind, names in kinds.items():
        print("\n".join(prose(f"{kind + ':':13}" + ", ".join(names), width, " " * 13)))
    print("methods of wgflow train, by --method:")
    for m in image_methods():
        print("\n".join(prose(f"  {m.name:20} {m.about}", width, " " * 23)))
    print("what one of them is: wgflow show NAME")


def show(name: str) -> None:
    """Say what a name stands for: its formula, its options, where it is from and what it works with.

    Parameters
    ----------
    name
        Any that wgflow list prints, or the name of its class.
    """
    kinds = _kinds()
    found = [
        (kind, key, held)
        for kind, names in kinds.items()
        for key in names
        if name in (key, getattr(held := names[key], "__name__", key)) or name.replace("-", "_") == key
    ]
    if not found:
        known = sorted({key for names in kinds.values() for key in names})
        raise BadInput(
            f"nothing is called {name!r}: {near_misses(name, known).partition('known: ')[0]}wgflow list has all names"
        )
    found.sort(key=lambda one: one[1] != name)  # before those that are meant by the name of their class
    width = min(terminal() or _WIDTH, _WIDTH)
    print("\n\n".join("\n".join(_described(kind, key, held, width)) for kind, key, held in found))


def _kinds() -> dict[str, Mapping[str, Any]]:
    """What has a name, by kind."""
    from wgflow import ESTIMATORS, FUNCTIONALS, KERNELS, MAPS, MEASURES, SOLVERS, metrics, presets
    from wgflow.bench import PROBLEMS, records
    from wgflow.generative import FID, NETWORKS, RECIPES
    from wgflow.generative.data import IMAGE_SETS
    from wgflow.generative.evaluate import FEATURES

    numbers = [c for n in metrics.__all__ if isinstance(c := getattr(metrics, n), type) and c is not metrics.Metric]
    registries: dict[str, Any] = {
        "functional": FUNCTIONALS, "estimator": ESTIMATORS, "solver": SOLVERS, "kernel": KERNELS, "map": MAPS,
        "measure": MEASURES, "metric": {c.__name__: c for c in (*numbers, FID) if "__call__" in vars(c)},
        "method": presets.PRESETS, "recipe": RECIPES, "data set": {name: _image_set(name) for name in IMAGE_SETS},
        "network": NETWORKS, "features": FEATURES, "problem": PROBLEMS, "record": {n: records.tabulate(n) for n in records.names()},
    }  # fmt: skip
    return registries


def _image_set(name: str) -> str:
    """Return what the table of :func:`load_images` says of a set."""
    from wgflow.generative import load_images

    row = re.search(rf"^``{name}`` +(.+?)  +(\S.*)$", inspect.getdoc(load_images) or "", re.MULTILINE)
    assert row is not None, name
    return f"{plain(row[1])}; splits: {row[2]}"


def _described(kind: str, name: str, held: Any, width: int) -> Iterator[str]:
    if kind == "recipe":
        yield f"{name}: recipe of wgflow train"
        yield from (f"  {key}: {brief(value)}" for key, value in held.plain().items() if value is not None)
        yield from _described("method", held.method, _kinds()["method"][held.method], width)
        return
    if kind == "data set":
        yield from prose(f"{name}: data set, {held}", width, _NARROW)
        yield f"at a shell: wgflow train --data {name if name not in ('folder', 'array') else 'PATH'}"
        return
    if kind == "record":
        about = plain(inspect.getdoc(inspect.getmodule(held)) or "")
        yield from prose(f"{name}: {about[:1].lower()}{about[1:]}", width, _NARROW)
        yield f"at a shell: wgflow bench {name}"
        return
    for part in held if kind == "network" else (held,):
        yield f"{name}: {kind} {_path(part)}"
        yield ""
        yield from _text(inspect.getdoc(part) or "", width)
        yield from _options(part, width)
    yield from _sources(held, width)
    yield from _uses(kind, name, held, width)


def _path(obj: Any) -> str:
    """Return the name under which an object is imported."""
    import wgflow

    name: str = obj.__name__
    rooms: tuple[Any, ...] = (wgflow, wgflow.presets, wgflow.maps, wgflow.metrics, wgflow.bench)
    for room in rooms:
        if getattr(room, name, None) is obj:
            return f"{room.__name__}.{name}"
    return f"{obj.__module__}.{name}"


def _text(doc: str, width: int) -> Iterator[str]:
    """Return what a docstring says before its first section, with formulas as characters."""
    about = plain(re.split(r"^\w[^\n]*\n-+$", doc, maxsplit=1, flags=re.MULTILINE)[0]).strip()
    for block in about.split("\n\n"):
        if block.startswith("=="):
            yield from _rows(block, width)
        elif block.startswith(" "):
            yield from block.splitlines()
        elif block.startswith("* "):
            for item in block.removeprefix("* ").split("\n* "):
                yield from textwrap.wrap(item, width, initial_indent="* ", subsequent_indent="  ")
        else:
            yield from textwrap.wrap(block, width)
        yield ""


def _rows(table: str, width: int) -> Iterator[str]:
    """Return a table of reStructuredText as lines: what a row is of, then the rest of it."""
    for line in table.splitlines():
        if not re.fullmatch(r"[= ]+", line):
            first, *others = re.split(r"  +", line.strip())
            yield from prose(f"  {first}: {'; '.join(others)}", width, _NARROW)


def _options(obj: Any, width: int) -> Iterator[str]:
    from wgflow.generative.methods import TEXTS

    about: dict[str, str] = TEXTS | _USUAL
    for base in reversed(obj.__mro__ if isinstance(obj, type) else (obj,)):
        about |= getattr(base, "option_texts", {}) | descriptions(base)
    parameters = [
        p for p in inspect.signature(obj).parameters.values() if not p.name.startswith("_") and p.kind != p.VAR_KEYWORD
    ]
    if parameters:
        yield "options:"
    for text, several in itertools.groupby(parameters, lambda p: about.get(p.name) or _unsaid(p.name)):
        yield from prose(f"  {', '.join(map(_with_default, several))}: {text}", width, _NARROW)


def _with_default(p: inspect.Parameter) -> str:
    return p.name if p.default is p.empty or repr(p.default).startswith("<") else f"{p.name} = {brief(p.default)}"


def _unsaid(name: str) -> str:
    return f"{name.replace('_', ' ').capitalize()}, see the text above."


def _sources(obj: Any, width: int) -> Iterator[str]:
    doc = inspect.getdoc(obj) or ""
    section = re.search(r"^References\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    if section:
        yield from prose("references: " + " ".join(plain(section[1]).split()), width, _NARROW)
    elif getattr(obj, "reference", ()):
        yield from prose("references, by the keys of the bibliography: " + ", ".join(obj.reference), width, _NARROW)


def _uses(kind: str, name: str, held: Any, width: int) -> Iterator[str]:
    """Say what a part works with."""
    if kind in ("functional", "estimator", "solver"):
        for other, names in _partners(kind, name).items():
            yield from prose(f"works with {other}s: {', '.join(names) or 'none of these alone'}", width, _NARROW)
        yield "(not every one with every other: wgflow.why_not(F, solver, measure) tells)"
    elif kind == "kernel":
        from wgflow import KernelDensity

        kernel, (functionals, estimators) = held.example(), list(_kinds().values())[:2]
        classes = dict.fromkeys([*(r[n] for r in (functionals, estimators) for n in r), KernelDensity])
        takers = [c.__name__ for c in classes if any(_takes(rule, kernel) for _, rule in field_rules(c))]
        yield from prose(f"works with {', '.join(takers)}", width, _NARROW)
    elif kind == "metric":
        yield from prose(
            f"works with wgflow.Evaluate([{held.__name__}(...)], every=N), a callback of solve", width, _NARROW
        )
    elif kind == "features":
        yield f"at a shell: wgflow evaluate RUN --features {name}"
    elif kind == "method":
        from wgflow.cli.run import presets as flows
        from wgflow.generative.catalogue import image_methods

        if name in flows():
            yield f"at a shell: wgflow run {name} --target module:NAME"
        yield f"in Python: {_path(held)}(target, ...).solve()"
        if name in [m.name for m in image_methods()]:
            yield f"on images: wgflow train RECIPE --method {name}"
    elif kind == "problem":
        yield f"at a shell: wgflow bench {name}"
        yield f"in Python: wgflow.bench.compare({_path(held)}())"


def _takes(rule: Rule, kernel: Any) -> bool:
    return rule.accept(kernel) is not REFUSED


def _partners(kind: str, name: str) -> dict[str, list[str]]:
    """Return the parts of the other kinds with which one is part of a flow, going by their examples."""
    import wgflow
    from wgflow import ESTIMATORS, FUNCTIONALS, SOLVERS, StandardNormal, why_not

    latent = StandardNormal(2)
    start = wgflow.Particles(latent.draw(3, wgflow.core.rng.generator(0)).x)
    net = wgflow.maps.Affine(2)
    moving = {
        "particles": start,
        "pushforward": wgflow.Pushforward(latent, net, regression=wgflow.Regression(wgflow.Adam())),
        "chain": wgflow.Chain(latent, net),
        "grid": wgflow.Grid.of(latent, low=(-4, -4), high=(4, 4), shape=(8, 8)),
    }
    fixed = {kind: [name]}
    names = {"functional": list(FUNCTIONALS), "estimator": list(ESTIMATORS), "solver": list(SOLVERS)} | fixed
    functionals = {n: F for n in names["functional"] if (F := _example(FUNCTIONALS[n])) is not None}
    found: dict[str, dict[str, None]] = {"functional": {}, "estimator": {}, "solver": {}, "measure": {}}
    for e, s in itertools.product(names["estimator"], names["solver"]):
        solver = SOLVERS[s].example(ESTIMATORS[e].example())
        for (f, F), (m, measure) in itertools.product(functionals.items(), moving.items()):
            if why_not(F, solver, measure) is None:
                for what, one in zip(found, (f, e, s, m), strict=True):
                    found[what][one] = None
    return {what: list(ones) for what, ones in found.items() if what != kind}


def _example(cls: Any) -> Any:
    try:
        return cls.example()
    except Unsupported:
        return None
