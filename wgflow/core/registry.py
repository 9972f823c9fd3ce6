"""Named families (functionals, estimators, solvers, kernels, maps, measures) with near misses and plugins from other packages."""

import difflib
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from wgflow.core.errors import BadInput

T = TypeVar("T")


def near_misses(name: str, known: list[str]) -> str:
    """Return ``"did you mean ...? known: ..."`` for an unknown name."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


class Registry(Generic[T]):
    """Classes by name.

    Names are for the border only (command line, recipes, the docs table, test parametrisation); in code one passes
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
        """Class decorator. Raises ``BadInput`` when another class already has the name."""

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
