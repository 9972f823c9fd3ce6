import lzma
import pickle
import struct
from pathlib import Path

import pytest
import torch

from wgflow import DataNotFound
from wgflow.core.rng import generator
from wgflow.generative.data import load_images
from wgflow.generative.data._images import resize

datasets = pytest.importorskip("torchvision.datasets")


def some_images(n: int, c: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, c, side, side), generator=generator(seed), dtype=torch.uint8)


def idx(magic: int, array: torch.Tensor) -> bytes:
    return struct.pack(f">{1 + array.dim()}i", magic, *array.shape) + array.to(torch.uint8).numpy().tobytes()


def write_idx_layout(root: Path, name: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, keep in (("train", slice(1, None)), ("t10k", slice(0, 1))):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(0x803, images[keep, 0]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(0x801, labels[keep]))


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_layout(name, folder, tmp_path, monkeypatch):
    images, labels = some_images(4, 1, 28), torch.tensor([3, 1, 4, 1])
    write_idx_layout(tmp_path, folder, images, labels)
    train = load_images(name, tmp_path)
    assert torch.equal(train.images, images[1:])
    assert torch.equal(train.labels, labels[1:])
    assert (train.name, len(train.classes)) == (name, 10)
    monkeypatch.setenv("WGFLOW_DATA", str(tmp_path))
    assert torch.equal(load_images(name, split="test").images, images[:1])


def test_real_mnist(shared_data, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in shared_data("mnist").glob("*.xz"):
        (raw / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
    mnist = load_images("mnist", tmp_path)
    # The mean of the training pixels that everybody normalises by.
    assert round(float(mnist.images.double().mean() / 255), 4) == 0.1307
    # Number of each digit, from the table in LeCun et al.'s data.
    assert mnist.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_cifar10_layout(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images, labels = some_images(12, 3, 32), torch.arange(12) % 10
    for i, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        two = slice(2 * i, 2 * i + 2)
        batch = {"data": images[two].reshape(2, -1).numpy(), "labels": labels[two].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = ["airplane", *"bcdefghij"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    # torchvision knows the MD5 of the real files only.
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, md5: Path(path).is_file())

    train, test = (load_images("cifar10", tmp_path, split=split) for split in ("train", "test"))
    assert torch.equal(torch.cat([train.images, test.images]), images)
    assert torch.equal(torch.cat([train.labels, test.labels]), labels)
    assert train.images.is_contiguous()
    assert train.classes == tuple(names)


def test_celeba_layout(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i}.png" for i in range(6)]
    pixels = torch.randint(256, (6, 218, 178, 3), generator=generator(0), dtype=torch.uint8)
    for name, array in zip(names, pixels, strict=True):
        image.fromarray(array.numpy()).save(folder / "img_align_celeba" / name)
    for table, header, columns in (
        ("list_eval_partition", "", list("001122")),
        ("identity_CelebA", "", list("123456")),
        ("list_bbox_celeba", "6\nimage_id x y w h\n", ["1 1 9 9"] * 6),
        ("list_landmarks_align_celeba", "6\nlefteye_x lefteye_y\n", ["1 1"] * 6),
        ("list_attr_celeba", "6\nSmiling Young\n", ["1 -1"] * 6),
    ):
        rows = "".join(f"{name} {row}\n" for name, row in zip(names, columns, strict=True))
        (folder / f"{table}.txt").write_text(header + rows)
    monkeypatch.setattr(datasets.CelebA, "_check_integrity", lambda self: True)

    centre = pixels[:, 39:179, 19:159].permute(0, 3, 1, 2)
    for i, split in enumerate(("train", "valid", "test")):
        assert torch.equal(load_images("celeba", tmp_path, split=split, size=140).images, centre[2 * i : 2 * i + 2])
    assert torch.equal(load_images("celeba", tmp_path).images, resize(centre[:2], 64))


@pytest.mark.parametrize("name", ["cifar10", "mnist", "fashion-mnist", "celeba"])
def test_missing_set_says_where_it_looked_and_how_to_get_it(name, tmp_path, monkeypatch):
    downloads = []
    for dataset in (datasets.CIFAR10, datasets.MNIST, datasets.CelebA):
        monkeypatch.setattr(dataset, "download", downloads.append)
    with pytest.raises(DataNotFound) as given:
        load_images(name, tmp_path / "nowhere")
    monkeypatch.setenv("WGFLOW_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataNotFound) as variable:
        load_images(name)
    monkeypatch.delenv("WGFLOW_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataNotFound) as default:
        load_images(name)
    for error, place in (
        (given, "nowhere"),
        (variable, "elsewhere"),
        (variable, "environment variable WGFLOW_DATA"),
        (default, ".cache/wgflow"),
    ):
        for part in (place, "does not exist", "download=True", "--download true", "http"):
            assert part in str(error.value)
    assert not downloads
    assert not any(tmp_path.iterdir())


def test_damaged_set_is_not_taken_for_data(tmp_path):
    write_idx_layout(tmp_path, "MNIST", some_images(4, 1, 28), torch.arange(4))
    cut = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(DataNotFound, match="damaged"):
        load_images("mnist", tmp_path)


def test_download_runs_when_asked_and_its_failure_is_reported(tmp_path, monkeypatch):
    root = tmp_path / "new" / "root"
    images, labels = some_images(3, 1, 28), torch.arange(3)
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_idx_layout(root, "MNIST", images, labels))
    assert torch.equal(load_images("mnist", root, download=True).images, images[1:])

    def fail(self):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(DataNotFound, match=r"(?s)download failed.*no route to host"):
        load_images("cifar10", root, download=True)
