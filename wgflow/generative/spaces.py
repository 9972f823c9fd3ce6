"""The space in which a recipe trains, by what the recipe says and what the folder of its run holds."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wgflow import Dataset, Measure, Streamed, shared_sums
from wgflow.core.errors import BadInput
from wgflow.core.ranks import by_first
from wgflow.generative.autoencoder import LATENTS, AutoencoderSpace, autoencoder, read_tensors
from wgflow.generative.data import ImageData
from wgflow.generative.folder import write_tensors
from wgflow.generative.latent_space import LATENT_SPACE, Encoded, LatentSpace, Space
from wgflow.storage.describe import digest

if TYPE_CHECKING:
    from wgflow.generative.recipe import Recipe


def read_space(recipe: "Recipe", path: Path, image_shape: tuple[int, ...]) -> Space | None:
    """Return the space of a run from its file, None of one on pixels; raises ``BadInput`` for a file that is damaged."""
    if recipe.pca is not None:
        return LatentSpace.load(path, recipe.pca, image_shape)
    return None if recipe.autoencoder is None else AutoencoderSpace.load(path, autoencoder(recipe.autoencoder))


def home(
    recipe: "Recipe", folder: Path, images: ImageData, data: ImageData | Streamed, device: torch.device
) -> tuple[Space | None, Measure]:
    """Return the space in which a recipe trains and the law of the codes of its images, those of the folder or new ones.

    ``data`` are the same images within reach of the device, the law of a training on pixels.
    The codes of an autoencoder are computed once, for all images; mirrored ones are behind the others. All ranks must call it together.
    """
    path = folder / LATENT_SPACE
    if recipe.pca is not None:
        shape, dim = tuple(data.event_shape), recipe.pca
        found = by_first(
            lambda: LatentSpace.load(path, dim, shape) if path.exists() else LatentSpace.fit(images, dim), device
        ).to(device)
        return found, Encoded(data, found)
    if recipe.autoencoder is None:
        return None, data
    pair, held = autoencoder(recipe.autoencoder), read_tensors(folder / LATENTS)
    if held and path.exists():
        if "codes" not in held or not torch.equal(held.get("made_of", torch.empty(0)), _made_of(images, pair)):
            raise BadInput(
                f"{folder / LATENTS} has the codes of other images, or by other weights of the autoencoder, than the recipe has now: "
                "bring those of the run back, or choose another folder with --folder"
            )
        space, codes = AutoencoderSpace.load(path, pair).to(device), held["codes"]
    else:
        with shared_sums():
            space, codes = AutoencoderSpace.fit(pair, images, device)
    labels = images.labels if images.labels is None or not images.flip else images.labels.repeat(2)
    return space, Dataset(codes.to(device), labels=None if labels is None else labels.to(device))


def _made_of(images: ImageData, pair: nn.Module) -> Tensor:
    """Return what tells codes apart, a digest of the images and of the weights of the pair, as bytes (n,)."""
    text = digest((images.images, images.flip, pair.state_dict()))
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def keep(folder: Path, space: Space | None, law: Measure, images: ImageData) -> None:
    """Write the space and, of an autoencoder, the codes into the folder of a run, where they are not there yet."""
    if isinstance(space, AutoencoderSpace) and isinstance(law, Dataset) and not (folder / LATENTS).exists():
        write_tensors(folder / LATENTS, {"codes": law.x, "made_of": _made_of(images, space.pair)})
    if space is not None and not (folder / LATENT_SPACE).exists():
        space.save(folder / LATENT_SPACE)
