"""Commands of the command line, made from functions: their signatures, annotations and numpydoc docstrings, by click."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Literal

import click

from wgflow.core.errors import BadInput
from wgflow.core.rules import rule_of
from wgflow.core.startup import imported
from wgflow.core.words import FALSE, NOTHING, TRUE, kinds, read

_NOT_GIVEN: Any = object()


class Word(click.ParamType):
    """A value as people write it, read as what an annotation asks for and checked by it."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        kind = next(k for k in kinds(hint) if k is not type(None))
        self.name = "|".join(choices) or {int: "n", float: "x", bool: "true|false", str: "text"}[kind]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """Return what stands for a value in the help; the name of an argument speaks for itself."""
        return self.name if isinstance(param, click.Option) else None

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; raises ``BadInput`` that names the option."""
        name = "" if param is None else str(param.name)
        if not isinstance(value, str):
            return value
        if not value.strip():
            raise BadInput(f"{name} is empty: expected a value")
        if type(None) in kinds(self.hint) and value.lower() in NOTHING:
            return None
        plain, rule = read(self.hint, value, name), rule_of(self.hint)
        return plain if rule is None else rule(plain, f"{name}={{}}")


def command(run: Callable[..., None], settings: type | None = None) -> click.Command:
    """Return a function as a command: parameters by keyword only are its options, the others its arguments.

    Parameters
    ----------
    run : callable
        What it does, with a numpydoc docstring.
    settings : type, optional
        A dataclass, every field of which is an option too: those that are given are passed on as ``overrides``.
    """
    doc = inspect.getdoc(run) or ""
    hints, about = typing.get_type_hints(run, include_extras=True), _descriptions(doc)
    own = [p for p in inspect.signature(run).parameters.values() if p.name != "overrides"]
    params: list[click.Parameter] = [
        _option(p.name, hints[p.name], about.get(p.name, ""), p.default)
        if p.kind is p.KEYWORD_ONLY
        else click.Argument(
            [p.name],
            type=Word(hints[p.name]),
            **({} if p.default is p.empty else {"default": p.default, "required": False}),
        )
        for p in own
    ]
    names = [] if settings is None else [f.name for f in dataclasses.fields(settings)]
    if settings is not None:
        hints = typing.get_type_hints(settings, include_extras=True)
        about = _descriptions(inspect.getdoc(settings) or "")
        params += [_option(name, hints[name], about.get(name, "")) for name in names]

    def callback(**read: Any) -> None:
        given = {name: value for name, value in read.items() if value is not _NOT_GIVEN}
        if settings is not None:
            given["overrides"] = {name: given.pop(name) for name in names if name in given}
        imported()
        run(**given)

    return _Command(
        run.__name__,
        params=params,
        callback=callback,
        help=doc.partition("\n")[0],
        context_settings={"token_normalize_func": lambda name: name.replace("-", "_")},  # of options
    )


def _option(name: str, hint: Any, about: str, default: Any = None) -> click.Option:
    """Return an option; what it says of its default is not one, so that it is known whether it was given."""
    text = about if default is None else f"{about} Default: {default}."
    bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if bool in kinds(hint) else {}
    names = [*([f"-{name}"] if len(name) == 1 else []), f"--{name}"]
    return click.Option(names, type=Word(hint), help=text, multiple=True, callback=_last, **bare)


def _last(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    """The last of several counts, so that a list of options can be changed at its end."""
    return values[-1] if values else _NOT_GIVEN


class _Command(click.Command):
    """A command whose switches stand alone or before a word of truth, so that no name after them is taken for their value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join switches and their values before click reads the words."""
        truths = [p for p in self.params if isinstance(p.type, Word) and bool in kinds(p.type.hint)]
        switches = {name for p in truths for name in p.opts}
        words, joined = list(args), list[str]()
        while words:
            word = words.pop(0)
            if word == "--":
                joined += [word, *words]
                break
            if word.replace("-", "_").replace("__", "--", 1) in switches:
                word += "=" + (words.pop(0) if words and words[0].lower() in TRUE + FALSE else "true")
            joined.append(word)
        return super().parse_args(ctx, joined)


def _descriptions(doc: str) -> dict[str, str]:
    """Return what a numpydoc docstring says of each parameter."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w.*\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^(\w[\w, ]*?)(?: :.*)?\n((?:    .*\n?)+)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(_plain(text).split()) for names, text in entries for name in names.split(", ")}


def _plain(text: str) -> str:
    return re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", text)
