"""The checks that wgflow holds its own parts to, for a functional, estimator, solver, kernel, map or measure of yours.

Every function runs the checks of its kind, returns a :class:`Report` of what passed and what did not apply, and raises
``AssertionError`` with one sentence for each that failed. :func:`checks_for` returns the same checks one by one, for
``pytest.mark.parametrize``. They compute in float64 on a CPU, on a few points, and need nothing but wgflow.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from wgflow import Estimator, FeatureKernel, Functional, Kernel, Measure, MovingMeasure, Solver
from wgflow.core.errors import BadInput
from wgflow.maps import TransportMap
from wgflow.testing import _duality, _orders  # noqa: F401  their checks join those of functionals and solvers
from wgflow.testing._checks import Check, Report, Suite, run_all, same_draws
from wgflow.testing._estimators import ESTIMATOR, EstimatorCase
from wgflow.testing._feature_kernels import FEATURE_KERNEL
from wgflow.testing._functionals import FUNCTIONAL, FunctionalCase
from wgflow.testing._kernels import KERNEL, KernelCase
from wgflow.testing._maps import MAP, MapCase
from wgflow.testing._measures import MEASURE, MeasureCase
from wgflow.testing._solvers import SOLVER, SolverCase

__all__ = [
    "Check",
    "Report",
    "check_estimator",
    "check_functional",
    "check_kernel",
    "check_map",
    "check_measure",
    "check_solver",
    "checks_for",
]

_KINDS: dict[type, tuple[type, Suite]] = {
    Functional: (FunctionalCase, FUNCTIONAL),
    Estimator: (EstimatorCase, ESTIMATOR),
    Solver: (SolverCase, SOLVER),
    FeatureKernel: (KernelCase, FEATURE_KERNEL),
    Kernel: (KernelCase, KERNEL),
    TransportMap: (MapCase, MAP),
    Measure: (MeasureCase, MEASURE),
}
Excused = Mapping[str, str] | None


def checks_for(obj: Any, **world: Any) -> list[Check]:
    """Return the checks of an object, each to be called by itself.

    Parameters
    ----------
    obj
        A functional, estimator, solver, kernel, map or measure.
    **world
        What it is looked at with, as for the function of its kind: ``measure`` for a functional, for example.

    Returns
    -------
    list of Check
        In the order in which they are declared.

    Raises
    ------
    BadInput
        For an object of another kind, or a name in ``world`` that its kind does not have.

    Examples
    --------
    >>> import wgflow as wg
    >>> checks = wg.testing.checks_for(wg.RBF(1.0))
    >>> checks[0].name
    'slope_is_the_derivative_of_the_profile'
    >>> checks[0]()
    """
    for kind, (case, suite) in _KINDS.items():
        if isinstance(obj, kind):
            known = list(inspect.signature(case.of).parameters)[1:]  # type: ignore[attr-defined]
            for name in world:
                if name not in known:
                    raise BadInput(
                        f"checks_for(a {kind.__name__}, {name}=...): expected {', '.join(known) or 'the object alone'}"
                    )
            with same_draws():
                return suite.of(case.of(obj, **world))  # type: ignore[attr-defined]
    hint = f": give an object, such as {obj.__name__}(...)" if isinstance(obj, type) else ""
    raise BadInput(
        f"there are no checks for {obj!r:.60}: expected a Functional, Estimator, Solver, Kernel, TransportMap or Measure{hint}"
    )


def _check(kind: type, obj: Any, excused: Excused, **world: Any) -> Report:
    if not isinstance(obj, kind):
        hint = f". That is a class: write {obj.__name__}(...)" if isinstance(obj, type) else ""
        raise BadInput(f"expected a {kind.__name__}, got {obj!r:.60}{hint}")
    return run_all(type(obj).__name__, checks_for(obj, **world), excused)


def check_functional(F: Functional, *, measure: Measure | None = None, excused: Excused = None) -> Report:
    r"""Check a functional: :meth:`~wgflow.Functional.value` and what a critic ascends.

    Finite scalars, the same for particles in another order, split in two, with weights of another scale or joined by one without
    mass; gradients in positions and weights against central differences; no randomness but by ``freeze``; float32 against
    float64; wrong arguments. With a dual form also Fenchel and Young, :math:`E_\rho\varphi-F^*(\varphi)\le F(\rho)`, and that critics are
    high on data; of an f-divergence that :math:`f^*` is the conjugate of :math:`f`, and ``ratio`` its slope.

    Parameters
    ----------
    F : Functional
    measure : Measure, optional
        Where it is evaluated: these particles, or seven points drawn from another measure. By default normal points, which know the
        density of a Gaussian near the standard normal; of the shape of its targets, or of two coordinates for a functional without.
    excused : dict of str, optional
        Names of checks that are left out, with the reason, which the report repeats.

    Returns
    -------
    Report

    Raises
    ------
    AssertionError
        With one sentence for each check that failed.
    BadInput
        For an object of another kind.

    Examples
    --------
    >>> import wgflow as wg
    >>> report = wg.testing.check_functional(wg.EnergyDistance(wg.StandardNormal(2)))
    >>> "splitting_a_particle_changes_nothing" in report.passed
    True
    """
    return _check(Functional, F, excused, measure=measure)


def check_estimator(
    estimator: Estimator, *, F: Functional | None = None, measure: Measure | None = None, excused: Excused = None
) -> Report:
    r"""Check an estimator: surrogate, velocity and first variation say the same, and depend on the law alone.

    Parameters
    ----------
    estimator : Estimator
    F : Functional, optional
        One that it serves; by default KL, the energy distance or a potential energy, the first of them that it accepts.
    measure : Measure, optional
        As for :func:`check_functional`.
    excused : dict of str, optional
        Names of checks that are left out, with the reason.

    Returns
    -------
    Report

    Raises
    ------
    AssertionError
        With one sentence for each check that failed.
    BadInput
        For an object of another kind; when no functional is given and it accepts none of the simple ones.

    Examples
    --------
    >>> import wgflow as wg
    >>> report = wg.testing.check_estimator(wg.Autograd())
    """
    return _check(Estimator, estimator, excused, F=F, measure=measure)


def check_solver(
    solver: Solver,
    *,
    F: Functional | None = None,
    measure: MovingMeasure | None = None,
    step_size: float = 0.3,
    num_steps: int = 3,
    excused: Excused = None,
) -> Report:
    """Check a solver: time, seeds, resuming after any update bit for bit, inputs, and the order that it declares.

    Parameters
    ----------
    solver : Solver
        Small: it is run some twenty times.
    F, measure : optional
        What it solves, and what it moves; by default simple ones that it accepts.
    step_size, num_steps
        Of the flow that is run.
    excused : dict of str, optional
        Names of checks that are left out, with the reason.

    Returns
    -------
    Report

    Raises
    ------
    AssertionError
        With one sentence for each check that failed.
    BadInput
        For an object of another kind; when nothing is given and it accepts nothing simple.
    Incompatible
        When it refuses what is given.

    Examples
    --------
    Forward Euler shows its order 1:

    >>> import wgflow as wg
    >>> report = wg.testing.check_solver(wg.ForwardEuler(), num_steps=2)
    >>> [name for name in report.passed if "order" in name]
    ['order_shows_against_the_exact_flow', 'order_shows_between_its_own_steps']
    """
    return _check(Solver, solver, excused, F=F, measure=measure, step_size=step_size, num_steps=num_steps)


def check_kernel(kernel: Kernel, *, excused: Excused = None) -> Report:
    """Check a kernel: slope and curvature against differences, ``evaluate``, what happens at 0, and what it declares.

    ``smooth`` is held against the slope near 0, ``characteristic`` against the energies of differences of laws, ``log_integral``
    against a quadrature. A rule such as ``MedianRBF`` is fitted to points first, and must look at their law alone. Of a
    :class:`~wgflow.FeatureKernel` the sums over pairs are held against its matrix, and their derivatives against differences.

    Parameters
    ----------
    kernel : Kernel
    excused : dict of str, optional
        Names of checks that are left out, with the reason.

    Returns
    -------
    Report

    Raises
    ------
    AssertionError
        With one sentence for each check that failed.
    BadInput
        For an object of another kind.

    Examples
    --------
    A kernel whose slope has the wrong sign is found out:

    >>> import wgflow as wg
    >>> class Wrong(wg.RBF):
    ...     def slope(self, s):
    ...         return -super().slope(s)
    >>> wg.testing.check_kernel(Wrong(1.0))
    Traceback (most recent call last):
        ...
    AssertionError: ...
    """
    return _check(Kernel, kernel, excused)


def check_map(T: TransportMap, *, excused: Excused = None) -> Report:
    """Check a transport map that was just made: identity, log-determinant, inverse, weights, and what it declares.

    It is looked at as it is and with its weights moved at random; log-determinants are held against the Jacobian by reverse-mode
    autograd, their gradients against differences.

    Parameters
    ----------
    T : TransportMap
        Copied first.
    excused : dict of str, optional
        Names of checks that are left out, with the reason.

    Returns
    -------
    Report

    Raises
    ------
    AssertionError
        With one sentence for each check that failed.
    BadInput
        For an object of another kind.

    Examples
    --------
    >>> import wgflow as wg
    >>> report = wg.testing.check_map(wg.maps.Affine(2))
    """
    return _check(TransportMap, T, excused)


def check_measure(measure: Measure, *, excused: Excused = None) -> Report:
    r"""Check a measure: draws, density, and of one that moves also ``start``, ``follow``, ``propose`` and its saved state.

    Draws are held against ``log_prob`` by Stein's identity, :math:`E[f\,\nabla\log p+\nabla\cdot f]=0`, which asks for no normalized
    density but for one that is smooth and vanishes at the edge of its support; excuse ``draws_follow_the_density`` for another.

    Parameters
    ----------
    measure : Measure
    excused : dict of str, optional
        Names of checks that are left out, with the reason.

    Returns
    -------
    Report

    Raises
    ------
    AssertionError
        With one sentence for each check that failed.
    BadInput
        For an object of another kind.

    Examples
    --------
    >>> import wgflow as wg
    >>> report = wg.testing.check_measure(wg.StandardNormal(2))
    """
    return _check(Measure, measure, excused)
