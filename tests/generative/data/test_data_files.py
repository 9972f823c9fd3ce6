import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from wgflow import BadInput, DataNotFound
from wgflow.core.rng import generator
from wgflow.generative.data import load_images
from wgflow.generative.data._images import CHUNK_PIXELS, resize


def some_images(n: int, c: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, c, side, side), generator=generator(seed), dtype=torch.uint8)


@pytest.fixture
def save():
    image = pytest.importorskip("PIL.Image")

    def write(path: Path, pixels: torch.Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        channels_last = pixels.permute(1, 2, 0).numpy()
        image.fromarray(channels_last[..., 0] if len(pixels) == 1 else channels_last).save(path)

    return write


def test_folder_is_searched_and_cut_to_the_central_square(tmp_path, save):
    wide = torch.arange(3 * 4 * 8, dtype=torch.uint8).reshape(3, 4, 8)
    high = wide.transpose(1, 2).contiguous()
    save(tmp_path / "b" / "c" / "high.PNG", high)
    save(tmp_path / "a.png", wide)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image either")
    data = load_images("folder", tmp_path)
    assert torch.equal(data.images, torch.stack([wide[:, :, 2:6], high[:, 2:6]]))
    assert data.labels is None
    by_path = load_images(str(tmp_path), size=2)
    assert by_path.name == tmp_path.name
    assert torch.equal(by_path.images, resize(data.images, 2))


def test_grey_folder_stays_grey_and_a_mixed_one_becomes_rgb(tmp_path, save):
    grey, colour = some_images(40, 1, 5), some_images(1, 3, 5)[0]
    for i, x in enumerate(grey):
        save(tmp_path / f"{i:02}.png", x)
    assert torch.equal(load_images("folder", tmp_path).images, grey)
    save(tmp_path / "40.png", colour)
    assert torch.equal(load_images("folder", tmp_path).images, torch.cat([grey.expand(-1, 3, -1, -1), colour[None]]))


def test_photographs_are_turned_as_their_exif_data_say(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = some_images(1, 3, 6)[0]
    photo = image.fromarray(pixels.permute(1, 2, 0).numpy())
    exif = photo.getexif()
    exif[0x0112] = 3  # orientation: upside down
    photo.save(tmp_path / "photo.png", exif=exif)
    assert torch.equal(load_images("folder", tmp_path).images[0], pixels.flip(1, 2))


def test_unreadable_file_is_named(tmp_path, save):
    image = pytest.importorskip("PIL.Image")
    save(tmp_path / "good.png", some_images(1, 3, 64)[0])
    bad = tmp_path / "bad.png"
    whole = (tmp_path / "good.png").read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(BadInput, match=r"bad\.png"):
            load_images("folder", tmp_path)
    image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(bad)
    with pytest.raises(BadInput, match=r"bad\.png.*8 bits"):
        load_images("folder", tmp_path)


def test_folders_that_hold_no_set(tmp_path, save):
    with pytest.raises(BadInput, match="empty"):
        load_images("folder", tmp_path)
    with pytest.raises(DataNotFound, match="absent"):
        load_images("folder", tmp_path / "absent")
    with pytest.raises(DataNotFound, match="absent"):
        load_images(str(tmp_path / "absent"))
    save(tmp_path / "a.png", some_images(1, 3, 4)[0])
    save(tmp_path / "b.png", some_images(1, 3, 5)[0])
    with pytest.raises(BadInput, match=r"b\.png.*5 pixels.*size"):
        load_images("folder", tmp_path)
    with pytest.raises(BadInput, match="expected a folder"):
        load_images("folder", tmp_path / "a.png")


@pytest.mark.parametrize("c", [1, 3])
def test_layouts_of_arrays(c, tmp_path):
    images = torch.randint(256, (5, c, 6, 7), generator=generator(0), dtype=torch.uint8)
    np.save(tmp_path / "first.npy", images.numpy())
    np.save(tmp_path / "last.npy", images.permute(0, 2, 3, 1).numpy())
    assert torch.equal(load_images("array", tmp_path / "first.npy").images, images)
    assert torch.equal(load_images(str(tmp_path / "last.npy")).images, images)
    if c == 1:
        np.save(tmp_path / "none.npy", images[:, 0].numpy())
        assert torch.equal(load_images(tmp_path / "none.npy").images, images)


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_large_files_are_mapped_and_not_read(layout, tmp_path, monkeypatch):
    monkeypatch.setattr("wgflow.generative.data._arrays._MAPPED", 100)
    images = torch.randint(256, (5, 3, 6, 7), generator=generator(0), dtype=torch.uint8)
    np.save(tmp_path / "a.npy", images.permute(layout).numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = load_images(tmp_path / "a.npy").images
    assert torch.equal(held, images)
    before = (tmp_path / "a.npy").read_bytes()
    held.zero_()
    assert (tmp_path / "a.npy").read_bytes() == before, "what is written stays in memory"
    with open(tmp_path / "a.npy", "r+b") as file:
        file.seek(-1, 2)
        file.write(bytes([99]))
    assert int(load_images(tmp_path / "a.npy").images[-1, -1, -1, -1]) == 99


def test_arrays_are_copied_in_chunks(tmp_path):
    n = 2 + CHUNK_PIXELS // 64**2
    images = (np.arange(n) % 256).astype(np.uint8)[:, None, None].repeat(64, 1).repeat(64, 2)
    np.savez(tmp_path / "a.npz", x=images / np.float16(255))
    assert np.array_equal(load_images(tmp_path / "a.npz").images[:, 0].numpy(), images)


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8"])
def test_float_arrays_become_levels(dtype, tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.save(tmp_path / "a.npy", (levels / 255).astype(dtype))
    assert np.array_equal(load_images("array", tmp_path / "a.npy").images[0].numpy(), levels)


def test_keys_of_npz_files(tmp_path):
    images, path = some_images(4, 3, 6), tmp_path / "a.npz"
    for keys in (("images", "labels"), ("x", "y")):
        np.savez(path, **dict(zip(keys, (images.numpy(), np.array([2, 0, 1, 1], np.uint8)), strict=True)))
        data = load_images(path, size=3)
        assert data.labels.tolist() == [2, 0, 1, 1]
        assert data.labels.dtype == torch.int64
        assert (data.name, data.classes, data.images.shape) == ("a.npz", None, (4, 3, 3, 3))
    np.savez(path, data=images.numpy())
    with pytest.raises(BadInput, match=r"'images' or 'x'; it holds: data"):
        load_images(path)
    for labels in (np.zeros(3, int), np.zeros((4, 1), int), np.zeros(4)):
        np.savez(path, x=images.numpy(), y=labels)
        with pytest.raises(BadInput, match="labels"):
            load_images(path)


def with_value(value: float) -> np.ndarray:
    x = np.full((4, 5, 5), 0.5, np.float32)
    x[2, 1, 1] = value
    return x


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (with_value(np.nan), r"image 2 .*not finite"),
        (with_value(np.inf), r"image 2 .*not finite"),
        (with_value(-0.5), r"image 2 .*from -0.5 to 0.5.*\(x \+ 1\) / 2"),
        (with_value(200), r"image 2 .*from 0.5 to 200.*uint8"),
        (np.zeros((4, 5, 5), np.int64), "int64, expected uint8"),
        (np.zeros((4, 5, 5), bool), "bool, expected uint8"),
        (np.zeros((4, 5, 5), complex), "complex128, expected uint8"),
        (np.zeros((0, 5, 5), np.uint8), "empty"),
        (np.zeros((4, 5), np.uint8), r"shape \(4, 5\), expected \(n, h, w\)"),
        (np.zeros((4, 2, 5, 5), np.uint8), r"shape \(4, 2, 5, 5\), expected"),
        (np.zeros((4, 3, 5, 3), np.uint8), "only one of them"),
        (np.zeros((4, 1, 5, 1), np.uint8), r"gray images as \(n, h, w\)"),
        (np.array([None, 1]), "cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_that_are_refused(array, message, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, x=array)
    with pytest.raises(BadInput, match=message) as raised:
        load_images(path)
    assert str(path) in str(raised.value)


def test_array_files_that_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 6), np.uint8))
    with pytest.raises(BadInput, match="5 x 6"):
        load_images(tmp_path / "a.npy", size=4)
    whole = (tmp_path / "a.npy").read_bytes()
    np.savez_compressed(tmp_path / "a.npz", x=some_images(4, 1, 9).numpy())
    packed = bytearray((tmp_path / "a.npz").read_bytes())
    packed[200] ^= 255
    for name, content in (
        ("b.npy", whole[:-7]),
        ("c.npy", b""),
        ("d.npz", b"what"),
        ("e.npz", bytes(packed)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=rf"{name} cannot be read"):
            load_images(tmp_path / name)
    with pytest.raises(DataNotFound, match=r"absent\.npz"):
        load_images("absent.npz")
    with pytest.raises(BadInput, match=r"a folder, expected a \.npy"):
        load_images("array", tmp_path)


def test_real_cifar10_as_an_array(shared_data, tmp_path, monkeypatch):
    folder = shared_data("cifar10")
    monkeypatch.syspath_prepend(folder.parent)
    pixels = importlib.import_module("imgpack").load(str(folder / "test_0.npz"))
    np.savez(tmp_path / "cifar.npz", images=pixels, labels=np.load(folder / "labels.npz")["test"][:2000])
    cifar = load_images(tmp_path / "cifar.npz")
    assert cifar.images.shape == (2000, 3, 32, 32)
    # The published test set begins with a cat, two ships, an aeroplane and a frog.
    assert cifar.labels[:5].tolist() == [3, 8, 8, 0, 6]
    red, green, blue = cifar.images.unbind(1)
    assert np.array_equal(torch.stack([red, green, blue], -1).numpy(), pixels)
