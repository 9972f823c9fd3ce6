"""Folders and files that people bring: read as they look, or refused by name at once, and never executed."""

import io
import os
import pickle
import socket
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wgflow import BadInput, DataNotFound
from wgflow.generative.data import ImageData, ImageSet, load_images, to_uint8, to_unit
from wgflow.generative.metrics.cifar_resnet import CifarResNetFeatures
from wgflow.generative.metrics.fid import ReferenceStats
from wgflow.generative.sample import save_images
from wgflow.measures import Particles, Pushforward, StandardNormal

Image = pytest.importorskip("PIL.Image")


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(path: Path, array: np.ndarray | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(8, 8, 3) if array is None else array).save(path, **options)


def loaded(folder: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_images(folder).images.permute(0, 2, 3, 1).numpy()


# ---------------------------------------------------------------- pictures


def framed(mode: str, hidden: int) -> tuple[Any, dict[str, Any]]:
    """An ink of level 90 in a transparent frame whose colour, ``hidden``, nobody sees; and how it is saved."""
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True
    level = np.where(inside, 90, hidden).astype(np.uint8)
    if mode in ("RGBA", "LA"):
        colours = [level] if mode == "LA" else [level] * 3
        return Image.fromarray(np.dstack([*colours, 255 * inside.astype(np.uint8)])), {}
    if mode == "P":
        image = Image.fromarray(inside.astype(np.uint8), "P")
        image.putpalette([hidden] * 3 + [90] * 3)
        return image, {"transparency": 0}
    image = Image.fromarray(level).convert(mode)
    return image, {"transparency": (hidden,) * 3 if mode == "RGB" else hidden}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
@pytest.mark.parametrize("hidden", [0, 200])
def test_what_is_transparent_lies_on_white(mode: str, hidden: int, tmp_path: Path) -> None:
    """Two pictures that look the same are the same, whatever their programs have left below transparent pixels."""
    expected = np.full((8, 8), 255)
    expected[2:6, 2:6] = 90
    image, options = framed(mode, hidden)
    image.save(tmp_path / "a.png", **options)
    found = loaded(tmp_path)[0]
    assert found.shape[-1] == (1 if mode in ("L", "LA") else 3)
    assert (found == expected[..., None]).all()


def test_half_a_transparency_is_half_way_to_white(tmp_path: Path) -> None:
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[..., 3] = 51  # a fifth of black
    picture(tmp_path / "a.png", layer)
    assert (loaded(tmp_path) == 204).all()


@pytest.mark.parametrize(
    ("mode", "format"), [("CMYK", "tif"), ("YCbCr", "jpg"), ("RGB", "webp"), ("1", "png"), ("P", "gif")]
)
def test_other_modes_and_formats_are_read(mode: str, format: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).convert(mode)
    image.save(tmp_path / f"a.{format}")
    assert (loaded(tmp_path) == 255).all()


def png(kind: int, channels: int, depth: int = 16, side: int = 8, more: tuple[bytes, bytes] | None = None) -> bytes:
    """A PNG file as the standard has it; ``kind`` is its colour type, ``more`` a chunk before its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, 0)
    rows = (b"\0" + b"\x12" * (channels * depth)) * 8  # of 8 pixels
    before = chunk(b"IHDR", header) + (chunk(*more) if more else b"")
    return b"\x89PNG\r\n\x1a\n" + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("depth", "levels"), [(1, {0, 1}), (2, {0, 1, 2}), (4, {1, 2}), (8, {0x12})])
def test_a_transparent_level_of_a_grey_picture_is_white_at_every_depth(
    depth: int, levels: set[int], tmp_path: Path
) -> None:
    held = np.unpackbits(np.full(depth, 0x12, np.uint8)).reshape(8, depth) @ (1 << np.arange(depth)[::-1])
    assert set(held.tolist()) <= levels
    for hidden in levels:
        transparent = (b"tRNS", struct.pack(">H", hidden))
        (tmp_path / "a.png").write_bytes(png(0, 1, depth, more=transparent))
        shown = held * (255 // (2**depth - 1))
        assert np.array_equal(loaded(tmp_path).reshape(8, 8)[0], np.where(held == hidden, 255, shown))


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel_are_refused_in_colour_too(kind: int, channels: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(kind, channels))
    with pytest.raises(BadInput, match=r"a\.png has 16 bits a channel, expected 8 bits"):
        load_images(tmp_path)
    (tmp_path / "a.png").write_bytes(png(kind, channels, depth=8))
    assert len(load_images(tmp_path).images) == 1


@pytest.mark.parametrize(
    ("head", "level"), [(b"P6 2 2 65535\n", b"\1\0"), (b"P6 2 2 256\n", b"\1\0"), (b"P3 2 2 1000\n", b"9 ")]
)
def test_pixmaps_of_more_than_8_bits_are_refused(tmp_path, head, level):
    """Pillow rounds their colors to 8 bits."""
    pytest.importorskip("PIL.Image")
    (tmp_path / "a.ppm").write_bytes(head + 12 * level)
    with pytest.raises(BadInput, match=r"a\.ppm has 16 bits a channel, expected 8 bits"):
        load_images(tmp_path)
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 15\n" + 12 * b"\2")
    assert load_images(tmp_path).images.unique().tolist() == [34]


@pytest.mark.parametrize("format", ["gif", "tif", "webp"])
def test_the_first_picture_of_a_film_is_taken_with_a_word(format: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 255, 0)]
    frames[0].save(tmp_path / f"a.{format}", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=rf"several pictures, the first of each is taken: .*a\.{format}"):
        assert (load_images(tmp_path).images < 9).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        png(2, 3, side=2**31 - 1, depth=8),  # a header that claims 10^18 pixels
        png(2, 3, depth=8)[:50],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n",  # Pillow would run it
    ],
    ids=["empty", "page", "huge", "cut", "program"],
)
def test_files_that_are_no_pictures_are_named(content: bytes, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(BadInput, match=r"b\.png cannot be (read|decoded) as an image"):
        load_images(tmp_path)


# ---------------------------------------------------------------- folders


def test_class_folders_behind_links_are_read(tmp_path: Path) -> None:
    for name in ("data/cats", "elsewhere/dogs", "elsewhere/dogs/small"):
        picture(tmp_path / name / "a.png")
    picture(tmp_path / "single.png")
    os.symlink(tmp_path / "elsewhere" / "dogs", tmp_path / "data" / "dogs")
    os.symlink(tmp_path / "single.png", tmp_path / "data" / "link.png")
    assert len(loaded(tmp_path / "data")) == 4


def test_loops_of_links_end_and_a_folder_is_read_once(tmp_path: Path) -> None:
    picture(tmp_path / "cats" / "a.png")
    os.symlink("..", tmp_path / "cats" / "loop")
    os.symlink("cats", tmp_path / "again")
    with pytest.warns(UserWarning, match=r"2 left out, a second way to a folder .*: again, cats/loop"):
        assert len(load_images(tmp_path).images) == 1


def test_hidden_files_and_those_of_desktops_are_no_images(tmp_path: Path) -> None:
    for name in ("a.PNG", "ünï\ncode.Jpeg", "b.png/c.jpg"):
        picture(tmp_path / name)
    for name in (".DS_Store", "._a.PNG", "Thumbs.db", "desktop.ini", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    assert len(loaded(tmp_path)) == 3


def test_other_files_are_left_out_with_a_word(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for name in ("labels.csv", "b.npy", "c.zip", "d.heic"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"4 left out, not an image by suffix: b\.npy, c\.zip, d\.heic, \.\.\.$"):
        load_images(tmp_path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    os.symlink("/dev/zero", path)


def meeting_place(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))


def nowhere(path: Path) -> None:
    os.symlink("/nowhere", path)


def itself(path: Path) -> None:
    os.symlink(path.name, path)


@pytest.mark.parametrize("make", [pipe, device, meeting_place, nowhere, itself])
@pytest.mark.parametrize("name", ["b.png", "dogs"])
def test_what_is_no_file_is_named(make: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    """Opening a pipe would wait for ever, and a device never ends. A link that leads nowhere may be a class of images."""
    picture(tmp_path / "a.png")
    make(tmp_path / name)
    if name == "dogs" and make not in (nowhere, itself):
        with pytest.warns(UserWarning, match="1 left out, not an image by suffix: dogs"):
            load_images(tmp_path)
    else:
        with pytest.raises(BadInput, match=rf"{name} is (not a file but a pipe|a link that leads nowhere)"):
            load_images(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BadInput, match="closed cannot be read: Permission denied"):
        load_images(tmp_path)


# ---------------------------------------------------------------- arrays


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Evil, "ran", True)


def npy(header: str, data: bytes = bytes(256)) -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def archive(**members: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return held.getvalue()


def saved(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=True)
    return held.getvalue()


def encrypted() -> bytes:
    content = bytearray(archive(x=saved(pixels(4, 8, 8))))
    content[content.find(b"PK\x03\x04") + 6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8)}"
GOOD = saved(pixels(4, 8, 8))
FOREIGN = {
    "empty": b"",
    "text": b"hello",
    "pickle": pickle.dumps(Evil()),
    "objects": saved(np.array([Evil()])),
    "objects in an archive": archive(x=saved(np.array([Evil()]))),
    "labels that are objects": archive(x=GOOD, y=saved(np.array([Evil()] * 4))),
    "cut": GOOD[:-1],
    "cut header": GOOD[:40],
    "huge": npy(HUGE),
    "huge in an archive": archive(x=npy(HUGE)),
    "program for a header": npy("__import__('os').abort()"),
    "nested header": npy("{'descr':" + "[" * 200 + "]" * 200 + ", 'fortran_order': False, 'shape': (4, 8, 8)}"),
    "half a header": npy("{'descr': '|u1',"),
    "negative": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 8, 8)}"),
    "encrypted": encrypted(),
    "foreign archive": archive(word=b"<document/>"),
    "foreign member": archive(x=b"no array"),
    "cut archive": archive(x=GOOD)[:200],
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_array_files_of_any_content_are_refused_by_name_and_never_executed(
    content: bytes, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"a\.{suffix} (cannot be read|has no array)") as raised:
        load_images(path)
    assert len(str(raised.value)) < 400
    for reader in (ReferenceStats.load, CifarResNetFeatures):
        with pytest.raises(BadInput, match=rf"a\.{suffix} (does not hold|is not an \.npz file)"):
            reader(path)
    assert not Evil.ran


@pytest.mark.parametrize("make", [pipe, device, meeting_place, nowhere, itself, Path.mkdir])
def test_array_files_that_are_no_files(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    make(path)
    with pytest.raises((BadInput, DataNotFound), match=r"a\.npy( is a pipe|, expected| and below hold no file)"):
        load_images(path)
    for reader in (ReferenceStats.load, CifarResNetFeatures):
        with pytest.raises(DataNotFound, match=r"there (are|is) no .*a\.npy"):
            reader(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pixels(8, 8, 3), r"looks like one picture \(h, w, c\)"),
        (pixels(4, 8, 8).astype(np.uint16), "uint16, expected uint8"),
        (pixels(4, 8, 8) > 127, r"bool, expected uint8 .*\(255 \* x\)"),
        (np.full((4, 8, 8), 1.01), "from 1.01 to 1.01"),
        (np.where(np.arange(256).reshape(4, 8, 8) == 150, np.nan, 0.5), r"image 2 .*first at \(0, 2, 6\): nan"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(BadInput, match=message):
        load_images(tmp_path / "a.npy")


def test_black_and_white_as_zero_and_one_is_said_to_be_all_black(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(4, 8, 8) // 128)
    with pytest.warns(UserWarning, match="no level but 0 and 1 of 255"):
        load_images(tmp_path / "a.npy")


def test_rounding_errors_at_the_ends_of_the_range_are_no_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([-1e-7, 1 + 1e-7], np.float32).repeat(32).reshape(1, 8, 8))
    assert load_images(tmp_path / "a.npy").images.unique().tolist() == [0, 255]


def test_arrays_in_any_order_are_the_same(tmp_path: Path) -> None:
    images = pixels(4, 8, 8, 3)
    np.save(tmp_path / "a.npy", np.asfortranarray(images))
    assert np.array_equal(load_images(tmp_path / "a.npy").images.permute(0, 2, 3, 1).numpy(), images)


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=pixels(4, 8, 8), y=np.full(4, 2**63, np.uint64))
    with pytest.raises(BadInput, match="9223372036854775808, which is no number of a class"):
        load_images(tmp_path / "a.npz")


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize("path", [None, 3, b"a.npy", [], ""])
def test_names_that_are_none(path: Any) -> None:
    with pytest.raises(BadInput, match=r"name=.*: expected the name of an image set, or a path"):
        load_images(path)
    if path is not None:
        with pytest.raises(BadInput, match=r"root=.*: expected the name of an image set, or a path"):
            load_images("folder", path)


@pytest.mark.parametrize(
    "path", ["a" * 5000 + ".npy", "nul\0.npy", "~no-such-user/a.npy", "gone/" + "b" * 300 + "/a.npz"]
)
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(DataNotFound, match="there is nothing at"):
        load_images(path)
    for reader in (ReferenceStats.load, CifarResNetFeatures):
        with pytest.raises(DataNotFound, match=r"there (are|is) no "):
            reader(path)


def test_archives_have_to_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.zip").write_bytes(archive(x=GOOD))
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "data.zip", "data.zip"):
        with pytest.raises(BadInput, match=r"is a file, expected a folder of images \(unpack an archive first"):
            load_images(path)


@pytest.mark.parametrize("size", [10**7, 10**30])
def test_sizes_beyond_any_memory(size: int, tmp_path: Path) -> None:
    picture(tmp_path / "folder" / "a.png")
    np.save(tmp_path / "a.npy", pixels(4, 8, 8))
    for path in (tmp_path / "a.npy", tmp_path / "folder"):
        with pytest.raises(BadInput, match="GB of memory"):
            load_images(path, size=size)


@pytest.mark.parametrize(("values", "warns"), [((0.0, 255.0), True), ((-1.05, 1.05), False), ((-2.0, 1.0), True)])
@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_images_of_another_range_are_not_saved_without_a_word(
    values: tuple[float, float], warns: bool, name: str, tmp_path: Path
) -> None:
    pixel = torch.tensor(values).repeat(32).reshape(1, 8, 8)
    net = torch.nn.Linear(2, 64).requires_grad_(False)
    net.weight.zero_()
    net.bias.copy_(pixel.flatten())
    model = Pushforward(StandardNormal(2), torch.nn.Sequential(net, torch.nn.Unflatten(1, (1, 8, 8))))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore", ResourceWarning)  # of what other tests left to be collected
        warnings.simplefilter("always", UserWarning)
        save_images(model, 3, tmp_path / name)
    assert len(said) == warns
    assert all("expected [-1, 1]: what lies outside of that was cut off" in str(w.message) for w in said)


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_images_that_are_no_numbers_are_not_saved_without_a_word(name: str, tmp_path: Path) -> None:
    """They became black, one among others was not seen."""
    images = torch.zeros(4, 1, 8, 8)
    images[2, 0, 3, 3] = torch.nan
    with pytest.warns(UserWarning, match="1 of 4 images have values that are not numbers: these have no color"):
        save_images(Particles(images), 4, tmp_path / name)


U = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(U)), "Collect it in one tensor"),
        (torch.utils.data.Subset(torch.utils.data.TensorDataset(U), [1]), "Collect it in one tensor"),
        (iter([U]), "Collect it in one tensor"),
        ([U], "Convert it"),
        (U.numpy(), "Convert it: torch.as_tensor"),
        (ImageSet(U, None, "x"), "Pass its images"),
        ("a.npy", "load_images reads files"),
        (U.to_sparse(), "dense tensor"),
        (U.to("meta"), "dense tensor"),
    ],
)
def test_objects_that_are_no_images(images: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ImageSet(images, None, "x")
    with pytest.raises(BadInput, match=message):
        ImageData(images)
    for convert in (to_unit, to_uint8):
        if not isinstance(images, torch.Tensor):
            with pytest.raises(BadInput, match=f"{convert.__name__} expects a tensor"):
                convert(images)
