"""Plain text: numbers that may be missing, and rows under their headings."""

from collections.abc import Sequence
from typing import Any


def number(value: float | None, form: str = "{:.2g}") -> str:
    """Return the number, or nothing where there is none."""
    return "" if value is None else form.format(value)


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines: the first column to the left, all others to the right."""
    widths = [max(len(r[i]) for r in [head, *body]) for i in range(len(head))]
    return [
        "  ".join(
            [f"  {r[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(r[1:], widths[1:], strict=True))]
        ).rstrip()
        for r in [head, *body]
    ]


def title(record: dict[str, Any]) -> str:
    """Return one line: when, on which machine, and from which commit a record is."""
    machine, commit = record["machine"], record["commit"]
    changed = " (changed)" if commit["dirty"] else ""
    return (
        f"{record['date']}  {machine['cpu']}, {machine['device']}, {machine['threads']} threads"
        f"  commit {(commit['id'] or '?')[:10]}{changed}"
    )
