"""Every check of every registered part: it passes, or it is known why it does not apply or fails."""

from collections.abc import Callable, Iterable, Mapping
from unittest import SkipTest

import pytest

from wgflow import BadInput
from wgflow.testing import Check, checks_for
from wgflow.testing._checks import same_draws

Names = Mapping[str, Iterable[str]]


class Contract:
    """The checks of a registry.

    ``skipped`` names the checks that do not apply to a part, ``excused`` those that it fails on purpose: neither may change
    without a change here. A part that is not among the skipped yet is checked for whatever applies to it.
    """

    def __init__(self, registry: Iterable[str], make: Callable, skipped: Names, excused: Names | None = None) -> None:
        held = {name: _checks(_made(make, name)) for name in registry}
        self.known = set(skipped)
        self.skipped = {name: set(skipped.get(name, ())) for name in held}
        self.excused = {name: set((excused or {}).get(name, ())) for name in held}
        self.cases = [(n, c) for n, checks in held.items() for c in checks if c.name not in self.skipped[n]]
        self.left = {n: [c for c in checks if c.name in self.skipped[n]] for n, checks in held.items()}
        unknown = {n: (self.skipped[n] | self.excused[n]) - {c.name for c in held[n]} for n in held}
        assert not any(unknown.values()), unknown

    def holds(self, name: str, check: Check) -> None:
        """Run a check that applies."""
        try:
            if check.name in self.excused[name]:
                with pytest.raises(AssertionError):
                    check()
            else:
                check()
        except SkipTest as reason:
            if name not in self.known:
                raise
            pytest.fail(f"{check} does not apply to {name} any more: {reason}")

    def skips(self, name: str) -> None:
        """Ask the checks that do not apply."""
        for check in self.left[name]:
            with pytest.raises(SkipTest):
                check()


def _made(make: Callable, name: str) -> object:
    """Make a part whose networks do not depend on what was collected before it."""
    with same_draws():
        return make(name)


def _checks(part: object) -> list[Check]:
    """Return the checks of a part; of one that serves nothing simple, one that says so."""
    try:
        return checks_for(part)
    except BadInput as error:
        message = str(error)
        return [Check("is_checked", "It can be checked.", lambda: pytest.fail(message))]
