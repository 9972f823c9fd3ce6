"""The options of ``wgflow train``: the fields of a recipe, and the options of its method."""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from wgflow.cli.arguments import Section, Word, option
from wgflow.core.docstrings import descriptions
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.fields import Positive
from wgflow.core.words import kinds
from wgflow.generative import RECIPES, Recipe
from wgflow.generative.earlier import EARLIER_RATES, FIRST_METHOD
from wgflow.generative.methods import METHOD, Method, Option, method, methods

FIRST = "fashion-mnist"
"""The recipe of data that come without one, and of which a help shows the options."""
_SWITCHES = {"allow_code", "h", "help"}


class OptionWord(Word):
    """A value of an option of a method."""

    def __init__(self, asked: Option) -> None:
        self.hint, self.asked, self.name = asked.hint, asked, asked.word

    def read(self, value: str, name: str) -> Any:
        """Return what a text stands for, checked."""
        return self.asked.read(value, self.asked.name)


class _OfMethod(click.Option):
    """An option of a method, which the help shows under its short name."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return f"{self.opts[0]} {self.type.name}", self.help or ""


def sections(words: list[str]) -> Sequence[Section]:
    """Return the options for a command line: those of the method that it names, or that its recipe has.

    Raises
    ------
    BadInput
        For a method that does not exist, and for an option of another one.
    """
    recipe = _recipe(words)
    m = method(_named(words) or recipe.method)
    fields = {f.name: f for f in dataclasses.fields(Recipe) if f.name != "options"}
    _check_names(words, m, fields.keys())
    about, hints = descriptions(Recipe), typing.get_type_hints(Recipe, include_extras=True)
    shown = {name: getattr(recipe, name) for name in fields} | {"method": m.name}
    own = [option(name, Word(hints[name]), about.get(name, ""), shown[name]) for name in fields]
    for o in own:
        o.hidden = not m.takes(str(o.name))
    if m.name == FIRST_METHOD:
        own += [option(name, Word(Positive), "Earlier name of a part of lr.", None) for name in EARLIER_RATES]
        for o in own[-len(EARLIER_RATES) :]:
            o.hidden = True
    values = recipe.options if m.name == recipe.method else m.defaults
    ours = [of_method(o, values[o.name], o.name not in fields) for o in m.options.values()]
    return [Section("Recipe", own), Section(f"{m.name}: {m.about.rstrip('.')} (--NAME or --method.NAME)", ours)]


def of_method(o: Option, value: Any, short: bool) -> click.Option:
    """Return an option of a method, under its own name as well where ``short``; ``value`` is what its help calls the default."""
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    names = [*([f"--{o.name}"] if short else []), f"--{METHOD}{o.name}"]
    return option(identifier(o.name), OptionWord(o), o.about, shown, names=names, kind=_OfMethod)


def identifier(name: str) -> str:
    """Return the name under which click hands over an option of a method."""
    return f"method__{name}"


def as_changes(overrides: dict[str, Any]) -> dict[str, Any]:
    """Return what was given on a command line as a recipe takes it."""
    return {name.replace("method__", METHOD, 1): value for name, value in overrides.items()}


def _spelled(word: str) -> str:
    """Return the name of an option as it is known, without its value; empty for other words."""
    return word.partition("=")[0].lstrip("-").replace("-", "_") if word.startswith("-") else ""


def _before_the_end(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the words before ``--``, each with the one that follows it."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--":
            return
        yield word, following


def _named(words: Sequence[str]) -> str | None:
    """Return the method that the words name, the last one of several."""
    found = None
    for word, following in _before_the_end(words):
        if _spelled(word) == "method":
            found = word.partition("=")[2] or following
    return found


def _check_names(words: Sequence[str], m: Method, fields: Any) -> None:
    """Raise ``BadInput`` for an option that another method has, or that there was before there were methods."""
    for name in (_spelled(word) for word, _ in _before_the_end(words)):
        if name in EARLIER_RATES and "lr" in m.options and m.name != FIRST_METHOD:
            raise BadInput(f"{name} is part of lr now: --lr GENERATOR,CRITIC, such as --lr 1e-3,5e-4")
        short = name.removeprefix(METHOD)
        others = [other.name for other in methods() if short in other.options]
        if others and short not in m.options and (name != short or name not in fields):
            raise BadInput(f"method {m.name} has no {short}: it is an option of {', '.join(others[:4])}")


def _recipe(words: Sequence[str]) -> Recipe:
    """Return the recipe that the words name; the first one where that is not clear yet: what is wrong is said later."""
    hints = typing.get_type_hints(Recipe, include_extras=True)
    truths = _SWITCHES | {name for name, hint in hints.items() if bool in kinds(hint)}
    truths |= {o.name for m in methods() for o in m.options.values() if bool in kinds(o.hint)}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            word = rest.pop(0) if rest else ""
        elif word.startswith("-"):
            if "=" not in word and _spelled(word).removeprefix(METHOD) not in truths and rest:
                rest.pop(0)
            continue
        if word in RECIPES or Path(word).is_file():
            try:
                return Recipe.load(word, allow_code=True)
            except WgflowError:
                break
    return RECIPES[FIRST]
