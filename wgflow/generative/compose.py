"""From a recipe to a flow: what a preset asks for, by the names of its parameters."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from wgflow import (
    Balanced,
    Critic,
    Flow,
    Functional,
    Labelled,
    Measure,
    Particles,
    PerClass,
    StandardNormal,
    ema_decay,
    why_not,
)
from wgflow.core.errors import BadInput, Incompatible
from wgflow.core.rng import generator, mixed
from wgflow.functionals.base import check_batches
from wgflow.generative.augment import DiffAugment
from wgflow.generative.encoders import encoder
from wgflow.generative.methods import AUTO, Method
from wgflow.generative.runtime import Runtime

if TYPE_CHECKING:
    from wgflow.generative.recipe import Recipe

_START = 1
"""Turn of the seed that draws where a cloud starts."""


def compose(recipe: "Recipe", method: Method, data: Measure, here: Runtime) -> Flow:
    """Return the flow of a method to the law of the data.

    Raises
    ------
    BadInput
        When the preset does not fit the data, the networks or the batch, or does not return a flow.
    """
    if recipe.options.get("batch") == AUTO:
        raise BadInput(f"batch={AUTO!r} is found by train(), which tries the device: give a number here")
    options = {k: o.made(recipe.options[k]) for k, o in method.options.items() if not o.unsaid(recipe.options[k])}
    if recipe.ema_half_life is not None:
        options["ema"] = ema_decay(recipe.ema_half_life, options["batch"])
    if method.moves_images:  # every rank moves the same cloud
        given: dict[str, Any] = {"target": data, "initial": _cloud(recipe, data, here)}
    else:
        target = Balanced(data) if isinstance(data, Labelled) else data
        given = {"target": here.share(target), **_networks(recipe, method, data, here)}
        if "batch" in options:
            options["batch"] = here.share_of(options["batch"])
    if recipe.encoder is not None:
        given["encoder"] = _encoder(recipe.encoder, data.base if isinstance(data, Labelled) else data, here)
    flow = method.preset(**{name: given[name] for name in method.roles if name in given}, **options)
    if not isinstance(flow, Flow):
        raise BadInput(f"method {method.name} returned a {type(flow).__name__}: expected a Flow")
    _check_compiles(flow, recipe, here)
    if recipe.augment is not None:
        flow = _augmented(flow, recipe, data)
    if recipe.labels and not _by_class(flow.functional):
        # A rank's part of a draw has not every class, so that drifts do not compare it class by class.
        over = f"over {here.world} processes " if here.world > 1 else ""
        raise BadInput(
            f"labels=True is not for method {method.name}: {over}it compares points by their distance, in which a label hardly "
            f"counts. Leave it out, {'train in one process, ' if over else ''}or take a method with a critic"
        )
    reason = why_not(flow.functional, flow.solver, flow.initial)
    if reason is not None:
        raise Incompatible(f"method {method.name} cannot be trained on images: {reason}")
    check_batches(flow.functional.at(0, 0.0))
    return flow


def _check_compiles(flow: Flow, recipe: "Recipe", here: Runtime) -> None:
    """Raise ``BadInput`` for what :func:`runtime` cannot compile: the compiler itself would say so in mid-run, or not at all."""
    if here.compile and flow.functional.learns_features:
        raise BadInput(
            f"compile={here.compile!r}: torch cannot trace a distance between learned features, which method {recipe.method} has here, "
            "as one graph. Leave compile out"
        )
    if here.compile == "graphs" and (recipe.options.get("accumulate") or 1) > 1:
        raise BadInput(
            "compile='graphs' and accumulate: the replay of a graph writes over gradients that are held. Use compile=True"
        )


def _augmented(flow: Flow, recipe: "Recipe", data: Measure) -> Flow:
    """Return the flow with a critic that sees changed images."""
    augment, critic = DiffAugment(cast(str, recipe.augment)), flow.solver.estimator
    if recipe.labels or len(data.event_shape) != 3:
        raise BadInput(f"augment={recipe.augment!r} is for images without labels: leave out labels and pca, or augment")
    if not isinstance(critic, Critic):
        raise BadInput(
            f"augment={recipe.augment!r}: method {recipe.method} has a {type(critic).__name__} and no critic"
        )
    return replace(flow, solver=replace(cast(Any, flow.solver), estimator=replace(critic, augment=augment)))


def _by_class(F: Functional) -> bool:
    """Whether a functional of labeled points compares class by class: by itself, or because all that it sees is a critic's."""
    return isinstance(F, PerClass) or F.can("conjugate") or F.learns_features


def _networks(recipe: "Recipe", method: Method, data: Measure, here: Runtime) -> dict[str, Any]:
    """Factories of both networks, and the laws that the generator eats; without one the source is as the data."""
    labelled = data if isinstance(data, Labelled) else None
    shape, classes = tuple((labelled.base if labelled else data).event_shape), labelled.num_classes if labelled else 0
    normal = lambda *shape: here.share(StandardNormal(*shape, device=here.device))  # noqa: E731
    if not method.trains:
        return {"latent": normal(*shape)}
    outline, _ = recipe.networks(shape, classes)
    found: dict[str, Any] = {"critic": lambda **sizes: here.network(recipe.networks(shape, classes, **sizes)[1])}
    if "generator" not in method.roles:
        return found | {"latent": normal(*shape)}
    source = StandardNormal(*outline.source_shape, device=here.device)
    return found | {
        "generator": lambda: here.network(recipe.networks(shape, classes)[0]),
        "latent": here.share(Balanced(labelled.latent(source)) if labelled else source),
        "noise": outline.noise_shape and normal(*outline.noise_shape),
        "reference": outline.reference(),
    }


def _encoder(name: str, data: Measure, here: Runtime) -> Any:
    shape = tuple(data.event_shape)
    if len(shape) != 3:
        raise BadInput(f"encoder={name!r} is for images: leave out pca, whose codes are features already")
    made = encoder(name, shape[0])
    return made.to(here.device) if isinstance(made, torch.nn.Module) else made


def _cloud(recipe: "Recipe", data: Measure, here: Runtime) -> Particles:
    """Noise of unit variance in the place of images, or of their codes."""
    assert recipe.particles is not None
    shape = (recipe.particles, *data.event_shape)
    rng = generator(mixed(recipe.seed, _START))
    return Particles(torch.randn(shape, generator=rng).to(here.device))
