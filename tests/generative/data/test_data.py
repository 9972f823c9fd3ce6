import hashlib
import lzma
import struct
import sys

import numpy as np
import pytest
import torch

from wgflow import BadInput, DataNotFound, MissingDependency
from wgflow.core.rng import generator
from wgflow.generative.data import IMAGE_SETS, ImageData, ImageSet, _bundled, load_images, to_uint8, to_unit
from wgflow.generative.data._images import CHUNK_PIXELS, resize
from wgflow.measures.base import Measure


def some_images(n: int, c: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, c, side, side), generator=generator(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def fashion() -> ImageSet:
    return load_images("fashion-mnist-10k")


def idx(magic: int, array: torch.Tensor) -> bytes:
    return struct.pack(f">{1 + array.dim()}i", magic, *array.shape) + array.to(torch.uint8).numpy().tobytes()


def test_bundled_images_are_the_published_files(fashion):
    # MD5 of the unpacked idx files that zalandoresearch/fashion-mnist distributes.
    assert hashlib.md5(idx(0x803, fashion.images[:, 0])).hexdigest() == "8181f5470baa50b63fa0f6fddb340f0a"
    assert hashlib.md5(idx(0x801, fashion.labels)).hexdigest() == "15d484375f8d13e6eb1aabb0c3f46965"


def test_bundled_images_equal_the_shared_files(fashion, shared_data):
    folder = shared_data("fashion_mnist")
    for name, magic, array in (
        ("images-idx3", 0x803, fashion.images[:, 0]),
        ("labels-idx1", 0x801, fashion.labels),
    ):
        packed = (folder / f"t10k-{name}-ubyte.xz").read_bytes()
        assert lzma.decompress(packed) == idx(magic, array)


def test_bundled_set_has_a_thousand_of_each_class(fashion):
    assert fashion.images.shape == (10_000, 1, 28, 28)
    assert fashion.images.dtype == torch.uint8
    assert fashion.labels.bincount().tolist() == [1000] * 10
    assert (fashion.name, len(fashion), len(fashion.classes)) == ("fashion-mnist-10k", 10_000, 10)
    # The first test image of the published list is an ankle boot.
    assert fashion.classes[fashion.labels[0]] == "Ankle boot"


def test_bundled_set_needs_no_optional_package_and_others_name_theirs(monkeypatch, tmp_path):
    for module in ("torchvision", "torchvision.datasets", "PIL", "PIL.Image", "PIL.ImageOps"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(load_images("fashion-mnist-10k")) == 10_000
    (tmp_path / "a.png").touch()
    for name in ("mnist", "folder"):
        with pytest.raises(MissingDependency, match=r"pip install 'wgflow\[image\]'"):
            load_images(name, tmp_path)


def test_damaged_package_file_is_named(tmp_path, monkeypatch, fashion):
    held = _bundled._FILE.read_bytes()
    altered = fashion.images[:, 0].numpy().copy()
    altered[1234, 5, 6] ^= 1
    copy = tmp_path / "copy.npz"
    monkeypatch.setattr(_bundled, "_FILE", copy)

    np.savez(copy, images=altered, labels=fashion.labels.numpy().astype(np.uint8))
    with pytest.raises(BadInput, match=r"copy.npz.*damaged.*SHA-256 of its images.*install wgflow again"):
        load_images("fashion-mnist-10k")
    for broken in (held[:-1000], held[:2000] + b"\xff" + held[2001:], b""):
        copy.write_bytes(broken)
        with pytest.raises(BadInput, match=r"copy.npz.*damaged"):
            load_images("fashion-mnist-10k")
    copy.unlink()
    with pytest.raises(DataNotFound, match="install wgflow again"):
        load_images("fashion-mnist-10k")


def test_licence_of_the_bundled_images_is_beside_them():
    text = _bundled._FILE.with_name("FASHION_MNIST_LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in text
    assert "2017 Zalando SE" in text


def test_all_levels_survive_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_unit(levels)
    assert x.dtype == torch.float32
    assert (x[0], x[255]) == (-1, 1)
    assert torch.equal(to_uint8(x), levels)
    assert torch.equal(to_uint8(x.double()), levels)


def test_to_uint8_cuts_and_rounds():
    x = torch.tensor([-3.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 1.0, 1.2])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 255, 255]


def test_scaling_twice_is_refused():
    with pytest.raises(BadInput, match="float32"):
        to_unit(torch.zeros(3))
    with pytest.raises(BadInput, match="uint8"):
        to_uint8(torch.zeros(3, dtype=torch.uint8))


def test_resize_agrees_with_pillow():
    image = pytest.importorskip("PIL.Image")
    x = some_images(3, 3, 30)
    for size in (7, 64):
        theirs = [
            image.fromarray(a.permute(1, 2, 0).numpy()).resize((size, size), image.Resampling.BILINEAR) for a in x
        ]
        theirs = torch.stack([torch.from_numpy(np.array(a)).permute(2, 0, 1) for a in theirs])
        # Pillow computes in 8-bit fixed point, so a level can differ by one.
        assert (resize(x, size).int() - theirs.int()).abs().max() <= 1


def test_resize_in_chunks_keeps_order():
    n = 3 + CHUNK_PIXELS // 32**2
    levels = (torch.arange(n) % 251).to(torch.uint8)
    small = resize(levels[:, None, None, None].expand(n, 1, 32, 32), 8)
    assert torch.equal(small, levels[:, None, None, None].expand(n, 1, 8, 8))


def test_size_of_a_named_set():
    assert load_images("fashion-mnist-10k", size=14).images.shape == (10_000, 1, 14, 14)
    for size in (0, -3, 2.5, True):
        with pytest.raises(BadInput, match="size must be"):
            load_images("fashion-mnist-10k", size=size)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("cifr10", "cifar10"), ("CIFAR-10", "cifar10"), ("fashion", "fashion-mnist"), ("MNIST", "mnist")],
)
def test_unknown_names_list_near_misses(name, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = ", ".join(IMAGE_SETS)
    with pytest.raises(BadInput, match=f"'{name}': did you mean .*'{meant}'.* known: {known}"):
        load_images(name)


def test_names_and_roots_that_contradict_each_other(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(BadInput, match="leave root"):
        load_images(str(tmp_path / "a.npy"), tmp_path)
    for name in ("folder", "array"):
        with pytest.raises(BadInput, match="root is missing"):
            load_images(name)


@pytest.mark.parametrize("name", ["fashion-mnist-10k", "mnist", "cifar10", "celeba", "folder", "array"])
def test_unknown_splits(name, tmp_path):
    with pytest.raises(BadInput, match=r"splits train.*got 'dev'"):
        load_images(name, tmp_path, split="dev")


def test_draws_are_images_of_the_set_in_float(device):
    images = some_images(7, 3, 4)
    data = ImageData(images).to(device)
    assert isinstance(data, Measure)
    assert (data.event_shape, data.device, len(data)) == ((3, 4, 4), data.images.device, 7)
    assert data.device.type == device.type
    drawn = data.draw(50, generator(1, device))
    assert drawn.x.dtype == torch.float32
    assert drawn.log_w is None
    each = to_uint8(drawn.x).cpu()[:, None] == images[None]
    assert each.flatten(2).all(2).sum(1).tolist() == [1] * 50


def test_draws_are_a_function_of_the_generator(device):
    data = ImageData(some_images(100, 1, 4), flip=True).to(device)
    rng = generator(5, device)
    first, second = data.draw(64, rng).x, data.draw(64, rng).x
    assert torch.equal(first, data.draw(64, generator(5, device)).x)
    assert not torch.equal(first, second)
    torch.manual_seed(123)
    assert torch.equal(first, data.draw(64, generator(5, device)).x)


def asymmetric(n: int) -> torch.Tensor:
    """Image i has level i in its left column and 255 in its right one."""
    images = torch.full((n, 1, 2, 2), 255, dtype=torch.uint8)
    images[..., 0] = torch.arange(n, dtype=torch.uint8)[:, None, None]
    return images


def test_indices_and_flips_are_uniform_and_independent(device):
    n, draws = 10, 40_000
    x = to_uint8(ImageData(asymmetric(n), flip=True).to(device).draw(draws, generator(0, device)).x).cpu()[:, 0, 0]
    flipped = x[:, 0] == 255
    index = torch.where(flipped, x[:, 1], x[:, 0]).long()
    counts = torch.bincount(index + n * flipped, minlength=2 * n).double()
    chi2 = ((counts - draws / (2 * n)) ** 2 / (draws / (2 * n))).sum()
    # 19 degrees of freedom: P(chi2 > 43.8) = 0.001, P(chi2 < 5.4) = 0.001.
    assert 5.4 < chi2 < 43.8


def test_no_flip_unless_asked(device):
    x = ImageData(asymmetric(10)).to(device).draw(1000, generator(0, device)).x
    assert (x[..., 1] == 1).all()


def test_flip_mirrors_left_and_right_only(device):
    images = some_images(1, 3, 5)
    data = ImageData(images, flip=True).to(device)
    seen = {tuple(a.flatten().tolist()) for a in to_uint8(data.draw(40, generator(0, device)).x).cpu()}
    assert seen == {tuple(a.flatten().tolist()) for a in (images[0], images[0].flip(-1))}


def test_images_are_taken_by_number_and_mirrored_as_in_a_draw():
    images = some_images(6, 1, 3)
    data, index = ImageData(images, flip=True), torch.arange(6).repeat(20)
    taken, kept = data.take(index, generator(0)).x, to_unit(images)[index]
    straight, mirrored = ((taken == x).flatten(1).all(1) for x in (kept, kept.flip(-1)))
    assert (straight | mirrored).all()
    assert 30 < int(straight.sum()) < 90
    assert torch.equal(ImageData(images).take(index, generator(0)).x, kept)
    assert data.num_atoms == 6


def test_subset_is_distinct_and_never_flipped(device):
    data = ImageData(asymmetric(50), flip=True).to(device)
    x = to_uint8(data.subset(50, generator(0, device))).cpu()[:, 0, 0]
    assert sorted(x[:, 0].tolist()) == list(range(50))
    assert (x[:, 1] == 255).all()
    assert torch.equal(data.subset(5, generator(0, device)).cpu(), to_unit(x)[:5, None, None].expand(5, 1, 2, 2))
    for n in (0, 51):
        with pytest.raises(BadInput, match=f"{n} distinct images of a set of 50"):
            data.subset(n, generator(0, device))


def test_a_cpu_generator_draws_the_same_images_everywhere(device):
    data = ImageData(some_images(20, 1, 4), flip=True)
    moved = data.to(device)
    assert moved.flip
    assert torch.equal(moved.draw(30, generator(3)).x.cpu(), data.draw(30, generator(3)).x)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 4, 4), "float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), r"\(2, 4, 4\)"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), "empty"),
        (np.zeros((2, 1, 4, 4), np.uint8), "array"),
    ],
)
def test_images_that_are_refused(images, message):
    with pytest.raises(BadInput, match=message):
        ImageData(images)
    with pytest.raises(BadInput, match=message):
        ImageSet(images, None, "mine")


def test_labels_that_are_refused():
    for labels in (torch.zeros(3, dtype=torch.int64), torch.zeros(2)):
        with pytest.raises(BadInput, match="labels must be int64"):
            ImageSet(some_images(2, 1, 4), labels, "mine")


@pytest.mark.gpu
def test_draws_do_not_wait_for_the_gpu(device):
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    data, rng = ImageData(some_images(100, 3, 8), flip=True).to(device), generator(0, device)
    data.draw(64, rng)
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = data.draw(64, rng)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(drawn) == 64
