"""The exact law at every time of a problem, how far a measure is from it, and how far even an exact one would be."""

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from wgflow import MovingMeasure, Particles
from wgflow.bench.problem import Initial, Method, Problem
from wgflow.bench.scores import Error, drawable, error_for
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.outputs import number
from wgflow.core.rng import generator, mixed

_FLOOR_DRAWS = 5


def start_of(initial: Initial, seed: int) -> MovingMeasure:
    """Return the law that a seed starts from."""
    if isinstance(initial, MovingMeasure):
        return initial
    start = initial(generator(mixed(seed, 1)))  # mixed: the noise of the flow is another one
    if not isinstance(start, MovingMeasure):
        raise BadInput(
            f"initial(rng) returned a {type(start).__name__}: expected a measure that moves, such as Particles"
        )
    return start


@dataclass(frozen=True)
class Judge:
    """Knows the exact law at every time, and how far from it a measure is."""

    problem: Problem
    error: Error
    exact: dict[float, Any]

    @classmethod
    def of(cls, problem: Problem) -> "Judge":
        """Ask the reference for its laws, once."""
        exact = {t: problem.reference(t) for t in problem.times}
        # Not every reference knows the time 0, such as a formula that divides by it.
        with suppress(WgflowError, ArithmeticError, ValueError, LookupError):
            exact[0.0] = problem.reference(0.0)
        return cls(problem, problem.error or error_for(exact[problem.horizon]), exact)

    def __call__(self, measure: MovingMeasure, exact: Any) -> float:
        """Return the error; raises ``BadInput`` when the user's function gives no number, or one below 0."""
        error = number(self.error(measure, exact), "the error of a Problem")
        if error < 0:
            raise BadInput(f"the error of a Problem is {error:g}: expected a number from 0 up, such as a distance")
        return error

    def at(self, measure: MovingMeasure, t: float) -> float | None:
        """Error at a time of the problem; None where it is not finite."""
        error = self(measure, self.exact[t])
        return error if math.isfinite(error) else None

    def start_errors(self, start: MovingMeasure) -> tuple[float | None, ...]:
        """Errors of the start, as if it had not moved."""
        begun = start.start(generator(0, start.device))
        return tuple(self.at(begun, t) for t in self.problem.times)

    def floor(self, method: Method, start: MovingMeasure, noisy: bool) -> float:
        """Error that is not one in time: given, or measured of the start and, for a noisy method, of exact draws."""
        if method.floor is not None:
            return method.floor
        floors = [self._floor_of_start(start), *([self._floor_of_noise(start)] if noisy else [])]
        return max((f for f in floors if math.isfinite(f)), default=0.0)

    def _floor_of_start(self, start: MovingMeasure) -> float:
        """Error at time 0: what sampling, or a grid, makes of the start; 0 where the reference does not know that time."""
        return self(start.start(generator(0, start.device)), self.exact[0.0]) if 0.0 in self.exact else 0.0

    def _floor_of_noise(self, start: MovingMeasure) -> float:
        """Mean error of as many draws of the exact law itself, where they can be made."""
        exact, found = self.exact[self.problem.horizon], list[float]()
        law = drawable(exact)
        if law is None or not isinstance(start, Particles):
            return 0.0
        rng = generator(mixed(0, 1), law.device)  # of the reference, which need not be where the flow is
        for _ in range(_FLOOR_DRAWS):
            drawn = law.draw(len(start), rng)
            log_w = None if drawn.log_w is None else drawn.log_w.to(start.x)
            found.append(self(Particles(drawn.x.to(start.x), log_w), exact))
        return sum(found) / len(found)
