"""What the documentation prints from the code itself: the compatibility table, and links between docstrings."""

from collections.abc import Callable
from typing import Any

import torch
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch import nn

import wgflow
from wgflow import ESTIMATORS, FUNCTIONALS, SOLVERS, Functional, MovingMeasure, Solver, StandardNormal, why_not
from wgflow.errors import Unsupported


def functionals() -> dict[str, Functional]:
    """Return one example of every registered functional, and two of the algebra."""
    found = {}
    for name in FUNCTIONALS:
        try:
            found[name] = FUNCTIONALS[name].example()
        except Unsupported:
            continue
    one, two, V = found["kl"], found["chi2"], found["potential"]
    return found | {"0.5 * kl": 0.5 * one, "kl + potential": one + V, "kl + chi2": one + two}


def solvers() -> dict[str, Solver]:
    """Return every registered solver with every registered estimator."""

    def estimator(cls: type) -> Any:
        try:
            return cls()
        except TypeError:  # it has a network
            return cls(lambda: nn.Linear(2, 1))

    built = {cls: estimator(cls) for cls in (ESTIMATORS[name] for name in ESTIMATORS)}
    return {
        f"{SOLVERS[s].__name__}({e.__name__})": SOLVERS[s](estimator=instance)
        for s in SOLVERS
        for e, instance in built.items()
    }


def measures() -> dict[str, MovingMeasure]:
    """Return the measures that move."""
    latent = StandardNormal(2)
    follow = wgflow.Regression(wgflow.Adam())
    return {
        "Particles": wgflow.Particles(torch.zeros(3, 2)),
        "Pushforward": wgflow.Pushforward(latent, nn.Identity()),
        "Pushforward with regression": wgflow.Pushforward(latent, nn.Identity(), regression=follow),
    }


def compatibility_table() -> str:
    """Return the table as Markdown: functionals with the same row stand together, reasons below by number."""
    fs, ss, ms = functionals(), solvers(), measures()
    reasons: dict[str, int] = {}

    def cell(F: Functional, solver: Solver, measure: MovingMeasure) -> str:
        reason = why_not(F, solver, measure)
        if reason is None:
            return "yes"
        text = reason.replace(type(F).__name__, "`F`")
        return f"no ({reasons.setdefault(text, len(reasons) + 1)})"

    rows: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for s, solver in ss.items():
        for f, F in fs.items():
            cells = tuple(cell(F, solver, m) for m in ms.values())
            rows.setdefault((s, cells), []).append(f)
    lines = ["| solver | functional | " + " | ".join(ms) + " |", "|---" * (2 + len(ms)) + "|"]
    for (s, cells), names in rows.items():
        listed = ", ".join(f"`{n}`" for n in names)
        lines.append(f"| `{s}` | {listed} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{n}. {text}" for text, n in reasons.items())])


class CompatibilityTable(SphinxDirective):
    """Print the answers of ``why_not`` for everything in the registries."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        return self.parse_text_to_nodes(compatibility_table())


def resolver(app: Sphinx) -> Callable[..., nodes.Node | None]:
    """Return a handler that finds ``Name`` and ``Class.method`` of docstrings wherever they are documented."""

    def resolve(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Node) -> nodes.Node | None:
        if node.get("refdomain") != "py":
            return None
        domain, target = env.get_domain("py"), node["reftarget"].removeprefix("wgflow.")
        found = [name for name in domain.objects if name == target or name.endswith(f".{target}")]
        found = [name for name in found if name.startswith("wgflow.")]
        if not found:
            return None
        entry = domain.objects[min(found, key=lambda name: (name.count("."), name))]
        return nodes.reference(
            "",
            "",
            content,
            internal=True,
            refuri=f"{app.builder.get_relative_uri(node['refdoc'], entry.docname)}#{entry.node_id}",
        )

    return resolve


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the link finder."""
    app.add_directive("wgflow-compatibility", CompatibilityTable)
    app.connect("missing-reference", resolver(app))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
