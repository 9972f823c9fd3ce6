"""One door to all image sets."""

import os
from dataclasses import replace
from pathlib import Path

from wgflow.core.errors import BadInput, DataNotFound
from wgflow.core.registry import near_misses
from wgflow.generative.data._arrays import load_array
from wgflow.generative.data._bundled import load_fashion_mnist_10k
from wgflow.generative.data._files import decode_images
from wgflow.generative.data._folder import SUFFIXES, find_images
from wgflow.generative.data._images import ImageSet, resize
from wgflow.generative.data._torchvision import load_known

_SPLITS = {
    "fashion-mnist-10k": ("train",),
    "fashion-mnist": ("train", "test"),
    "mnist": ("train", "test"),
    "cifar10": ("train", "test"),
    "celeba": ("train", "valid", "test"),
    "folder": ("train",),
    "array": ("train",),
}

IMAGE_SETS = tuple(_SPLITS)
"""The names that :func:`load_images` knows."""


def load_images(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    split: str = "train",
    size: int | None = None,
    download: bool = False,
) -> ImageSet:
    r"""Load a whole set of images into memory as uint8; a .npy file of uint8 of more than 4 GB stays on the disk, and is mapped.

    =====================  ==============================================================  ==================
    name                   what                                                            splits
    =====================  ==============================================================  ==================
    ``fashion-mnist-10k``  Fashion-MNIST's 10,000 test images, in this package; 28 x 28    train
    ``fashion-mnist``      Fashion-MNIST, 28 x 28 gray                                     train, test
    ``mnist``              MNIST, 28 x 28 gray                                             train, test
    ``cifar10``            CIFAR-10, 32 x 32 RGB                                           train, test
    ``celeba``             CelebA: central 140 x 140 pixels at ``size`` (default 64), RGB  train, valid, test
    ``folder``             image files below the folder ``root``: their central squares    train
    ``array``              a .npy or .npz file ``root``                                    train
    =====================  ==============================================================  ==================

    An array is uint8, or floating point in [0, 1] and stored as :math:`\mathrm{round}(255 x)`, of shape
    (n, h, w), (n, h, w, c) or (n, c, h, w) with c = 1 or 3. A .npz file holds it as ``images`` or ``x``,
    and may hold integer ``labels`` or ``y``. A folder is searched recursively, through links too, without hidden files; its
    images become RGB unless all are gray, are turned as their EXIF data say, and lie on white where they are transparent.
    A warning names other files that are left out.

    Parameters
    ----------
    name : str or path
        A name of the table, or in place of ``"folder"`` or ``"array"`` the folder or file itself.
    root : str or path, optional
        For ``folder`` and ``array`` what to read. For sets read by torchvision the folder that holds
        torchvision's layout (for example ``cifar-10-batches-py``); default the environment variable
        ``WGFLOW_DATA``, else ``~/.cache/wgflow``. Not used by ``fashion-mnist-10k``.
    split : str
        Which part of the set; those without parts have ``"train"`` only.
    size : int, optional
        Height and width wanted in pixels: square images are resized (bilinear, antialiased, rounded).
    download : bool
        Fetch a missing set into ``root``. Nothing is ever downloaded without it.

    Returns
    -------
    ImageSet
        The images, with labels where they are known.

    Raises
    ------
    BadInput
        For an unknown name, split or size, an empty set, a file that cannot be read, and arrays of a wrong
        dtype, shape or range or with values that are not finite.
    DataNotFound
        When there is no such file, folder or set: the message says where it looked and how to get the data.
    MissingDependency
        When torchvision or Pillow is needed and absent.

    Examples
    --------
    >>> fashion = load_images("fashion-mnist-10k", size=16)
    >>> fashion.images.shape, fashion.classes[8]
    (torch.Size([10000, 1, 16, 16]), 'Bag')
    """
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise BadInput(f"size must be a whole number of pixels, at least 1, got {size!r}")
    source, path = _resolve(_text("name", name), None if root is None else _text("root", root))
    if split not in _SPLITS[source]:
        hint = ": give the file or folder of the part as root" if source in ("folder", "array") else ""
        raise BadInput(f"{source} has the splits {', '.join(_SPLITS[source])}, got {split!r}{hint}")
    match source:
        case "fashion-mnist-10k":
            data = load_fashion_mnist_10k()
        case "array":
            data = load_array(_existing(path, "a .npy or .npz file"))
        case "folder":
            data = _load_folder(_existing(path, "a folder of images"), size)
        case _:
            folder, origin = _default_root() if path is None else (path, "given as root")
            data = load_known(source, folder, origin, split, size, download)
    if size is not None and data.images.shape[-2:] != (size, size):
        data = replace(data, images=resize(data.images, size))
    return data


def has_split(name: str, split: str) -> bool:
    """Whether a set, a folder or a file has a part of this name."""
    return split in _SPLITS[_resolve(name, None)[0]]


def _text(argument: str, path: str | os.PathLike[str]) -> str:
    try:
        text = os.fspath(path)
    except TypeError:
        text = ""
    if not isinstance(text, str) or not text:
        raise BadInput(f"{argument}={path!r:.60}: expected the name of an image set, or a path, as a string")
    return text


def _resolve(name: str, root: str | None) -> tuple[str, Path | None]:
    """Return the entry of the table that ``name`` means and the path to read, if one was given."""
    path = None if root is None else _absolute(root)
    if name in _SPLITS:
        return name, path
    named = _absolute(name)
    is_array = named.suffix.lower() in (".npy", ".npz") and not os.path.isdir(named)
    if not (is_array or os.path.exists(named) or len(Path(name).parts) > 1):
        known = near_misses(name.lower(), list(_SPLITS))
        raise BadInput(f"no image set is called {name!r}: {known}, or the path of a folder, .npy or .npz file")
    if root is not None:
        raise BadInput(f"{name!r} is a path already: leave root={root!r} out")
    return "array" if is_array else "folder", named


def _absolute(path: str) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # Path.expanduser raises where there is no such user


def _existing(path: Path | None, what: str) -> Path:
    if path is None:
        raise BadInput(f"root is missing: give the path of {what} (on the command line: --data_root PATH)")
    if not os.path.exists(path):
        raise DataNotFound(f"there is nothing at {path}, expected {what}: check the path (--data_root)")
    wants_folder = what == "a folder of images"
    if path.is_dir() != wants_folder:
        hint = " (unpack an archive first)" if wants_folder else ""
        raise BadInput(f"{path} is {'a folder' if path.is_dir() else 'a file'}, expected {what}{hint}")
    if not (path.is_dir() or path.is_file()):  # opening a pipe would wait for ever, a device may never end
        raise BadInput(f"{path} is a pipe, a socket or a device, expected {what}")
    return path


def _load_folder(folder: Path, size: int | None) -> ImageSet:
    paths = find_images(folder)
    if not paths:
        suffixes = ", ".join(SUFFIXES)
        raise BadInput(f"the set is empty: {folder} and below hold no file with {suffixes}")
    return ImageSet(decode_images(paths, size), None, folder.name)


def _default_root() -> tuple[Path, str]:
    held = os.environ.get("WGFLOW_DATA")
    if held:
        return _absolute(held), "from the environment variable WGFLOW_DATA"
    return _absolute("~/.cache/wgflow"), "the default; set root or the variable WGFLOW_DATA"
