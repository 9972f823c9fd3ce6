"""Whether a trained run copies its images: in pixels and in the features of a network, with the closest pairs."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wgflow import Measure, Particles
from wgflow.core.errors import MissingDependency
from wgflow.generative.data import ImageData, ImageSet, load_images, to_uint8, to_unit
from wgflow.generative.data._load import has_split
from wgflow.generative.latent_space import LatentSpace
from wgflow.generative.metrics.features import FeatureExtractor
from wgflow.generative.metrics.image_features import ImageFeatures
from wgflow.generative.recipe import Recipe
from wgflow.generative.sample import sample
from wgflow.metrics import Memorization, MemorizationReport
from wgflow.storage.files import replacing, write_text


def unseen_images(recipe: Recipe, held_out: str | None) -> ImageSet | None:
    """Return images that a run has not seen: those of a name or path, else the test split of its set; None without any."""
    if held_out is not None:
        return load_images(held_out, size=recipe.image_size)
    if has_split(recipe.data, "test"):
        return load_images(recipe.data, recipe.data_root, split="test", size=recipe.image_size)
    return None


def memorization_reports(
    rho: Measure,
    pictures: ImageSet,
    unseen: ImageSet | None,
    extractor: FeatureExtractor | None,
    *,
    n: int,
    space: LatentSpace | None = None,
    flip: bool = False,
    seed: int = 0,
) -> dict[str, MemorizationReport]:
    """Return the reports on a law of images in pixels and, where there is an extractor, in its features.

    Both look at the same draws, rounded to 8 bits as the training images are.

    Parameters
    ----------
    rho : Measure
        What was trained; of a cloud of images no more than it has are taken.
    pictures : ImageSet
        What it was trained on.
    unseen : ImageSet or None
        Images that it has not seen.
    extractor : FeatureExtractor or None
        The network.
    n : int
        Draws, and at most as many real images.
    space : LatentSpace, optional
        Where the flow lived, if not among images: there is a report on the coordinates in it, too. What is drawn has none of the
        details that the space leaves out, so that in pixels a copy is not at its original.
    flip : bool
        The training images were mirrored as well: both sides of them are looked at, and a random one of those not seen.
    seed : int
        Of the draws.
    """
    if isinstance(rho, Particles):
        n = min(n, len(rho))
    drawn = to_unit(to_uint8(sample(rho, n, seed=seed))).to(rho.device)
    images = pictures.images.to(rho.device)
    train = to_unit(torch.cat([images, images.flip(-1)]) if flip else images)
    held_out = None if unseen is None else ImageData(unseen.images.to(rho.device), flip)
    spaces: dict[str, Callable[[Tensor], Tensor] | None] = {"pixel": None}
    if space is not None:
        spaces["code"] = _Coordinates(space.to(rho.device))
    if extractor is not None:
        spaces["feature"] = ImageFeatures(extractor)
    return {
        name: Memorization(train, held_out, n=n, features=features, prefix=f"{name}_", seed=seed).report(drawn)
        for name, features in spaces.items()
    }


class _Coordinates:
    """Coordinates of images along the principal components, in the units of pixels."""

    def __init__(self, space: LatentSpace) -> None:
        self.space, self.id = space, f"{space.dim} principal components"

    def __call__(self, images: Tensor) -> Tensor:
        return self.space.encode(images) * self.space.std


def save_reports(reports: dict[str, MemorizationReport], folder: Path) -> str:
    """Write ``memorization.txt`` and, where matplotlib is installed, a picture a space; return the text."""
    text = "\n\n".join(f"{space} space\n{report}" for space, report in reports.items()) + "\n"
    write_text(folder / "memorization.txt", text)
    for space, report in reports.items():
        try:
            from wgflow.plotting import memorization

            figure = memorization(report)
        except MissingDependency:
            break
        with replacing(folder / f"memorization-{space}.png") as path:
            figure.savefig(path, format="png", dpi=150)
    return text
