"""Plain text: numbers that may be missing, and rows under their headings that fit the terminal."""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_NARROWEST = 40
_LABEL = 0.4
"""Largest share of a line that the first column takes where not all of a table fits."""
_INDENT, _GAP = "  ", "  "


@dataclass(frozen=True)
class Columns:
    """Cells under their headings; the first column holds labels."""

    head: Sequence[str]
    body: Sequence[Sequence[str]]


class Text(str):
    """Text of several lines that the interpreter shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the text itself."""
        return str(self)


def number(value: float | None, form: str = "{:.2g}") -> str:
    """Return the number, or nothing where there is none."""
    return "" if value is None else form.format(value)


def terminal() -> int | None:
    """Return the columns of the terminal that is written to, or ``COLUMNS``; None for a file or a pipe, where lines have any length."""
    shown = "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty())
    columns = shutil.get_terminal_size((0, 0)).columns if shown else 0
    return max(columns, _NARROWEST) if columns else None


def rows(head: Sequence[str], body: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Return aligned lines: the first column to the left, all others to the right.

    Where they are longer than ``width``, the columns that do not fit follow below, beside the first one again.
    """
    table = [list(map(str, r)) for r in (head, *body)]
    widths = [max(len(r[i]) for r in table) for i in range(len(head))]
    if width is not None and len(_INDENT) + sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        room = width - len(_INDENT) - len(_GAP) - max(widths[1:], default=0)
        widths[0] = min(widths[0], max(min(int(_LABEL * width), room), 8))
    lines: list[str] = []
    for block in _blocks(widths, width):
        lines += [""] if lines else []
        for r in table:
            label = r[0] if len(r[0]) <= widths[0] else f"{r[0][: widths[0] - 1]}…"
            cells = [f"{_INDENT}{label:<{widths[0]}}", *(f"{r[i]:>{widths[i]}}" for i in block)]
            lines.append(_GAP.join(cells).rstrip())
    return lines


def plain(parts: Sequence[str | Columns], width: int | None = None) -> str:
    """Return paragraphs and tables as text; an indented paragraph hangs."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Columns):
            lines += rows(part.head, part.body, width)
        else:
            lines += prose(part, width, "    " if part.startswith(_INDENT) else "")
    return "\n".join(lines)


def _blocks(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Divide the columns after the first among as many tables as are needed."""
    blocks: list[list[int]] = [[]]
    used = start = len(_INDENT) + widths[0]
    for i, w in enumerate(widths[1:], 1):
        if width is not None and blocks[-1] and used + len(_GAP) + w > width:
            blocks.append([])
            used = start
        blocks[-1].append(i)
        used += len(_GAP) + w
    return blocks


def prose(text: str, width: int | None = None, indent: str = "") -> list[str]:
    """Return a paragraph as lines of at most ``width``; one line for None."""
    if width is None:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def title(record: dict[str, Any]) -> str:
    """Return one line: when, on which machine, and from which commit a record is; an installed package has a version only."""
    machine, commit = record["machine"], record["commit"]
    changed = " (changed)" if commit["dirty"] else ""
    of = f"commit {commit['id'][:10]}{changed}" if commit["id"] else f"wgflow {record['versions']['wgflow']}"
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"{record['date']}, {machine['cpu']}, {machine['device']}, {threads}, {of}"
