"""The only compatibility logic: it reads what the classes declare and says why not, with advice."""

from wgflow._rng import generator
from wgflow.functionals import Functional, Sum
from wgflow.measures import Measure, MovingMeasure, Pushforward, Unnormalised
from wgflow.solvers import Solver


def why_not(F: Functional, solver: Solver, measure: MovingMeasure) -> str | None:
    """Return None when the three work together, else the reason and what to use instead.

    Examples
    --------
    >>> import torch
    >>> from wgflow import KL, ForwardEuler, Particles, StandardNormal
    >>> print(why_not(KL(StandardNormal(2)), ForwardEuler(), Particles(torch.zeros(3, 2))))
    KL.value needs the density of the moving measure, ... Use the Critic estimator, ...
    """
    e, f, s, m = solver.estimator, type(F).__name__, type(solver).__name__, type(measure).__name__
    kind = type(e).__name__
    if not isinstance(measure, MovingMeasure):
        return f"{m} cannot be moved: start from Particles, or from a Pushforward of it."
    if "variational" in e.needs and isinstance(F, Sum) and len(F.dual_terms()) > 1:
        names = ", ".join(type(t).__name__ for t in F.dual_terms())
        return f"a critic estimates exactly one term of a sum, and {names} would each need one. Keep one of them."
    if e.needs and not any(F.can(method) for method in e.needs):
        wanted = " or ".join(e.needs)
        other = "Critic(net)" if F.can("conjugate") or F.can("variational") else "Autograd()"
        return f"{kind} relies on the {wanted} of a functional, and {f} has none. Use {s}({other})."
    if e.needs_samples and isinstance(F.data(), Unnormalised):
        return f"{kind} needs draws of the target, and an Unnormalised density has none. Use a Dataset or a Gaussian."
    if getattr(e, "r1", None) is not None and F.data() is None:
        return f"R1 penalises the critic on data points, and {f} has no data. Leave r1 out of {kind}."
    if "value" in e.needs and F.needs_density and getattr(measure, "log_rho", None) is None:
        return (
            f"{f}.value needs the density of the moving measure, and {m} does not carry one. Use the Critic estimator, "
            f"which needs samples only: {s}(Critic(net))."
        )
    if "value" in e.needs and F.needs_density and (measure.tracks_points or not solver.implicit):
        return f"{m} loses its density at the first move, and {f}.value needs it. Use {s}(Critic(net))."
    if solver.needs_tracked_points and not measure.tracks_points:
        return f"{s} attaches noise or weights to points, and {m} draws new ones every time. Use Particles."
    if measure.replays_moves and not solver.implicit and not e.pointwise:
        return f"{m} applies its moves to fresh points later, and {kind} is not pointwise. Use Critic, or Particles."
    if not solver.implicit and isinstance(measure, Pushforward) and measure.regression is None:
        return f"{s} moves points, and this Pushforward does not say how to follow them: give it regression=Regression(Adam())."
    snapshot = getattr(solver, "snapshot", "raw")
    if snapshot == "ema" and not getattr(measure, "ema", 0.0):
        return f"{s}(snapshot='ema') takes the running average of the weights, and {m} keeps none: give it ema=0.9999, say."
    return None


def same_points(target: Measure | None, measure: MovingMeasure) -> str | None:
    """Return the reason when the points of a started flow and of its target differ in shape, dtype or device."""
    if target is None:
        return None
    if target.device.type != measure.device.type:
        return f"the moving measure is on {measure.device}, the target on {target.device}: move one of them."
    ours = measure.inference().draw(2, generator(0, measure.device)).x
    if ours.shape[1:] != target.event_shape:
        return (
            f"the moving measure has points of shape {tuple(ours.shape[1:])}, the target of shape "
            f"{tuple(target.event_shape)}: they must be equal."
        )
    if not target.can_draw:
        return None
    theirs = target.draw(2, generator(0, target.device)).x
    if ours.dtype != theirs.dtype:
        return f"the moving measure has points of {ours.dtype}, the target of {theirs.dtype}: convert one of them."
    return None
