"""Commands of the command line, made from functions: their signatures, annotations and numpydoc docstrings, by click."""

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from wgflow.core.docstrings import descriptions, summary
from wgflow.core.errors import BadInput
from wgflow.core.rules import rule_of
from wgflow.core.startup import imported
from wgflow.core.words import FALSE, NOTHING, TRUE, choices, kinds, read

_NOT_GIVEN: Any = object()


class Word(click.ParamType):
    """A value as people write it, read as what an annotation asks for and checked by it."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        kind = next(k for k in kinds(hint) if k is not type(None))
        others = {int: ("n",), float: ("x",), bool: ("true|false",), str: ()}[kind]
        self.name = "|".join((*others, *choices(hint))) or "text"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """Return what stands for a value in the help; the name of an argument speaks for itself."""
        return self.name if isinstance(param, click.Option) else None

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; raises ``BadInput`` that names the option."""
        name = "" if param is None else str(param.name)
        if not isinstance(value, str):
            return value
        if not value.strip():
            raise BadInput(f"{name.removeprefix('method__')} is empty: expected a value")
        return self.read(value, name)

    def read(self, value: str, name: str) -> Any:
        """Return what a text stands for, checked."""
        if type(None) in kinds(self.hint) and value.lower() in NOTHING:
            return None
        plain, rule = read(self.hint, value, name), rule_of(self.hint)
        return plain if rule is None else rule(plain, f"{name}={{}}")


@dataclass(frozen=True)
class Section:
    """Options that a command has besides those of its function: what is given of them is passed on as ``overrides``."""

    title: str
    options: Sequence[click.Option]


def command(
    run: Callable[..., None], sections: Callable[[list[str]], Sequence[Section]] | None = None
) -> click.Command:
    """Return a function as a command: parameters by keyword only are its options, the others its arguments.

    Parameters
    ----------
    run : callable
        What it does, with a numpydoc docstring.
    sections : callable, optional
        From the words on the command line to further options; those that are given are passed on as ``overrides``.
    """
    hints, about = typing.get_type_hints(run, include_extras=True), descriptions(run)
    params: list[click.Parameter] = [
        option(p.name, Word(hints[p.name]), about.get(p.name, ""), p.default)
        if p.kind is p.KEYWORD_ONLY
        else click.Argument(
            [p.name],
            type=Word(hints[p.name]),
            **({} if p.default is p.empty else {"default": p.default, "required": False}),
        )
        for p in inspect.signature(run).parameters.values()
        if p.name != "overrides"
    ]
    own = {p.name for p in params}

    def callback(**read: Any) -> None:
        given = {name: value for name, value in read.items() if value is not _NOT_GIVEN}
        if sections is not None:
            more = {name: given.pop(name) for name in list(given) if name not in own}
            given["overrides"] = more
        imported()
        run(**given)

    made = Command(
        run.__name__,
        params=params,
        callback=callback,
        help=summary(run),
        context_settings={"token_normalize_func": _plain},
    )
    made.sections_of = sections
    return made


def _plain(option: str) -> str:
    """Return an option as it is looked up: with underscores, and -ization where somebody writes -isation."""
    return option.replace("-", "_").replace("isation", "ization")


def option(
    name: str,
    word: Word,
    about: str,
    default: Any = None,
    names: Sequence[str] = (),
    kind: type[click.Option] = click.Option,
) -> click.Option:
    """Return an option; what it says of its default is not one, so that it is known whether it was given."""
    text = about if default is None else f"{about} Default: {default}."
    bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if bool in kinds(word.hint) else {}
    plain = name.rstrip("_")  # a word of Python's own has an underscore behind it
    spelled = [*([f"-{name}"] if len(name) == 1 else []), *(names or [f"--{plain}"])]
    return kind([*spelled, name], type=word, help=text, multiple=True, callback=_last, **bare)


def _last(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    """The last of several counts, so that a list of options can be changed at its end."""
    return values[-1] if values else _NOT_GIVEN


class Command(click.Command):
    """A command whose switches stand alone or before a word of truth or of their own, so that no name after them is their value."""

    sections_of: Callable[[list[str]], Sequence[Section]] | None = None
    sections: Sequence[Section] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the further options, and join switches and their values before click reads the words."""
        if self.sections_of is not None:
            self.sections = self.sections_of(list(args))
            own = [p for p in self.params if not any(p in s.options for s in self.sections)]
            self.params = [*own, *(o for s in self.sections for o in s.options)]
        switches = {
            name: TRUE + FALSE + choices(p.type.hint)
            for p in self.params
            if isinstance(p.type, Word) and bool in kinds(p.type.hint)
            for name in p.opts
        }
        words, joined = list(args), list[str]()
        while words:
            word = words.pop(0)
            if word == "--":
                joined += [word, *words]
                break
            values = switches.get(word[:2] + _plain(word[2:]))
            if values is not None:
                word += "=" + (words.pop(0) if words and words[0].lower() in values else "true")
            joined.append(word)
        return super().parse_args(ctx, joined)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of every section under its title."""
        further = {id(o) for s in self.sections for o in s.options}
        groups = [("Options", [p for p in self.get_params(ctx) if id(p) not in further])]
        groups += [(s.title, list(s.options)) for s in self.sections]
        for title, params in groups:
            records = [record for p in params if (record := p.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
