"""Between recipes and folders of runs: what is recorded, and what a record of before says."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from wgflow import Chain, Measure, Particles, Pushforward, StandardNormal
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.rng import build, generator
from wgflow.generative.folder import (
    RECIPE,
    WEIGHTS,
    image_shape,
    load_weights,
    plain_record,
    read_record,
    read_weights,
    refuse_other,
)
from wgflow.generative.latent_space import LATENT_SPACE, LatentSpace
from wgflow.generative.methods import method
from wgflow.generative.recipe import Recipe
from wgflow.generative.runtime import Runtime
from wgflow.generative.shown import pictured


def record_of(recipe: Recipe, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what identifies the run of a recipe on images of this shape."""
    return recipe.plain() | {"image_shape": list(shape)}


def as_recorded(folder: Path, recipe: Recipe, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return :func:`record_of`, or what the folder holds where that says the same in other words.

    Those are words of before there were methods, or a record without options that its preset got later.

    Raises
    ------
    BadInput
        When the folder holds another run.
    """
    ours = record_of(recipe, shape)
    try:
        held = read_record(folder)
        theirs = record_of(_recipe(held), tuple(held.get("image_shape", ())))
    except WgflowError:
        return ours  # a new folder; a damaged one is refused when it is claimed
    refuse_other(folder, plain_record(ours), plain_record(theirs))
    return held


def read_run(folder: Path, allow_code: bool = False) -> tuple[Recipe, tuple[int, int, int]]:
    """Return the recipe of a run and the shape of its images.

    Raises
    ------
    DataNotFound
        When the folder is not that of a run.
    BadInput
        When its record is damaged, or names code that was not allowed.
    """
    record = read_record(folder)
    shape = image_shape(record, folder)
    try:
        recipe = _recipe(record)
    except BadInput as error:
        raise BadInput(f"{folder / RECIPE}: {error}") from error
    return recipe.trusted(folder / RECIPE, allow_code), shape


def _recipe(record: dict[str, Any]) -> Recipe:
    return Recipe.from_dict({name: value for name, value in record.items() if name != "image_shape"})


def load_law(folder: Path, recipe: Recipe, shape: tuple[int, ...], here: Runtime) -> Measure:
    """Return what a run has exported, as a law of images; raises as :func:`load_weights` does."""
    space = None if recipe.pca is None else LatentSpace.load(folder / LATENT_SPACE, recipe.pca, shape).to(here.device)
    event, roles = shape if recipe.pca is None else (recipe.pca,), method(recipe.method).roles
    if "initial" in roles:
        net: nn.Module = _Cloud(recipe.particles or 1, event)
    elif "generator" in roles:
        try:
            net, _ = recipe.networks(event)
        except BadInput as error:
            raise BadInput(f"{folder / RECIPE}: {error}") from error
    else:
        net = _maps(recipe, event, folder / WEIGHTS, here)
    load_weights(folder / WEIGHTS, net)
    net.requires_grad_(False).eval().to(here.device)
    if isinstance(net, _Cloud):
        return pictured(Particles(net.x), space)
    normal = lambda shape: StandardNormal(*shape, device=here.device)  # noqa: E731
    noise = getattr(net, "noise_shape", None)
    source = getattr(net, "source_shape", event)
    return pictured(Pushforward(normal(source), net, noise=noise and normal(noise)), space)


class _Cloud(nn.Module):
    """Room for the points of a run without a network."""

    x: torch.Tensor

    def __init__(self, count: int, event: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("x", torch.zeros(count, *event))


def _maps(recipe: Recipe, event: tuple[int, ...], path: Path, here: Runtime) -> nn.Module:
    """Return the maps of a chain, as many as were exported; a normal law stands for the data, which they do not depend on."""
    chain = recipe.flow(StandardNormal(*event, device=here.device), here).initial
    if not isinstance(chain, Chain):
        raise BadInput(f"method {recipe.method} moves a {type(chain).__name__}, which no file holds")
    held = [name.partition(".")[0] for name in read_weights(path)]
    count = len({number for number in held if number.isdecimal()})
    return nn.Sequential(*(build(chain.make_map, generator(0, here.device)) for _ in range(count)))
