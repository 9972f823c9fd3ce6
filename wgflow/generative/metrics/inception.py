"""The Inception network of the FID, from a weights file whose hash is checked before it is read."""

import io
import os
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wgflow.core.errors import BadInput, DataNotFound
from wgflow.core.imports import require
from wgflow.generative.data._array_files import existing_file
from wgflow.generative.metrics.features import FrozenFeatures, sha256

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the weights of the FID network; both public files hold the same bytes."""
INCEPTION_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
"""The names under which torch-fidelity and pytorch-fid store them."""
INCEPTION_VARIABLE = "WGFLOW_FID_WEIGHTS"
"""Environment variable that may hold their path."""


class InceptionFeatures(FrozenFeatures):
    """The 2048 features ``pool3`` of the Inception network of the FID, in the protocol of pytorch-fid.

    Images are scaled to [0, 1], resized to 299 x 299 by plain bilinear interpolation (half-pixel centers, no
    antialiasing) and scaled to [-1, 1]. The network is that of torch-fidelity. Other tools resize otherwise
    and get other numbers: the ``id`` says which protocol this is.

    Parameters
    ----------
    weights : path, optional
        The weights file. Without it, the path in the environment variable ``WGFLOW_FID_WEIGHTS`` is taken, then
        either of the two known names in the ``checkpoints`` folder of torch hub.
    allow_download : bool
        Fetch the file into that folder when it is nowhere. Never done otherwise.

    Raises
    ------
    DataNotFound
        When there is no file; the message says its name, hash and how to get it.
    BadInput
        When the SHA-256 of the file is not that of the published weights; it is then not loaded.
    MissingDependency
        Without torch-fidelity.

    Examples
    --------
    A file that is named must be there:

    >>> from wgflow.generative.metrics import InceptionFeatures
    >>> InceptionFeatures("no-such-file.pth")
    Traceback (most recent call last):
        ...
    wgflow.DataNotFound: ...
    """

    num_features = 2048

    def __init__(self, weights: str | os.PathLike[str] | None = None, *, allow_download: bool = False) -> None:
        super().__init__()
        path = find_inception_weights(weights, allow_download=allow_download)
        found = sha256(path)
        if found != INCEPTION_SHA256:
            raise BadInput(
                f"{path} is not the published Inception weights file: its SHA-256 begins {found[:8]}, expected "
                f"{INCEPTION_SHA256[:8]}. It was not loaded; delete it and get the file again"
            )
        network = _torch_fidelity()
        # torch-fidelity unpickles whatever it is given. It gets the tensors that the restricted loader found.
        plain = io.BytesIO()
        torch.save(torch.load(path, map_location="cpu", weights_only=True), plain)
        plain.seek(0)
        net = network.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], plain)
        self.layers = nn.Sequential(*(child for name, child in net.named_children() if name != "fc"))
        self.requires_grad_(False).eval()
        self.id = f"inception-v3-fid pool3 bilinear-299 scale=2x-1 sha256:{INCEPTION_SHA256[:8]}"

    def _features(self, rgb: Tensor) -> Tensor:
        x = F.interpolate(rgb.float() / 255, size=(299, 299), mode="bilinear", align_corners=False)
        return self.layers(2 * x - 1).flatten(1)


def _torch_fidelity() -> ModuleType:
    return require("torch_fidelity.feature_extractor_inceptionv3", extra="metrics")


def find_inception_weights(weights: str | os.PathLike[str] | None = None, *, allow_download: bool = False) -> Path:
    """Return the path of the Inception weights: argument, environment variable, torch hub folder, download.

    Raises
    ------
    DataNotFound
        When there is no such file. A path given by argument or variable is never replaced by another one.
    """
    for origin, named in (("argument weights", weights), (INCEPTION_VARIABLE, os.environ.get(INCEPTION_VARIABLE))):
        if named:
            return existing_file(named, "is no Inception weights file", f" (from {origin})")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in INCEPTION_FILES:
        if (folder / name).is_file():
            return folder / name
    if not allow_download:
        raise DataNotFound(
            f"the FID needs the Inception weights {INCEPTION_FILES[0]} (also published as {INCEPTION_FILES[1]}; 96 MB, "
            f"SHA-256 begins {INCEPTION_SHA256[:8]}); neither is in {folder}. Either call with allow_download=True, or "
            f"get the file from the releases of torch-fidelity or pytorch-fid and put it there or name it in the "
            f"environment variable {INCEPTION_VARIABLE}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INCEPTION_FILES[0]
    torch.hub.download_url_to_file(_torch_fidelity().URL_INCEPTION_V3, str(path), INCEPTION_SHA256)
    return path
