"""What the documentation prints from the code and its records: compatibility, figures that exist, benchmark results."""

import fnmatch
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import house
import torch
from docutils import nodes
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
from wgflow.bench.records import tabulate


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
            listed = ", ".join(f"`{n}`" for n in names)
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
        return self.parse_text_to_nodes(f":::{{figure}} {self.arguments[0]}\n:width: 100%\n\n{caption}\n:::")


class House(SphinxDirective):
    """Draw the rooms of the package on their floors."""

    def run(self) -> list[nodes.Node]:
        """Draw the picture beside the page and show it."""
        house.draw(Path(self.env.srcdir) / "figures" / "house.svg")
        alt = "The rooms of wgflow, one storey a floor: a room imports only from the floors below it."
        return self.parse_text_to_nodes(f":::{{image}} figures/house.svg\n:alt: {alt}\n:width: 100%\n:::")


class Records(SphinxDirective):
    """List the benchmark records of a folder."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return one row a record."""
        folder = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        lines = ["| record | date | machine | torch | commit |", "|---|---|---|---|---|"]
        for path in sorted(folder.glob("*.json")):
            self.env.note_dependency(str(path))
            r = json.loads(path.read_text())
            machine, commit = r["machine"], r["commit"]["id"] or "unknown"
            device = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
            changed = ", with changes" if r["commit"]["dirty"] else ""
            row = f"`{path.stem}`", r["date"][:10], device, r["versions"]["torch"], f"`{commit[:8]}`{changed}"
            lines.append("| " + " | ".join(row) + " |")
        return self.parse_text_to_nodes("\n".join(lines) if len(lines) > 2 else "None yet: run the commands above.")


class Numbers(SphinxDirective):
    """Print chosen numbers of the records that match a pattern: one dotted name, with wildcards, a line."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a table and the picture of each record."""
        here = Path(self.env.doc2path(self.env.docname)).parent
        lines: list[str] = []
        for path in sorted(here.glob(self.arguments[0])):
            self.env.note_dependency(str(path))
            numbers = dict(flat(json.loads(path.read_text())["results"]))
            chosen = [n for pattern in self.content for n in numbers if fnmatch.fnmatch(n, pattern)]
            chosen = [n for n in chosen if numbers[n] is not None]
            lines += [f"| `{path.stem}` | |", "|---|---|"]
            lines += [f"| {name.replace('.', ', ').replace('_', ' ')} | {numbers[name]} |" for name in chosen]
            picture = path.with_suffix(".png")
            if picture.is_file():
                shown = Path(self.arguments[0]).parent / picture.name
                lines += ["", f":::{{figure}} {shown}", ":width: 100%", "", f"`{picture.name}`", ":::"]
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines))


class Rows(SphinxDirective):
    """Print a list of a record as a table: the record, the name of the list, and one ``heading: dotted.name`` a line.

    A dictionary of entries is a list too; ``@`` is then the name of an entry.
    """

    required_arguments = 2
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return one row an entry, or a sentence where the record has not been made."""
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.is_file():
            return self.parse_text_to_nodes("None yet: run the command above.")
        entries = json.loads(path.read_text())["results"][self.arguments[1]]
        if isinstance(entries, dict):
            entries = [{"@": name} | entry for name, entry in entries.items()]
        columns = [tuple(part.strip() for part in line.split(":", 1)) for line in self.content]
        lines = ["| " + " | ".join(heading for heading, _ in columns) + " |", "|---" * len(columns) + "|"]
        for entry in entries:
            lines.append("| " + " | ".join(_short(_find(entry, name.split("."))) for _, name in columns) + " |")
        return self.parse_text_to_nodes("\n".join(lines))


class Table(SphinxDirective):
    """Print what ``wgflow bench NAME`` prints: the argument is the path of the record ``NAME.json``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the text, or a sentence where the record has not been made."""
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.is_file():
            return self.parse_text_to_nodes("None yet: run the command above.")
        text = tabulate(path.stem)(json.loads(path.read_text()))
        return [nodes.literal_block(text, text, language="none")]


def _find(value: Any, path: list[str]) -> Any:
    """Follow names, and numbers into lists; None where something is missing."""
    for name in path:
        if isinstance(value, list):
            value = value[int(name)] if int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested dictionaries by dotted names, without lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else key)
    elif not isinstance(value, list):
        yield name, value


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


def signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str | None, returns: str | None) -> Any:
    """Make the signature of a dataclass valid Python: the page builder splits what it cannot parse at every comma."""
    return (args and args.replace("<factory>", "..."), returns)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives and the link finder."""
    app.add_directive("wgflow-compatibility", CompatibilityTable)
    app.add_directive("wgflow-figure", FigureIfMade)
    app.add_directive("wgflow-house", House)
    app.add_directive("wgflow-records", Records)
    app.add_directive("wgflow-numbers", Numbers)
    app.add_directive("wgflow-rows", Rows)
    app.add_directive("wgflow-table", Table)
    app.connect("missing-reference", resolver(app))
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
