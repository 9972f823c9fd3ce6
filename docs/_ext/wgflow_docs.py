"""What the documentation prints from the code and its records: compatibility, figures that exist, the house."""

import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import house
import torch
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch import nn

import wgflow
from wgflow import (
    ESTIMATORS,
    FUNCTIONALS,
    SOLVERS,
    Functional,
    MovingMeasure,
    StandardNormal,
    Unsupported,
    why_not,
)


def functionals() -> dict[str, Functional]:
    """Return one example of every registered functional, and two of the algebra."""
    found = {}
    for name in FUNCTIONALS:
        try:
            found[name] = FUNCTIONALS[name].example()
        except Unsupported:
            continue
    one, two, V = found["kl"], found["chi2"], found["potential"]
    density = wgflow.KL(wgflow.Unnormalised(lambda x: -x.square().sum(1), 2))
    samples = wgflow.KL(wgflow.Dataset(torch.zeros(3, 2)))
    more = {"kl of a density": density, "kl of samples": samples, "0.5 * kl": 0.5 * one, "kl + potential": one + V}
    return found | more | {"kl + chi2": one + two}


def measures() -> dict[str, MovingMeasure]:
    """Return the measures that move."""
    latent = StandardNormal(2)
    follow = wgflow.Regression(wgflow.Adam())
    return {
        "Particles": wgflow.Particles(torch.zeros(3, 2)),
        "Pushforward": wgflow.Pushforward(latent, nn.Identity()),
        "Pushforward with regression": wgflow.Pushforward(latent, nn.Identity(), regression=follow),
        "Chain": wgflow.Chain(latent, lambda: wgflow.maps.Affine(2)),
        "KernelScoreModel": wgflow.KernelScoreModel(torch.eye(2)),
        "Grid": wgflow.Grid.of(latent, low=(-4, -4), high=(4, 4), shape=(8, 8)),
    }


def compatibility_table() -> str:
    """Return one table an estimator as Markdown: which solvers accept which functionals on which measures."""
    fs, ms = functionals(), measures()
    parts = []
    for e in ESTIMATORS:
        estimator = ESTIMATORS[e].example()
        solvers = [SOLVERS[s].example(estimator) for s in SOLVERS]
        rows: dict[tuple[str, ...], list[str]] = {}
        for f, F in fs.items():
            works = ([type(s).__name__ for s in solvers if why_not(F, s, m) is None] for m in ms.values())
            rows.setdefault(tuple(", ".join(f"`{s}`" for s in names) for names in works), []).append(f)
        none = rows.pop(("",) * len(ms), [])
        shown = [i for i in range(len(ms)) if any(cells[i] for cells in rows)]
        lines = [
            f"## {ESTIMATORS[e].__name__}",
            "",
            "| functional | " + " | ".join(list(ms)[i] for i in shown) + " |",
            "|---" * (1 + len(shown)) + "|",
        ]
        for cells, names in rows.items():
            listed = ", ".join(f"`{n}`".replace(" ", "\N{NO-BREAK SPACE}") for n in names)
            lines.append(f"| {listed} | " + " | ".join(cells[i] or "–" for i in shown) + " |")
        if none:
            lines += ["", "Not for " + ", ".join(f"`{n}`" for n in none) + "."]
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


class CompatibilityTable(SphinxDirective):
    """Print the answers of ``why_not`` for everything in the registries."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        return self.parse_text_to_nodes(compatibility_table())


class FigureIfMade(SphinxDirective):
    """Show a figure that some command makes, where it has been made."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the figure with its caption, or nothing when the file is not in this checkout."""
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.is_file():
            return []
        caption = "\n".join(self.content)
        alt = re.sub(r"[`*]|\{[^}]*\}", "", " ".join(self.content))
        return self.parse_text_to_nodes(
            f":::{{figure}} {self.arguments[0]}\n:width: 100%\n:alt: {alt}\n\n{caption}\n:::"
        )


class House(SphinxDirective):
    """Draw the rooms of the package on their floors."""

    def run(self) -> list[nodes.Node]:
        """Draw the picture beside the page and show it."""
        house.draw(Path(self.env.srcdir) / "figures" / "house.svg")
        alt = "The rooms of wgflow, one storey a floor: a room imports only from the floors below it."
        return self.parse_text_to_nodes(f":::{{image}} figures/house.svg\n:alt: {alt}\n:width: 100%\n:::")


def resolver(app: Sphinx) -> Callable[..., nodes.Node | None]:
    """Return a handler that finds ``Name`` and ``Class.method`` of docstrings wherever they are documented."""

    def resolve(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Node) -> nodes.Node | None:
        if node.get("refdomain") != "py":
            return None
        domain, target = env.get_domain("py"), node["reftarget"].removeprefix("wgflow.")
        ours = [name for name in domain.objects if name.startswith("wgflow.")]
        found = [name for name in ours if name.endswith(f".{target}")]
        found = found or [name for name in ours if name.endswith(f".{target.rpartition('.')[2]}")]
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


def plain_words(app: Sphinx, doctree: nodes.document) -> None:
    """Leave the words of "tensor, shape (n, w)" in the type of an argument words: they are no links to attributes of those names."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        target = node["reftarget"]
        if node.get("reftype") == "class" and (target == "shape" or len(target) == 1):
            node.replace_self(nodes.emphasis("", target))


def signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str | None, returns: str | None) -> Any:
    """Make the signature of a dataclass valid Python: the page builder splits what it cannot parse at every comma."""
    return (args and args.replace("<factory>", "..."), returns)


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Put MathJax with its fonts beside the pages: two of the twenty-four megabytes of its package."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if exception or app.builder.format != "html" or package is None or package.origin is None:
        return
    source, target = Path(package.origin).parent / "static" / "mathjax", Path(app.outdir) / "_static" / "mathjax"
    for part in ("tex-chtml.js", "output/chtml/fonts/woff-v2"):
        here, there = source / part, target / part
        there.parent.mkdir(parents=True, exist_ok=True)
        if here.is_dir():
            shutil.copytree(here, there, dirs_exist_ok=True)
        else:
            shutil.copy2(here, there)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives and the link finder."""
    app.add_directive("wgflow-compatibility", CompatibilityTable)
    app.add_directive("wgflow-figure", FigureIfMade)
    app.add_directive("wgflow-house", House)
    app.connect("doctree-read", plain_words)
    app.connect("missing-reference", resolver(app))
    app.connect("autodoc-process-signature", signature)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
