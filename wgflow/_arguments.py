"""Arguments of a command, read from the signature and the docstring of its function: names and options in any order."""

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from wgflow._fields import rule_of
from wgflow._registry import near_misses
from wgflow._words import FALSE, NOTHING, TRUE, kinds, read
from wgflow.errors import BadInput

_NUMBER = re.compile(r"-\.?(\d|inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Command:
    """A function as a command: parameters by keyword only are its options, the others its names.

    Parameters
    ----------
    run : callable
        What it does, with a numpydoc docstring.
    settings : type, optional
        A dataclass, every field of which is an option too: those that are given are passed on as ``overrides``.
    """

    run: Callable[..., None]
    settings: type | None = None

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return _plain(inspect.getdoc(self.run) or "").partition("\n")[0]

    def help(self, name: str) -> str:
        """Return what ``wgflow NAME --help`` says."""
        return self._parser(name).format_help()

    def parse(self, name: str, words: Sequence[str]) -> dict[str, Any]:
        """Return the arguments that the words give.

        Raises
        ------
        BadInput
            For a word that is not understood, an option given twice or without a value, and a value of another kind.
        """
        parser, hints = self._parser(name), self._hints()
        flags = [f"--{option}" for option, hint in hints.items() if bool in kinds(hint)]
        given, left = parser.parse_known_intermixed_args(list(_joined(words, flags)))
        for word in left:
            if word.startswith("-"):
                option, known = word.partition("=")[0], [f"--{o}" for o in hints if o not in self._names()]
                hint = near_misses(option, known).partition("known:")[0]
                raise BadInput(f"{name} has no option {option}: {hint}see wgflow {name} --help")
            raise BadInput(f"{name}: {word!r} is one name too many; an option is written --name value")
        values = {option: _value(hints[option], text, option) for option, text in vars(given).items()}
        overrides = {f.name: values.pop(f.name) for f in self._settings() if f.name in values}
        return values | ({} if self.settings is None else {"overrides": overrides})

    def _names(self) -> list[str]:
        parameters = inspect.signature(self.run).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    def _settings(self) -> tuple[Any, ...]:
        return () if self.settings is None else dataclasses.fields(self.settings)

    def _hints(self) -> dict[str, Any]:
        fields = {} if self.settings is None else typing.get_type_hints(self.settings, include_extras=True)
        own = typing.get_type_hints(self.run, include_extras=True)
        return {k: h for k, h in (own | fields).items() if k not in ("return", "overrides")}

    def _parser(self, name: str) -> "_Parser":
        parser = _Parser(
            prog=f"wgflow {name}",
            description=self.summary,
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        about, hints = _descriptions(inspect.getdoc(self.run) or ""), self._hints()
        for p in inspect.signature(self.run).parameters.values():
            if p.name == "overrides":
                continue
            default = "" if p.default in (p.empty, None) else f" Default: {p.default}."
            text = (about.get(p.name, "") + default).replace("%", "%%")
            if p.kind is p.POSITIONAL_OR_KEYWORD:
                parser.add_argument(p.name, nargs=None if p.default is p.empty else "?", help=text)
            else:
                short = [f"-{p.name}"] if len(p.name) == 1 else []
                parser.add_argument(*short, f"--{p.name}", action=_Once, metavar=_shown(hints[p.name]), help=text)
        if self.settings is not None:
            group = parser.add_argument_group("settings", "Those that are not given stay as the recipe has them.")
            about = _descriptions(inspect.getdoc(self.settings) or "")
            for f in self._settings():
                text = about.get(f.name, "").replace("%", "%%")
                group.add_argument(f"--{f.name}", action=_Once, metavar=_shown(hints[f.name]), help=text)
        return parser


class _Parser(argparse.ArgumentParser):
    """Raises ``BadInput`` where argparse prints the usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{self.prog.removeprefix('wgflow ')}: {message}")


class _Once(argparse.Action):
    """An option that is given twice says two things, and one of them would be ignored."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            raise BadInput(f"{option_string} is given twice")
        setattr(namespace, self.dest, values)


def _joined(words: Sequence[str], flags: Sequence[str]) -> Iterator[str]:
    """Yield the words with ``--an-option value`` as ``--an_option=value`` where argparse would not take the value."""
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--":
            yield from (word, *words)
            return
        if not word.startswith("--"):
            yield word
            continue
        name, given, value = word.partition("=")
        name = "--" + name[2:].replace("-", "_")
        if not given and name in flags:
            given, value = "=", words.pop(0) if words and words[0].lower() in TRUE + FALSE else "true"
        elif not given and words and _NUMBER.match(words[0]):
            given, value = "=", words.pop(0)
        yield f"{name}{given}{value}"


def _shown(hint: Any) -> str:
    """Return what stands for a value in the help."""
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    kind = next(k for k in kinds(hint) if k is not type(None))
    return "|".join(choices) or {int: "N", float: "X", bool: "true|false", str: "TEXT"}[kind]


def _value(hint: Any, text: str, name: str) -> Any:
    if not text.strip():
        raise BadInput(f"{name} is empty: expected a value")
    if type(None) in kinds(hint) and text.lower() in NOTHING:
        return None
    value, rule = read(hint, text, name), rule_of(hint)
    return value if rule is None else rule(value, f"{name}={{}}")


def _descriptions(doc: str) -> dict[str, str]:
    """Return what a numpydoc docstring says of each parameter."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w.*\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^(\w[\w, ]*?)(?: :.*)?\n((?:    .*\n?)+)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(_plain(text).split()) for names, text in entries for name in names.split(", ")}


def _plain(text: str) -> str:
    return re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", text)
