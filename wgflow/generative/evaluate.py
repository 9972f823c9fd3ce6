"""A trained run as a measure, and its numbers, each with its protocol."""

import json
from pathlib import Path
from typing import Any

import torch

from wgflow._imports import require
from wgflow._registry import near_misses
from wgflow.callbacks import evaluate_all
from wgflow.errors import BadInput, DataNotFound
from wgflow.generative.data import ImageData, load_images
from wgflow.generative.features import CifarResNetFeatures, FeatureExtractor, RandomConvFeatures
from wgflow.generative.fid import FID
from wgflow.generative.inception import InceptionFeatures
from wgflow.generative.recipe import Recipe, named_object
from wgflow.generative.runtime import runtime
from wgflow.generative.train import sinkhorn
from wgflow.measures import Pushforward, StandardNormal
from wgflow.metrics import Metric

FEATURES = ("inception", "random-conv", "cifar-resnet")
"""Names of the feature networks of :func:`evaluate`."""


def load_generator(run: str | Path, device: str = "auto") -> Pushforward:
    """Return the exported generator of a run, with averaged weights and in evaluation mode.

    Raises
    ------
    DataNotFound
        When the folder holds no exported generator.
    """
    folder = Path(run)
    recipe = _recipe(folder)
    weights = folder / "generator.safetensors"
    if not weights.is_file():
        raise DataNotFound(f"{weights} does not exist: train first (wgflow train --folder {folder})")
    state = require("safetensors.torch", extra="image").load_file(weights)
    with runtime(device) as here:
        shape = tuple(json.loads((folder / "recipe.json").read_text())["image_shape"])
        net, _ = recipe.networks(shape)
        net.load_state_dict(state)
        net.requires_grad_(False).eval().to(here.device)
        noise = net.noise_shape and StandardNormal(*net.noise_shape, device=here.device)
        return Pushforward(StandardNormal(*net.source_shape, device=here.device), net, noise=noise)


def _recipe(folder: Path) -> Recipe:
    path = folder / "recipe.json"
    if not path.is_file():
        raise DataNotFound(f"{folder} is not the folder of a run: it has no recipe.json (wgflow train makes one)")
    held = json.loads(path.read_text())
    held.pop("image_shape", None)
    return Recipe.from_dict(held)


def features_by_name(name: str, weights: str | None = None, allow_download: bool = False) -> FeatureExtractor:
    """Return a feature network: ``inception``, ``random-conv`` (a proxy) or ``cifar-resnet`` (needs ``weights``).

    ``package.module:NAME`` is a function of your own that returns a ``FeatureExtractor``.
    """
    if name == "inception":
        return InceptionFeatures(weights, allow_download=allow_download)
    if name == "random-conv":
        return RandomConvFeatures(0)
    if name == "cifar-resnet":
        if weights is None:
            raise BadInput("features='cifar-resnet' needs the file of its weights: --weights resnet20.npz")
        return CifarResNetFeatures(weights)
    if ":" in name:
        return named_object(name, "features")()
    raise BadInput(
        f"no features are called {name!r}: {near_misses(name, list(FEATURES))}, or package.module:NAME of a function that "
        "returns a FeatureExtractor (ModuleFeatures makes one of any nn.Module)"
    )


def evaluate(
    run: str | Path,
    *,
    n: int = 5000,
    features: str = "inception",
    weights: str | None = None,
    kid: bool = False,
    device: str = "auto",
    allow_download: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the exported generator of a run against its training data.

    Parameters
    ----------
    run : path
        Folder of a run.
    n : int
        Generated images for the Fréchet distance; all training images are its reference.
    features, weights, allow_download
        The feature network: see :func:`features_by_name`. Missing Inception weights are never fetched silently; the
        Fréchet distance is then left out and the answer says so.
    kid : bool
        The kernel distance too.
    device, seed
        Where to compute, and the seed of the draws.

    Returns
    -------
    dict
        Numbers by name, with ``protocols``; also written to ``evaluation.json`` in the folder.
    """
    folder = Path(run)
    recipe, rho = _recipe(folder), load_generator(run, device)
    pictures = load_images(recipe.data, recipe.data_root, size=recipe.image_size)
    data = ImageData(pictures.images.to(rho.device))
    metrics: list[Metric] = []
    metrics += sinkhorn(data, recipe.sinkhorn_n, recipe.sinkhorn_blur)
    found: dict[str, Any] = {}
    try:
        extractor = features_by_name(features, weights, allow_download)
        if isinstance(extractor, torch.nn.Module):
            extractor = extractor.to(rho.device)
        metrics.append(FID(extractor, pictures, n=n, kid=kid))
    except DataNotFound as error:
        found["fid_skipped"] = str(error)
    found |= evaluate_all(metrics, rho, seed)
    found["protocols"] = [m.protocol for m in metrics]  # type: ignore[attr-defined]
    (folder / "evaluation.json").write_text(json.dumps(found, indent=2) + "\n")
    return found
