"""Errors that wgflow raises on purpose; each message names the value, what was expected and what to do."""

from typing import Any


class WgflowError(Exception):
    """Base class of every error raised on purpose by wgflow."""


class Unsupported(WgflowError, NotImplementedError):
    """The object does not implement the method that was asked of it."""


class Incompatible(WgflowError, TypeError):
    """A functional, a solver and a measure that cannot work together; the message says why and what to use instead."""


class BadInput(WgflowError, ValueError):
    """An argument has a wrong shape, type, range or name, or holds values that are not finite."""


class MissingDependency(WgflowError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class DataNotFound(WgflowError, FileNotFoundError):
    """A data set or weights file is not where it was looked for; the message lists the places and how to get it."""


class Diverged(WgflowError, ArithmeticError):
    """A quantity stopped being finite; the message names the term, the time step and the update.

    Attributes
    ----------
    reason, advice : str
        The two halves of the message: what happened, and what to do.
    term : str
        Name of the first quantity that was not finite.
    step, update : int
        Completed time steps and updates when it was seen.
    time : float
        Time of the last law that was finite.
    solution : Solution or None
        What the run had produced until then.
    """

    def __init__(self, reason: str, *, advice: str = "", term: str = "", step: int = -1, update: int = -1) -> None:
        super().__init__(f"{reason} {advice}".rstrip())
        self.reason, self.advice = reason, advice
        self.term, self.step, self.update = term, step, update
        self.time = 0.0
        self.solution: Any = None


class CheckpointError(WgflowError, RuntimeError):
    """A checkpoint is truncated, foreign or belongs to another run, or none could be written."""


class CannotWrite(WgflowError, OSError):
    """A file could not be written; the message names it and the reason. What was there before is still there."""


class NotConverged(RuntimeWarning):
    """An iteration inside of a computation stopped at its budget, above its tolerance; the message has both numbers."""


for _kind in list(vars().values()):
    if isinstance(_kind, type) and _kind.__module__ == __name__:
        _kind.__module__ = "wgflow"  # tracebacks show the name that people import
