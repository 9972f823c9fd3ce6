"""What numpydoc docstrings say, as plain text for the help of the command line."""

import inspect
import re
from typing import Any

from wgflow.core.tex import plain


def summary(obj: Any) -> str:
    """Return the first line of a docstring, empty where there is none."""
    return plain((inspect.getdoc(obj) or "").partition("\n")[0])


def descriptions(obj: Any) -> dict[str, str]:
    """Return what the docstring of a function or a class says of each parameter."""
    doc = inspect.getdoc(obj) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    entries = re.findall(
        r"^(?:\\?\*)*(\w[\w, ]*?)(?: :.*)?\n((?:    .*\n?)+)", section[1] if section else "", re.MULTILINE
    )
    return {name: " ".join(plain(text).split()) for names, text in entries for name in names.split(", ")}
