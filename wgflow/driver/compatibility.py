"""The only compatibility logic: it reads what the classes declare and says why not, with advice."""

from wgflow.core.fields import checked
from wgflow.core.instead import article
from wgflow.core.rng import generator
from wgflow.functionals import Functional, Penalty, Sum
from wgflow.measures import Measure, MovingMeasure, Pushforward
from wgflow.solvers import Solver


@checked
def why_not(F: Functional, solver: Solver, measure: Measure) -> str | None:
    """Say why a functional, a solver and a measure do not work together, and what to use instead.

    Parameters
    ----------
    F : Functional
        What is to decrease.
    solver : Solver
        The time discretization, with its estimator.
    measure : MovingMeasure
        What it is to move.

    Returns
    -------
    str or None
        None when they work together. It is what :func:`solve` raises as ``Incompatible``.

    Raises
    ------
    BadInput
        For objects of other kinds.

    Examples
    --------
    >>> import torch
    >>> from wgflow import KL, ForwardEuler, Particles, StandardNormal
    >>> print(why_not(KL(StandardNormal(2)), ForwardEuler(), Particles(torch.zeros(3, 2))))
    KL.value needs the density of the moving measure, ... Use an estimator that treats the entropy itself, ...
    """
    if F.split_entropy()[1] < 0:
        return (
            f"what {type(F).__name__} holds of an entropy is negative: its flow is the heat equation run backwards, which is "
            "ill-posed. Subtract less of it."
        )
    if not hasattr(solver, "estimator"):
        s = type(solver).__name__
        return f"{s} has no estimator: a solver is a dataclass with a field for it, estimator: Estimator. Use {s}(estimator=Autograd())."
    e, f, s, m = solver.estimator, type(F).__name__, type(solver).__name__, type(measure).__name__
    kind = type(e).__name__
    if not isinstance(measure, MovingMeasure):
        return f"{m} cannot be moved: start from Particles, or from a Pushforward of it."
    unmoved = solver.refuses_measure(measure)
    if unmoved is not None:
        return unmoved
    unasked = F.refuses_measure(measure)
    if unasked is not None:
        return unasked
    if F.reads_law and not e.shows_law:
        return f"{f} asks for the density of the moving law at data, which {kind} does not show. Use {s}(estimator=Autograd())."
    if "variational" in e.needs and isinstance(F, Sum) and len(F.dual_terms()) > 1:
        names = ", ".join(type(t).__name__ for t in F.dual_terms())
        return f"a critic estimates exactly one term of a sum, and {names} would each need one. Keep one of them."
    splits = e.splits_entropy or solver.splits_entropy
    G = F.split_entropy()[0] if splits else F  # what the estimator is asked for; None where all of F is entropy
    needs = (*e.needs, "value") if e.splits_entropy else e.needs
    if G is not None:
        if needs and not any(G.can(method) for method in needs):
            wanted = " or ".join(needs)
            what = f if G is F else f"{f} without its entropy"
            dual = G.can("conjugate") or G.can("variational")
            advice = f"Use {s}(estimator={'Critic(net)' if dual else 'Autograd()'})"
            if not dual and not G.can("value"):
                advice = f"Write {type(G).__name__}.value(rho), a 0-d tensor"
            return f"{kind} relies on the {wanted} of a functional, and {what} has none. {advice}."
        if "value" in needs and G.needs_density:
            for term in (t for t in (G.terms if isinstance(G, Sum) else (G,)) if t.needs_density):
                unknown = [article(type(t)) for t in term.targets() if not t.has_density]
                if unknown:
                    return f"{f}.value compares densities, and {unknown[0]} as the target has none. {_without_density(F, s)}"
            carried = (getattr(measure, "log_rho", None) is not None or measure.carries_density) and not splits
            if not carried or measure.tracks_points or not solver.implicit:
                reason = f"{m} loses it at the first move" if carried else f"{m} does not carry one"
                return f"{f}.value needs the density of the moving measure, and {reason}. {_without_density(F, s)}"
    asked = F.split_entropy()[0] if solver.splits_entropy else F
    for G_part, part in solver.parts(F):
        inside = why_not(G_part, part, measure)
        if inside is not None:
            return inside
    refused = (None if asked is None else e.refuses(asked)) or solver.refuses(F)
    if refused is not None:
        return refused
    undrawn = [t for t in [*F.samples(), *([F.data()] if e.needs_samples else [])] if t is not None and not t.can_draw]
    if undrawn:
        who = kind if e.needs_samples else f
        return (
            f"{who} needs draws of the target, and an {type(undrawn[0]).__name__} density has none. Use a Dataset or a Gaussian, "
            "or KL with an estimator that needs its log density only, such as Stein(kernel)."
        )
    for name in ("r1", "penalty"):
        if isinstance(penalty := getattr(e, name, None), Penalty) and F.data() is None:
            what = type(penalty).__name__
            return f"{what} penalizes the critic on data points, and {f} has no data. Leave {name} out of {kind}."
    if e.needs_fresh_points and measure.tracks_points:
        return (
            f"{kind} compares with an independent batch of the moving law, and {m} are all there is of it. Use Autograd(), or "
            "MeanShift(kernel, own=True)."
        )
    seen, shown = e.sees(F), getattr(solver, "batch", None)
    if None not in (seen, shown) and seen != shown:
        return (
            f"{kind} compares {seen} target points with {shown} of the {m}, and a velocity is unbiased for equally many only. Give {f} "
            f"and {s} one batch: batch={seen}."
        )
    if solver.needs_tracked_points and not measure.tracks_points:
        return f"{s} attaches noise or weights to points, and {m} draws new ones every time. Use Particles."
    if measure.replays_moves and not solver.implicit:
        return f"{m} trains a map in every step and applies it to fresh points later, and {s} moves points. Use JKO, or Particles."
    if not solver.implicit and isinstance(measure, Pushforward) and measure.regression is None:
        return f"{s} moves points, and this Pushforward does not say how to follow them: give it regression=Regression(Adam())."
    snapshot = getattr(solver, "snapshot", "raw")
    if snapshot == "ema" and not getattr(measure, "ema", 0.0):
        return f"{s}(snapshot='ema') takes the running average of the weights, and {m} keeps none: give it ema=0.9999, say."
    return None


def _without_density(F: Functional, s: str) -> str:
    """Say what takes the place of a density that is not known."""
    energy, temperature = F.split_entropy()
    drawn = (F.can("conjugate") or F.can("variational")) and (F.data() is None or F.data().can_draw)  # type: ignore[union-attr]
    if temperature > 0 and (energy is None or (energy.can("value") and not energy.needs_density)):
        advice = (
            f"Use an estimator that treats the entropy itself, {s}(estimator=Blob(KernelDensity(kernel))) or "
            f"{s}(estimator=Stein(kernel)), or the solver Langevin"
        )
        return advice + (f"; or, from samples alone, {s}(estimator=Critic(net))." if drawn else ".")
    if drawn:
        return f"Use the Critic estimator, which needs samples only: {s}(estimator=Critic(net))."
    return "Use a model of it in the functional: density=KernelDensity(RBF(bandwidth))."


def same_points(target: Measure | None, measure: MovingMeasure) -> str | None:
    """Return the reason when the points of a started flow and of its target differ in shape, dtype or device."""
    if target is None:
        return None
    if target.device.type != measure.device.type:
        return f"the moving measure is on {measure.device}, the target on {target.device}: move one, such as F.to({str(measure.device)!r})."
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
        return f"the moving measure has points of {ours.dtype}, the target of {theirs.dtype}: convert one, such as F.to({ours.dtype})."
    return None
