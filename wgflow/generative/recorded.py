"""Between recipes and folders of runs: what is recorded, and what a record of before says."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from wgflow import Chain, LabelledLatent, Measure, Particles, Pushforward, StandardNormal
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.labels import counts_of
from wgflow.core.registry import near_misses
from wgflow.core.rng import build, generator
from wgflow.core.words import shortened
from wgflow.generative.data import ImageSet
from wgflow.generative.folder import (
    FLOW,
    RECIPE,
    WEIGHTS,
    image_shape,
    load_weights,
    plain_record,
    read_record,
    read_weights,
    refuse_other,
)
from wgflow.generative.latent_space import LATENT_SPACE
from wgflow.generative.methods import METHOD, method
from wgflow.generative.recipe import Recipe
from wgflow.generative.runtime import Runtime
from wgflow.generative.shown import pictured
from wgflow.generative.spaces import read_space


def class_counts(pictures: ImageSet) -> dict[str, int]:
    """Return how many images each class has, by its name or number; raises ``BadInput`` for an empty class."""
    assert pictures.labels is not None
    counts = counts_of(pictures.labels, pictures.name)
    names = pictures.classes or tuple(map(str, range(len(counts))))
    return dict(zip(names, counts, strict=True))


def record_of(recipe: Recipe, shape: tuple[int, ...], classes: dict[str, int] | None) -> dict[str, Any]:
    """Return what identifies the run of a recipe on images of this shape and, with labels, these classes."""
    return recipe.plain() | {"image_shape": list(shape)} | ({} if classes is None else {"classes": classes})


def as_recorded(
    folder: Path, recipe: Recipe, shape: tuple[int, ...], classes: dict[str, int] | None = None
) -> dict[str, Any]:
    """Return :func:`record_of`, or what the folder holds where that says the same in other words.

    Those are words of before there were methods, or a record without options that its preset got later.

    Raises
    ------
    BadInput
        When the folder holds another run.
    """
    ours = record_of(recipe, shape, classes)
    try:
        held = read_record(folder)
        theirs = record_of(_recipe(held), tuple(held.get("image_shape", ())), held.get("classes"))
    except WgflowError:
        return ours  # a new folder; a damaged one is refused when it is claimed
    if _steps(ours) > _steps(theirs):
        ours = ours | {_STEPS: theirs[_STEPS]}
    refuse_other(folder, plain_record(ours), plain_record(theirs))
    return held


def as_begun(recipe: Recipe, record: dict[str, Any]) -> Recipe:
    """Return a recipe with as many time steps as the run of the record has begun with: schedules depend on them."""
    steps = _recipe(record).options.get("num_steps")
    return recipe if steps is None else recipe.changed(num_steps=steps)


def lengthened(recipe: Recipe, steps: int, extend: int) -> int:
    """Return how many time steps a run shall make in all; raises ``BadInput`` where its method has a fixed number."""
    method(recipe.method).check_extend(extend)
    return max(steps, recipe.options.get("num_steps") or steps) + extend


_STEPS = f"{METHOD}num_steps"


def _steps(record: dict[str, Any]) -> int:
    return record.get(_STEPS) or 0


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
    if FLOW in record:
        raise BadInput(
            f"{folder} holds a flow of particles and no images: wgflow run has put them into solution.npz there"
        )
    shape = image_shape(record, folder)
    try:
        recipe = _recipe(record)
    except BadInput as error:
        raise BadInput(f"{folder / RECIPE}: {error}") from error
    return recipe.trusted(folder / RECIPE, allow_code), shape


def read_classes(folder: Path) -> dict[str, int]:
    """Return how many images each class of a run had, by name; raises ``BadInput`` where it was trained without labels."""
    held = read_record(folder).get("classes")
    if held is None:
        raise BadInput(f"{folder} was trained without labels, and has no classes: train with labels (--labels)")
    if not isinstance(held, dict) or not held or not all(type(n) is int and n > 0 for n in held.values()):
        raise BadInput(
            f"{folder / RECIPE} has classes={str(held)[:60]}: expected how many images each class has, by name"
        )
    return held


def class_number(folder: Path, name: str) -> int:
    """Return the number of a class of a run, from its name or that number; raises ``BadInput`` with near misses."""
    names = list(read_classes(folder))
    number = names.index(name) if name in names else int(name) if name.isdecimal() else len(names)
    if number >= len(names):
        raise BadInput(
            f"no class is called {shortened(name)}: {near_misses(name, names)}, or a number from 0 to {len(names) - 1}"
        )
    return number


def _recipe(record: dict[str, Any]) -> Recipe:
    return Recipe.from_dict({k: v for k, v in record.items() if k not in ("image_shape", "classes")})


def load_law(folder: Path, recipe: Recipe, shape: tuple[int, ...], here: Runtime) -> Measure:
    """Return what a run has exported, as a law of images; raises as :func:`load_weights` does.

    In place of the folder its exported file will do; with ``pca`` or ``autoencoder`` the file of the latent space has to be beside it.
    """
    path = folder if folder.is_file() else folder / WEIGHTS
    beside = path.parent / LATENT_SPACE
    space = read_space(recipe, beside, shape)
    classes = read_classes(folder) if recipe.labels else {}
    space = space and space.to(here.device)
    event, roles = shape if space is None else tuple(space.event_shape), method(recipe.method).roles
    if "initial" in roles:
        net: nn.Module = _Cloud(recipe.particles or 1, event)
    elif "generator" in roles:
        try:
            net, _ = recipe.networks(event, len(classes))
        except BadInput as error:
            raise BadInput(f"{folder / RECIPE}: {error}") from error
    else:
        net = _maps(recipe, event, path, here)
    load_weights(path, net)
    net.requires_grad_(False).eval().to(here.device)
    if isinstance(net, _Cloud):
        return pictured(Particles(net.x), space)
    normal = lambda shape: StandardNormal(*shape, device=here.device)  # noqa: E731
    noise = getattr(net, "noise_shape", None)
    source: Measure = normal(getattr(net, "source_shape", event))
    if classes:
        counts = torch.tensor(list(classes.values()), dtype=torch.float64)
        source = LabelledLatent(source, len(classes), counts / counts.sum())
    return pictured(Pushforward(source, net, noise=noise and normal(noise)), space)


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
