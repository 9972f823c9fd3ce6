"""What a function does, as far as its code tells: a digest that is the same in another process and after an edited comment."""

import dis
import hashlib
import inspect
import os
import sys
import sysconfig
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

_FOLDERS = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_INSTALLED = tuple({os.path.realpath(folder) + os.sep for folder in (*_FOLDERS, os.path.dirname(__file__))})
_DOCSTRING = getattr(inspect, "CO_HAS_DOCSTRING", 0)
_PYTHON = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


@cache
def _in_a_library(file: str) -> bool:
    return file.startswith("<frozen ") or os.path.realpath(file).startswith(_INSTALLED)


def is_library(obj: Any) -> bool:
    """Whether a function, a class or a module is part of Python, of an installed package or of wgflow.

    Those are told apart by name. Everything else somebody may be working on, and its code counts.
    """
    if isinstance(obj, FunctionType):
        return _in_a_library(obj.__code__.co_filename)
    module = obj if isinstance(obj, ModuleType) else sys.modules.get(obj.__module__)
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    return file is None or _in_a_library(file)


def code_digest(function: FunctionType) -> str:
    """Digest of the bytecode, the constants and the names that it uses; neither of lines, files and addresses nor of docstrings."""
    return f"{hashlib.sha256(repr(_content(function.__code__)).encode()).hexdigest()[:16]} ({_PYTHON})"


def _content(code: CodeType) -> list[Any]:
    constants = [_constant(c) for c in code.co_consts]
    if _has_docstring(code):
        constants[0] = _constant(None)
    arguments = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_DOCSTRING]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), arguments, constants, list(code.co_names)]


def _has_docstring(code: CodeType) -> bool:
    if _DOCSTRING:
        return bool(code.co_flags & _DOCSTRING)
    # Before Python 3.14 the first constant of a function is its docstring or None; a lambda has none.
    return code.co_name.isidentifier() and isinstance(next(iter(code.co_consts), None), str)


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _content(value)
    if isinstance(value, (tuple, frozenset)):
        parts = [_constant(v) for v in value]
        return [type(value).__name__, parts if isinstance(value, tuple) else sorted(map(repr, parts))]
    return [type(value).__name__, repr(value)]


def names_used(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the global names that code and the functions inside of it read, and all other names: attributes and methods."""
    read = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    others = set(code.co_names) - read
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner, more = names_used(constant)
            read, others = read | inner, others | more
    return read, others
