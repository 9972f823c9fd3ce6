"""Checks by name: what one is, how the checks of an object are run, and what is reported."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar
from unittest import SkipTest

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.registry import near_misses
from wgflow.core.rng import global_generators
from wgflow.testing._precision import double_precision

C = TypeVar("C")


@dataclass(frozen=True)
class Check:
    """One named check of one object.

    Call it: it returns nothing, raises ``AssertionError`` with a sentence that says what is wrong, by how much and where, or
    raises ``unittest.SkipTest`` with the reason where it does not apply (pytest and unittest report that as skipped).

    Attributes
    ----------
    name : str
        What it is called.
    claim : str
        What it holds the object to, in one sentence.
    run : callable
        The check itself.

    Examples
    --------
    >>> import wgflow as wg
    >>> check = wg.testing.checks_for(wg.RBF(1.0))[0]
    >>> check()  # passes
    """

    name: str
    claim: str
    """What it holds the object to, in one sentence."""
    run: Callable[[], None] = field(repr=False, compare=False)

    def __call__(self) -> None:
        self.run()

    def __str__(self) -> str:
        return self.name

    @property
    def __name__(self) -> str:
        return self.name  # what pytest calls a parameter by


def same_draws() -> AbstractContextManager[None]:
    """Return the block in which networks are made the same every time, and after which the caller's generator is where it was."""
    return global_generators(0, torch.device("cpu"))


class Suite(Generic[C]):
    """The checks of one kind of object, in the order in which they were declared.

    Parameters
    ----------
    double : bool
        Run them with float64 as the default, for networks that are made meanwhile.
    """

    def __init__(self, double: bool = True) -> None:
        self.checks: dict[str, Callable[[C], None]] = {}
        self.double = double

    def check(self, f: Callable[[C], None]) -> Callable[[C], None]:
        """Take a function of a case among the checks, by its name and the first line of its docstring."""
        self.checks[f.__name__] = f
        return f

    def of(self, case: C) -> list[Check]:
        """Return the checks of one case."""
        return [Check(name, _claim(f), partial(self._run, f, case)) for name, f in self.checks.items()]

    def _run(self, f: Callable[[C], None], case: C) -> None:
        with same_draws(), double_precision() if self.double else nullcontext():
            f(case)


@dataclass(frozen=True)
class Report:
    """What was checked.

    Attributes
    ----------
    subject : str
        What was looked at.
    passed : tuple of str
        Names of the checks that passed.
    skipped : dict
        Reasons of the checks that did not apply, or that were excused, by name.

    Examples
    --------
    >>> import wgflow as wg
    >>> report = wg.testing.check_kernel(wg.RBF(1.0))
    >>> len(report.passed) > 3
    True
    """

    subject: str
    passed: tuple[str, ...]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.subject}: {len(self.passed)} checks passed, {len(self.skipped)} skipped"]
        lines += [f"  passed   {name}" for name in self.passed]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"  skipped  {', '.join(names)} ({reason})" for reason, names in reasons.items()]
        return "\n".join(lines)

    __repr__ = __str__


def run_all(subject: str, checks: Iterable[Check], excused: Mapping[str, str] | None) -> Report:
    """Run the checks and return what happened.

    Raises
    ------
    AssertionError
        With one sentence for each of the checks that failed.
    BadInput
        When a name among the excused is that of no check.
    """
    checks, excused = list(checks), dict(excused or {})
    names = [check.name for check in checks]
    for name in excused:
        if name not in names:
            raise BadInput(f"excused={name!r}: no check is called that: {near_misses(name, names)}")
    passed, skipped, failed = list[str](), dict[str, str](), dict[str, Exception]()
    for check in checks:
        if check.name in excused:
            skipped[check.name] = f"excused: {excused[check.name]}"
            continue
        try:
            check()
        except SkipTest as reason:
            skipped[check.name] = str(reason)
        except Exception as error:
            failed[check.name] = error
        else:
            passed.append(check.name)
    if failed:
        said: dict[str, list[str]] = {}
        for name, why in failed.items():
            said.setdefault(_said(why), []).append(name)
        lines = [f"  {', '.join(names)}: {sentence}" for sentence, names in said.items()]
        head = f"{subject}: {len(failed)} of {len(checks) - len(skipped)} checks failed"
        foreign = (why for why in failed.values() if not isinstance(why, AssertionError))
        raise AssertionError("\n".join([head, *lines])) from next(foreign, None)
    return Report(subject, tuple(passed), skipped)


def _claim(f: Callable[..., Any]) -> str:
    return (f.__doc__ or f.__name__.replace("_", " ")).strip().splitlines()[0]


def _said(error: Exception) -> str:
    if isinstance(error, AssertionError):
        return str(error)
    text = f"it raised {type(error).__name__}: {error}"
    if "dtype" in str(error):
        text += (
            ". (Checks compute in float64: make tensors that your functions hold float64, or convert them: a.to(x).)"
        )
    return text


def close(found: Any, expected: Any, claim: str, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raise ``AssertionError`` unless two tensors (or numbers) agree: the claim, the worst entry and what is allowed."""
    a, b = (t.detach() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64) for t in (found, expected))
    assert a.shape == b.shape, f"{claim}: the shape is {tuple(a.shape)}, expected {tuple(b.shape)}"
    a, b = a.double(), b.double()
    gap, allowed = (a - b).abs(), atol + rtol * b.abs()
    wrong = ~((gap <= allowed) | (a == b))
    if not bool(wrong.any()):
        return
    excess = torch.where(wrong, (gap / (allowed + torch.finfo(gap.dtype).tiny)).nan_to_num(torch.inf), -1.0)
    worst = int(excess.argmax())
    at = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), a.shape))
    place = f" at {list(at)}" if at else ""
    ours, theirs, off, most = (float(t.flatten()[worst]) for t in (a, b, gap, allowed))
    raise AssertionError(
        f"{claim}: found {ours:.8g} in the place of {theirs:.8g}{place}, off by {off:.2g} where {most:.2g} is allowed"
    )


def at_most(found: Any, bound: Any, claim: str, slack: float = 0.0) -> None:
    """Raise ``AssertionError`` unless a number is at most a bound."""
    a, b = (float(t.detach()) if isinstance(t, Tensor) else float(t) for t in (found, bound))
    assert a <= b + slack, f"{claim}: {a:.8g} exceeds {b:.8g} by {a - b:.2g}"


def applies(condition: Any, reason: str) -> None:
    """Skip the check, with the reason, unless the condition holds."""
    if not condition:
        raise SkipTest(reason)
