"""The table of what every method was checked against: ``tests/checks.toml`` with the numbers of the records."""

import ast
import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT / "tests" / "checks.toml"
RECORDS = ROOT / "benchmarks" / "results"
NUMBER = re.compile(r"\{([\w-]+) \| ([^|{}]+) \| ([^{}]+)\}")


def methods() -> list[dict[str, Any]]:
    """Return the declarations."""
    found: list[dict[str, Any]] = tomllib.loads(CHECKS.read_text(encoding="utf-8"))["method"]
    return found


@cache
def record(name: str) -> dict[str, Any]:
    """Return the results of a record."""
    found: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["results"]
    return found


def number(name: str, path: str) -> float:
    """Return a number of a record; a step is a key, a position, or ``KEY=VALUE``, the first entry of a list with that value."""
    value: Any = record(name)
    for step in path.split("/"):
        if isinstance(value, dict):
            value = value[step]
        elif "=" in step:
            key, _, wanted = step.partition("=")
            value = next(entry for entry in value if str(entry[key]) == wanted)
        else:
            value = value[int(step)]
    return float(value)


def filled(text: str) -> str:
    """Return a text with its numbers."""
    return NUMBER.sub(lambda m: format(number(m[1], m[2]), m[3]), text)


def function_of(test: str) -> ast.FunctionDef | None:
    """Return the function that ``FILE::NAME`` below ``tests/`` names, or None."""
    file, _, name = test.partition("::")
    if not (ROOT / "tests" / file).is_file():
        return None
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def page() -> str:
    """Return a section a method, as Markdown."""
    lines: list[str] = []
    for method in methods():
        records = sorted({m[0] for m in NUMBER.findall(method["measured"] + method.get("missing", ""))})
        lines += [f"### {method['name']}", "", f"`{method['write']}`", ""]
        lines += ["Checked against", f": {method['against']}.", ""]
        lines += ["Measured", f": {filled(method['measured'])}."]
        lines += [f"  (Records: {', '.join(f'`{name}.json`' for name in records)}.)" if records else "", ""]
        lines += ["Not reproduced", f": {filled(method['missing'])}.", ""] if "missing" in method else []
        lines += ["Tests", ": " + " ".join(f"`{test}`" for test in method["tests"]), ""]
    return "\n".join(lines)


class Truth(SphinxDirective):
    """Print the declarations with their numbers."""

    def run(self) -> list[nodes.Node]:
        """Return a section a method."""
        self.env.note_dependency(str(CHECKS))
        for path in RECORDS.glob("*.json"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(page(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("wgflow-truth", Truth)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
