"""Errors that wgflow raises on purpose; each message names the value, what was expected and what to do."""

from typing import Any


class WgflowError(Exception):
    """Base class of every error raised on purpose by wgflow.

    Examples
    --------
    >>> import wgflow as wg
    >>> try:
    ...     wg.JKO(iters=0)
    ... except wg.WgflowError as error:
    ...     print(error)
    JKO(iters=0): expected a whole number from 1 up, or None
    """


class Unsupported(WgflowError, NotImplementedError):
    """The object does not implement the method that was asked of it.

    Examples
    --------
    A cloud of particles has no density at a point:

    >>> import torch
    >>> import wgflow as wg
    >>> wg.Particles(torch.zeros(3, 1)).score(torch.ones(1, 1))
    Traceback (most recent call last):
        ...
    wgflow.Unsupported: ...
    """


class Incompatible(WgflowError, TypeError):
    """A functional, a solver and a measure that cannot work together; the message says why and what to use instead.

    Examples
    --------
    Langevin noise has no finite law of a network behind it:

    >>> import torch
    >>> import wgflow as wg
    >>> latent = wg.StandardNormal(2)
    >>> start = wg.Pushforward(latent, torch.nn.Linear(2, 2))
    >>> wg.solve(wg.KL(latent), wg.Langevin(), start, step_size=0.1, num_steps=1)
    Traceback (most recent call last):
        ...
    wgflow.Incompatible: ...
    """


class BadInput(WgflowError, ValueError):
    """An argument has a wrong shape, type, range or name, or holds values that are not finite.

    Examples
    --------
    >>> import wgflow as wg
    >>> wg.RBF(-1.0)
    Traceback (most recent call last):
        ...
    wgflow.BadInput: RBF(bandwidth=-1.0): ...
    """


class MissingDependency(WgflowError, ImportError):
    """An optional package is needed; the message names the extra that installs it.

    Examples
    --------
    It is an ``ImportError``, and says which extra to install:

    >>> issubclass(MissingDependency, ImportError)
    True
    """


class DataNotFound(WgflowError, FileNotFoundError):
    """A data set or weights file is not where it was looked for; the message lists the places and how to get it.

    Examples
    --------
    It is a ``FileNotFoundError``:

    >>> issubclass(DataNotFound, FileNotFoundError)
    True
    """


class Diverged(WgflowError, ArithmeticError):
    r"""A quantity stopped being finite; the message names the term, the time step and the update.

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

    Examples
    --------
    Forward Euler for :math:`\tfrac12E|x|^2` is stable for :math:`h<2`. At h = 1e20 the second step overflows:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> try:
    ...     wg.solve(F, wg.ForwardEuler(), wg.Particles(torch.ones(1, 1)), step_size=1e20, num_steps=5)
    ... except wg.Diverged as error:
    ...     print(error.step, error.solution.measure.x)
    1 tensor([[-1.0000e+20]])
    """

    def __init__(self, reason: str, *, advice: str = "", term: str = "", step: int = -1, update: int = -1) -> None:
        super().__init__(f"{reason} {advice}".rstrip())
        self.reason, self.advice = reason, advice
        self.term, self.step, self.update = term, step, update
        self.time = 0.0
        self.solution: Any = None


class CheckpointError(WgflowError, RuntimeError):
    """A checkpoint is truncated, foreign or belongs to another run, or none could be written.

    Examples
    --------
    It is a ``RuntimeError``:

    >>> issubclass(CheckpointError, RuntimeError)
    True
    """


class CannotWrite(WgflowError, OSError):
    """A file could not be written; the message names it and the reason. What was there before is still there.

    Examples
    --------
    It is an ``OSError``, so that what catches those catches it:

    >>> issubclass(CannotWrite, OSError)
    True
    """


class NotConverged(RuntimeWarning):
    """An iteration inside of a computation stopped at its budget, above its tolerance; the message has both numbers.

    Examples
    --------
    It is a warning: the result is there, and no better than the message says.

    >>> issubclass(NotConverged, RuntimeWarning)
    True
    """


class EfficiencyWarning(RuntimeWarning):
    """A flow has begun that would spend hours on sums over pairs of points; the message says how many and what is cheaper.

    :func:`solve` gives it once, in the first update, when it has timed such sums for a second and all updates together would take more
    than an hour at that rate. On a GPU, where work is queued, it may come late.

    Examples
    --------
    It is a warning: the flow goes on. As an error, ``warnings.simplefilter("error", wg.EfficiencyWarning)``, it ends such a flow
    where it begins.

    >>> issubclass(EfficiencyWarning, RuntimeWarning)
    True
    """


for _kind in list(vars().values()):
    if isinstance(_kind, type) and _kind.__module__ == __name__:
        _kind.__module__ = "wgflow"  # tracebacks show the name that people import
