"""Methods that are asked about particles: points in their place are taken, and anything else is refused, before they compute."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

from wgflow.core.rules import Rule, rule_of
from wgflow.measures.particles import Particles


def take_points(cls: type, base: type) -> None:
    r"""Let the methods of a class that ``base`` declares with a parameter ``rho`` take points (n, \*event) in the place of particles."""
    for name, place in _places(base).items():
        if inspect.isfunction(method := vars(cls).get(name)):
            setattr(cls, name, _asked(method, place))


@functools.cache
def _places(base: type) -> dict[str, int]:
    """Return where ``rho`` is among the arguments after ``self``, by method."""
    declared = {name: list(inspect.signature(m).parameters) for name, m in inspect.getmembers(base, inspect.isfunction)}
    return {name: names.index("rho") - 1 for name, names in declared.items() if "rho" in names and name[0] != "_"}


def _asked(method: Callable[..., Any], place: int) -> Callable[..., Any]:
    def taken(owner: Any, rho: Any) -> Any:
        if type(rho) is Particles:
            return rho
        return cast(Rule, rule_of(Particles))(rho, f"{type(owner).__name__}.{method.__name__}(rho={{}})")

    @functools.wraps(method)
    def asked(self: Any, *args: Any, **named: Any) -> Any:
        if place < len(args):
            args = (*args[:place], taken(self, args[place]), *args[place + 1 :])
        elif "rho" in named:
            named["rho"] = taken(self, named["rho"])
        return method(self, *args, **named)

    asked.asked_at_points = True  # type: ignore[attr-defined]  # to whom it describes a run the method is what it was
    return asked
