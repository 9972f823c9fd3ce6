"""A trained run as a measure, and its numbers, each with its protocol."""

import json
from pathlib import Path
from typing import Any

import torch

from wgflow import Measure
from wgflow.core.errors import BadInput, DataNotFound
from wgflow.core.fields import checked
from wgflow.core.registry import near_misses
from wgflow.driver.callbacks import evaluate_all, json_numbers
from wgflow.generative.data import ImageData, load_images
from wgflow.generative.distances import energy, sinkhorn
from wgflow.generative.latent_space import LATENT_SPACE, LatentSpace
from wgflow.generative.memorization import memorization_reports, save_reports, unseen_images
from wgflow.generative.metrics.cifar_resnet import CifarResNetFeatures
from wgflow.generative.metrics.features import FeatureExtractor, RandomConvFeatures
from wgflow.generative.metrics.fid import FID
from wgflow.generative.metrics.inception import InceptionFeatures
from wgflow.generative.pairs import named_object
from wgflow.generative.recorded import load_law, read_run
from wgflow.generative.runtime import runtime
from wgflow.storage.files import write_text

EVALUATION = "evaluation.json"
FEATURES = {"inception": InceptionFeatures, "random-conv": RandomConvFeatures, "cifar-resnet": CifarResNetFeatures}
"""Names of the feature networks of :func:`evaluate`."""


@checked
def load_generator(run: str | Path, device: str | torch.device = "auto", *, allow_code: bool = False) -> Measure:
    """Return the exported generator of a run, with averaged weights and in evaluation mode; or its cloud of images.

    Parameters
    ----------
    run : path
        Folder of a run, or the ``generator.safetensors`` that it has exported, which describes itself.
    device : str or torch.device
        As for :func:`train`.
    allow_code : bool
        Import the network that the folder names, where it is not one of wgflow's own. That runs its code: see :doc:`/security`.

    Returns
    -------
    Measure
        A ``Pushforward`` or ``Chain``, whose draws are images in [-1, 1], or ``Particles``.

    Raises
    ------
    DataNotFound
        When the folder is not that of a run, or holds no exported generator.
    BadInput
        When its files are damaged or do not belong together, or name code that was not allowed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from wgflow.generative import load_generator, Recipe, train
    >>> pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/tiny.npy", pixels)
    ...     recipe = Recipe(data=f"{folder}/tiny.npy", method="sliced_w_flow", particles=4, num_steps=2, sinkhorn_n=0)
    ...     flow = train(recipe, f"{folder}/run", device="cpu", progress=False)
    ...     generator = load_generator(f"{folder}/run", device="cpu")
    >>> generator.x.shape
    torch.Size([4, 1, 8, 8])
    """
    folder = Path(run)
    recipe, shape = read_run(folder, allow_code)
    with runtime(device) as here:
        return load_law(folder, recipe, shape, here)


def features_by_name(name: str, weights: str | None = None, allow_download: bool = False) -> FeatureExtractor:
    """Return a feature network by its name.

    Parameters
    ----------
    name : str
        ``inception``, ``random-conv`` (a proxy) or ``cifar-resnet``; ``package.module:NAME`` is a function of your own that returns a
        :class:`~wgflow.generative.metrics.FeatureExtractor`.
    weights : str, optional
        The file of its weights: needed by ``cifar-resnet``, for ``inception`` where they are in no place that is known.
    allow_download : bool
        Whether the weights of ``inception`` may be fetched.

    Returns
    -------
    FeatureExtractor

    Raises
    ------
    BadInput
        For a name that nothing has, weights that are missing or not for these features, or a function that returns something else.
    DataNotFound, MissingDependency
        As of the feature networks.

    Examples
    --------
    >>> from wgflow.generative.evaluate import features_by_name
    >>> features_by_name("random-conv").num_features
    256
    """
    if name == "inception":
        return InceptionFeatures(weights, allow_download=allow_download)
    if name == "random-conv":
        if weights is not None:
            raise BadInput(f"weights={str(weights)!r}: the random-conv features have none to be read, leave it out")
        return RandomConvFeatures(0)
    if name == "cifar-resnet":
        if weights is None:
            raise BadInput("features='cifar-resnet' needs the file of its weights: --weights resnet20.npz")
        return CifarResNetFeatures(weights)
    if ":" in name:
        return _features_of_the_user(name, weights)
    raise BadInput(
        f"no features are called {name!r}: {near_misses(name, list(FEATURES))}, or package.module:NAME of a function that "
        "returns a FeatureExtractor (ModuleFeatures makes one of any nn.Module)"
    )


def _features_of_the_user(name: str, weights: str | None) -> FeatureExtractor:
    if weights is not None:
        raise BadInput(f"weights={str(weights)!r}: features={name!r} reads its own, leave it out")
    make = named_object(name, "features")
    try:
        found = make()
    except TypeError as error:
        raise BadInput(
            f"features={name!r} is not a function without arguments that returns a FeatureExtractor: {error}"
        ) from error
    if not (callable(found) and hasattr(found, "num_features") and hasattr(found, "id")):
        raise BadInput(
            f"features={name!r} returned a {type(found).__name__}: expected a FeatureExtractor, with num_features and id "
            "(ModuleFeatures makes one of any nn.Module)"
        )
    return found


@checked
def evaluate(
    run: str | Path,
    *,
    n: int = 5000,
    features: str = "inception",
    weights: str | None = None,
    kid: bool = False,
    memorization: bool = False,
    held_out: str | None = None,
    device: str | torch.device = "auto",
    allow_download: bool = False,
    allow_code: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the exported generator of a run against its training data.

    Parameters
    ----------
    run : path
        Folder of a run.
    n : int
        Generated images for the Fréchet distance; all training images are its reference.
    features, weights
        The feature network and the file of its weights: see :func:`features_by_name`. A file that is named must be there.
    kid : bool
        The kernel distance too.
    memorization : bool
        Whether it copies its training images: :class:`wgflow.metrics.Memorization` of ``n`` images in pixels (``pixel_...``), in
        the features (``feature_...``) and, with ``pca``, in the components (``code_...``). The folder gets the table
        ``memorization.txt`` and a picture of the closest pairs for each, ``memorization-*.png``.
    held_out : str, optional
        Images that it was not trained on, for the chance level of ``memorization``: a name, folder or array as for
        :func:`load_images`. Otherwise the test split of its set; without one its training images, each beside the others.
    device : str or torch.device
        Where to compute, as for :func:`train`.
    allow_download : bool
        Fetch missing Inception weights. Otherwise the Fréchet distance is left out and the answer says so.
    allow_code : bool
        As for :func:`load_generator`. A network of features that you name is imported without it.
    seed : int
        Of the draws.

    Returns
    -------
    dict
        Numbers by name, with ``protocols``; also written to ``evaluation.json`` in the folder, infinity and NaN as null.

    Raises
    ------
    DataNotFound, BadInput
        As :func:`load_generator`; also when the weights that are named are not there, and for options that do not fit together.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from wgflow.generative import evaluate, Recipe, train
    >>> pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/tiny.npy", pixels)
    ...     recipe = Recipe(data=f"{folder}/tiny.npy", method="sliced_w_flow", particles=4, num_steps=2, sinkhorn_n=0)
    ...     flow = train(recipe, f"{folder}/run", device="cpu", progress=False)
    ...     found = evaluate(f"{folder}/run", n=4, features="random-conv", device="cpu")
    >>> sorted(found)
    ['frechet', 'protocols']
    """
    if held_out is not None and not memorization:
        raise BadInput(f"held_out={held_out!r} is for memorization: ask for that too, or leave it out")
    folder = Path(run)
    if folder.is_file():
        raise BadInput(f"{folder} is a file: expected the folder of a run, into which the numbers are written")
    recipe, shape = read_run(folder, allow_code)
    unseen = unseen_images(recipe, held_out) if memorization else None
    extractor, found = None, dict[str, Any]()
    try:
        extractor = features_by_name(features, weights, allow_download)
    except DataNotFound as error:
        if weights is not None:
            raise
        found["fid_skipped"] = str(error)
    rho = load_generator(run, device, allow_code=allow_code)
    pictures = load_images(recipe.data, recipe.data_root, size=recipe.image_size)
    data = ImageData(pictures.images.to(rho.device))
    n_pixels = recipe.sinkhorn_points
    metrics: list[Any] = [*energy(data, n_pixels), *sinkhorn(data, n_pixels, recipe.sinkhorn_blur)]
    if extractor is not None:
        if isinstance(extractor, torch.nn.Module):
            extractor = extractor.to(rho.device)
        metrics.append(FID(extractor, pictures, n=n, kid=kid))
    found |= evaluate_all(metrics, rho, seed)
    found["protocols"] = [m.protocol for m in metrics]
    if memorization:
        space = None if recipe.pca is None else LatentSpace.load(folder / LATENT_SPACE, recipe.pca, shape)
        reports = memorization_reports(rho, pictures, unseen, extractor, n=n, space=space, flip=recipe.flip, seed=seed)
        save_reports(reports, folder)
        for report in reports.values():
            found |= report.values
            found["protocols"].append(report.protocol)
    write_text(folder / EVALUATION, json.dumps(json_numbers(found), indent=2) + "\n")
    return found
