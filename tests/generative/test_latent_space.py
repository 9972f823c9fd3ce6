"""Principal components of images: an affine code and its decoder, fitted once and saved with the run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wgflow import BadInput
from wgflow.generative import ImageData, LatentSpace, Recipe, load_generator, sample, to_uint8, train
from wgflow.generative.latent_space import LATENT_SPACE, Encoded

pytest.importorskip("safetensors")
pytest.importorskip("torchvision")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int = 200) -> Tensor:
    return torch.randint(256, (n, 1, 4, 4), generator=rng(), dtype=torch.uint8)


def test_codes_have_mean_zero_and_unit_covariance_and_are_principal_components() -> None:
    data = ImageData(pixels())
    space = LatentSpace.fit(data, 5)
    x = data.take(torch.arange(200), rng()).x
    z = space.encode(x).double()
    torch.testing.assert_close(z.mean(0), torch.zeros(5).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.T @ z / 200, torch.eye(5).double(), atol=1e-4, rtol=0)
    spectrum = torch.linalg.eigvalsh(x.flatten(1).double().T.cov(correction=0)).flip(0)
    torch.testing.assert_close(space.std.double() ** 2, spectrum[:5], atol=1e-5, rtol=1e-5)
    assert space.explained == pytest.approx(float(spectrum[:5].sum() / spectrum.sum()), rel=1e-6)


def test_all_components_give_the_images_back() -> None:
    data = ImageData(pixels())
    space = LatentSpace.fit(data, 16)
    x = data.take(torch.arange(50), rng()).x
    torch.testing.assert_close(space.decode(space.encode(x)), x, atol=1e-4, rtol=0)
    assert float(space.decode(1e3 * torch.randn(8, 16, generator=rng())).abs().max()) == 1


def test_mirrored_images_are_fitted_too() -> None:
    space = LatentSpace.fit(ImageData(pixels(), flip=True), 16)
    torch.testing.assert_close(space.mean, space.mean.flip(-1), atol=1e-6, rtol=0)


def test_codes_are_drawn_as_the_images_are() -> None:
    data = ImageData(pixels())
    space = LatentSpace.fit(data, 3)
    codes = Encoded(data, space)
    assert (codes.event_shape, codes.num_atoms) == (torch.Size([3]), 200)
    assert torch.equal(codes.draw(7, rng(4)).x, space.encode(data.draw(7, rng(4)).x))


@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [((40, 1, 4, 4), 17, "vary in 16 directions only"), ((4, 3, 64, 64), 2, "resize them with image_size")],
)
def test_a_space_that_cannot_be_is_refused(shape: tuple[int, ...], dim: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        LatentSpace.fit(ImageData(torch.randint(256, shape, generator=rng(), dtype=torch.uint8)), dim)


def test_equal_images_vary_in_no_direction() -> None:
    with pytest.raises(BadInput, match="vary in 0 directions"):
        LatentSpace.fit(ImageData(torch.full((9, 1, 4, 4), 7, dtype=torch.uint8)), 1)


def test_what_is_left_by_rounding_is_no_direction() -> None:
    """One pixel differs by one level in one of 2000 images: a second component was noise, its codes were of size 1."""
    images = pixels(1).repeat(2000, 1, 1, 1)
    images[0, 0, 0, 0] ^= 1
    space = LatentSpace.fit(ImageData(images), 1)
    assert space.std.item() == pytest.approx((2000 / 1999) ** -0.5 * 2000**-0.5 / 127.5, rel=1e-4)
    assert space.explained <= 1
    with pytest.raises(BadInput, match="vary in 1 directions only"):
        LatentSpace.fit(ImageData(images), 2)


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pca") / "run"
    options = {"num_steps": 2, "first_iters": 3, "iters": 3, "batch": 8, "sinkhorn_n": 0, "channels": 8}
    train(Recipe(data=str(pictures), pca=6, **options), folder, device="cpu", progress=False)
    return folder


def test_a_generator_in_a_latent_space_draws_images(run: Path) -> None:
    law = load_generator(run, "cpu")
    images = sample(law, 40, seed=1)
    assert images.shape == (40, 1, 8, 8)
    assert torch.equal(to_uint8(images[:9]), to_uint8(sample(law, 9, seed=1)))
    space = LatentSpace.load(run / LATENT_SPACE, 6, (1, 8, 8))
    inside = images[(images.abs().flatten(1) < 1).all(1)]
    torch.testing.assert_close(space.decode(space.encode(inside)), inside, atol=1e-4, rtol=0)


def test_a_space_without_spread_is_damaged(run: Path, tmp_path: Path) -> None:
    """Every code would decode to the mean."""
    space = LatentSpace.load(run / LATENT_SPACE, 6, (1, 8, 8))
    replace(space, std=space.std * 0).save(tmp_path / LATENT_SPACE)
    with pytest.raises(BadInput, match="fits it anew"):
        LatentSpace.load(tmp_path / LATENT_SPACE, 6, (1, 8, 8))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 20, None])
def test_a_damaged_space_is_named(content: bytes | None, run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / LATENT_SPACE).unlink()
    if content is not None:
        (folder / LATENT_SPACE).write_bytes(content)
    with pytest.raises(BadInput, match="fits it anew"):
        load_generator(folder, "cpu")
