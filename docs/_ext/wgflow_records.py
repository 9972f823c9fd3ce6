"""What the documentation prints from the records of the benchmarks."""

import fnmatch
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from wgflow.bench import records
from wgflow.bench.tables import Columns


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
    """Print chosen numbers of the records that match a pattern, one ``dotted.name`` or ``label: dotted.name`` a line.

    A name may have wildcards; numbers without a label are shown with their name.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a table of each record."""
        here = Path(self.env.doc2path(self.env.docname)).parent
        lines: list[str] = []
        for path in sorted(here.glob(self.arguments[0])):
            self.env.note_dependency(str(path))
            numbers = dict(flat(json.loads(path.read_text())["results"]))
            lines += [f"| `{path.stem}` | value |", "|---|---|"]
            for line in self.content:
                label, _, pattern = line.rpartition(": ")
                for name in fnmatch.filter(numbers, pattern):
                    shown = label or name.replace(".", ", ").replace("_", " ")
                    lines += [f"| {shown} | {_short(numbers[name])} |"] if numbers[name] is not None else []
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines))


class Rows(SphinxDirective):
    """Print a list of a record as a table: the record, the name of the list, and one ``heading: dotted.name`` a line.

    A dictionary of entries is a list too; ``@`` is then the name of an entry. The name of the list may be dotted; ``.`` is
    the record itself.
    """

    required_arguments = 2
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return one row an entry, or a sentence where the record has not been made."""
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.is_file():
            return self.parse_text_to_nodes("None yet: run the command above.")
        where = [name for name in self.arguments[1].split(".") if name]
        entries = _find(json.loads(path.read_text())["results"], where)
        if isinstance(entries, dict):
            entries = [{"@": name} | entry for name, entry in entries.items() if isinstance(entry, dict)]
        columns = [tuple(part.strip() for part in line.split(":", 1)) for line in self.content]
        body = [[_short(_find(entry, name.split("."))) for _, name in columns] for entry in entries]
        return numeric(self.parse_text_to_nodes(markdown([heading for heading, _ in columns], body)))


class Table(SphinxDirective):
    """Print what ``wgflow bench NAME`` prints, a block to fold out a table: the argument is the path of the record ``NAME.json``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the tables, or a sentence where the record has not been made."""
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.is_file():
            return self.parse_text_to_nodes("None yet: run the command above.")
        return numeric(self.parse_text_to_nodes(folded(records.parts(path.stem, json.loads(path.read_text())))))


def folded(parts: list[str | Columns]) -> str:
    """Return Markdown: paragraphs, and every table in a block that folds out, under the line before it."""
    lines: list[str] = []
    heading = "Table"
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if isinstance(part, Columns):
            lines += [f":::{{dropdown}} {heading}", "", markdown(part.head, part.body), ""]
            lines += [] if isinstance(following, str) and following.startswith("  ") else [":::", ""]
        elif isinstance(following, Columns):
            heading = part
        elif part.startswith("  "):  # a remark on the table above
            lines += [f"- {part.strip()}"] + ([] if following.startswith("  ") else ["", ":::", ""])
        else:
            lines.append(re.sub(r"^\*", r"\\*", part))  # a star is a mark in a table, no bullet
    return "\n".join(lines)


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table; a stroke in a cell is text."""
    lines = [[str(cell).replace("|", r"\|").replace("*", r"\*") for cell in row] for row in (head, *body)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def numeric(found: list[nodes.Node]) -> list[nodes.Node]:
    """Mark the tables as numbers: the first column stays in view, the others are aligned to the right and do not wrap."""
    for node in found:
        for table in node.findall(nodes.table):
            table["classes"].append("record")
    return found


def _find(value: Any, path: list[str]) -> Any:
    """Follow names, and numbers into lists; None where something is missing."""
    for name in path:
        if isinstance(value, list):
            value = value[int(name)] if int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str:
    """Return three digits of a number, or all digits before the point where there are more."""
    if isinstance(value, float):
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.3g}"
    return "" if value is None else str(value)


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested dictionaries by dotted names, without lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else key)
    elif not isinstance(value, list):
        yield name, value


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("wgflow-records", Records)
    app.add_directive("wgflow-numbers", Numbers)
    app.add_directive("wgflow-rows", Rows)
    app.add_directive("wgflow-table", Table)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
