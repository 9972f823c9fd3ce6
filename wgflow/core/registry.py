"""Named families (functionals, estimators, solvers, kernels, maps, measures) with near misses and plugins from other packages."""

import difflib
import textwrap
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from wgflow.core.brief import LINES, WIDTH, table
from wgflow.core.docstrings import summary
from wgflow.core.errors import BadInput

T = TypeVar("T")


def near_misses(name: str, known: list[str]) -> str:
    """Return ``"did you mean ...? known: ..."`` for an unknown name."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


class Listed:
    """What is known by name: shown as its names, in a notebook as a table of them with what each is."""

    kind: str
    """What the entries are, in the singular."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Yield the names."""

    @abstractmethod
    def __getitem__(self, name: str) -> Any:
        """Return the entry called ``name``."""

    def about(self, name: str) -> str:
        """Return what an entry is, in one line."""
        return summary(self[name])

    def __repr__(self) -> str:
        """Return the names, in at most ten lines."""
        names = list(self)
        text = f"{len(names)} {self.kind}s: {', '.join(names)}"
        lines = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], "  ..."])

    def _repr_html_(self) -> str:
        return table((self.kind, "what it is"), [(name, self.about(name)) for name in self])


class Named(dict[str, Any], Listed):
    """A dictionary of what is known by name."""

    __repr__ = Listed.__repr__

    def __init__(self, kind: str, entries: Mapping[str, Any]) -> None:
        super().__init__(entries)
        self.kind = kind


class Registry(Listed, Generic[T]):
    """Classes by name.

    Names are for the border only (command line, recipes, the docs table, test parametrization); in code one passes
    objects. Another package adds its own entries through the entry-point group ``wgflow.<kind>s``, loaded on first use;
    one that fails to load, or takes a name that is taken, is left out with a warning.

    Parameters
    ----------
    kind : str
        What the entries are, in the singular, for example ``"functional"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, type[T]] = {}
        self._plugins_loaded = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator. Raises ``BadInput`` when another class already has the name.

        Parameters
        ----------
        name : str
            The name at the command line, in recipes and in tables.

        Returns
        -------
        callable
            A class decorator. It returns the class, which knows the name as ``registered_name``.

        Raises
        ------
        BadInput
            When another class already has the name.

        Examples
        --------
        >>> shapes = Registry("shape")
        >>> @shapes.register("disk")
        ... class Disk:
        ...     pass
        >>> shapes["disk"] is Disk, Disk.registered_name
        (True, 'disk')
        """

        def add(cls: type[T]) -> type[T]:
            held = self._entries.get(name)
            if held is not None and held is not cls:
                raise BadInput(f"{self.kind} {name!r} is already registered by {held.__module__}.{held.__qualname__}")
            self._entries[name] = cls
            cls.registered_name = name  # type: ignore[attr-defined]
            return cls

        return add

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=f"wgflow.{self.kind}s"):
            try:
                self.register(point.name)(point.load())
            except Exception as error:
                warnings.warn(
                    f"the {self.kind} {point.name!r} of the plugin {point.value} was left out: {error}", stacklevel=3
                )

    def __getitem__(self, name: str) -> type[T]:
        """Return the class called ``name``; raises ``BadInput`` that lists near misses."""
        self._load_plugins()
        try:
            return self._entries[name]
        except KeyError:
            raise BadInput(f"no {self.kind} is called {name!r}: {near_misses(name, sorted(self._entries))}") from None

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(sorted(self._entries))

    def __contains__(self, name: str) -> bool:
        self._load_plugins()
        return name in self._entries

    def __len__(self) -> int:
        self._load_plugins()
        return len(self._entries)
