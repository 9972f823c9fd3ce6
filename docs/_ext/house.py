"""The rooms of the package and their floors: one statement, which the tests check and the page on architecture draws."""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2] / "wgflow"

# From the ground up: a room imports from rooms below it, and from itself.
FLOORS = [
    ["core"],
    ["maps", "numerics", "optim", "generative.nets"],
    ["measures"],
    ["kernels", "storage", "generative.data"],
    ["functionals", "reference", "generative.metrics"],
    ["estimators", "metrics"],
    ["solvers"],
    ["driver"],
    ["plotting", "presets"],
    ["__init__"],
    ["bench", "generative", "testing"],
    ["cli"],
    ["__main__"],
]


def files() -> dict[str, Path]:
    """Return the modules by their dotted names below ``wgflow``."""
    return {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in sorted(ROOT.rglob("*.py"))}


def room(module: str) -> str:
    """Return the room of a module: its folder, or the module itself where it stands in none."""
    parts = module.split(".")
    nested = ".".join(parts[:2])
    return nested if any(nested in rooms for rooms in FLOORS) else parts[0]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether it is imported with the module) for all imports, those for type checkers too."""
    stack: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text(encoding="utf-8")), True)]
    while stack:
        node, at_load = stack.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_load) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from ((f"{node.module}.{alias.name}", at_load) for alias in node.names)
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if for_types and path == ROOT / "__init__.py":
            continue  # rooms that are loaded when they are first asked for
        at_load = at_load and not isinstance(node, (ast.FunctionDef, ast.Lambda)) and not for_types
        stack += [(child, at_load) for child in ast.iter_child_nodes(node)]


def module_of(name: str, known: dict[str, Path]) -> str | None:
    """Return the module of ours that a dotted name comes from: the longest prefix that is one; None for another package."""
    parts = name.split(".")
    if parts[0] != "wgflow":
        return None
    for end in range(len(parts), 0, -1):
        for candidate in (".".join(parts[1:end]), ".".join([*parts[1:end], "__init__"])):
            if candidate in known:
                return candidate
    raise AssertionError(f"{name} is not a module of wgflow")


def says(name: str) -> str:
    """Return the first sentence of a room."""
    folder = ROOT.joinpath(*name.split("."))
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    found = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return found.partition("\n\n")[0].replace("\n", " ").replace("``", "")


def draw(path: Path) -> None:
    """Draw the house: one storey a floor, one box a room."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shown = [[name for name in rooms if not name.startswith("_")] for rooms in FLOORS]
    shown[FLOORS.index(["__init__"])] = ["wgflow"]
    shown = [rooms for rooms in shown if rooms]
    fig = Figure(figsize=(9.6, 0.8 * len(shown) + 0.4))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(-0.45, len(shown) + 0.05))
    ax.axis("off")
    for level, rooms in enumerate(shown):
        width = 0.985 / len(rooms)
        for i, name in enumerate(rooms):
            _box(ax, 0.0075 + i * width, level, width - 0.008, name)
    ax.text(
        0.5, -0.25, "a room imports only from the floors below it", ha="center", va="center", fontsize=9, color="0.35"
    )
    FigureCanvasSVG(fig).print_svg(path, metadata={"Date": None})


def _box(ax: Any, x: float, y: float, width: float, name: str) -> None:
    colour = (
        "#D55E00"
        if name == "wgflow"
        else "#009E73"
        if name.startswith(("bench", "cli", "generative", "testing"))
        else "#0072B2"
    )
    ax.add_patch(_rounded((x + 0.004, y + 0.06), width - 0.008, 0.86, colour))
    text = "The public names: all that import wgflow as wg offers." if name == "wgflow" else says(name)
    text = text.replace(r":math:`k(x,y)=\kappa(|x-y|^2)`", "k(|x − y|²)")
    lines = textwrap.wrap(text, int(146 * width))
    ax.text(x + 0.014, y + 0.75, name, fontsize=10, fontweight="bold", color=colour, va="center")
    ax.text(x + 0.014, y + 0.58, "\n".join(lines), fontsize=7.4, color="0.2", va="top", linespacing=1.15)


def _rounded(corner: tuple[float, float], width: float, height: float, colour: str) -> Any:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.012"
    return FancyBboxPatch(
        corner,
        width,
        height,
        boxstyle=style,
        mutation_aspect=12,
        facecolor=colour + "14",
        edgecolor=colour,
        linewidth=1,
    )
